// SPDX-License-Identifier: Apache-2.0
//! What every namespace has: the ServiceAccount `default` and the cluster's CA in `kube-root-ca.crt`.
//!
//! Programs and Helm charts rely on both. They are made again when somebody deletes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_apiserver::{ApiError, Object};

use super::Context;
use crate::informer;
use crate::queue::{Outcome, Queue};

/// Namespaces that are furnished together.
const WORKERS: usize = 2;
const ACCOUNT: &str = "default";
const CA_MAP: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

struct Loop {
    context: Context,
    ca_pem: String,
}

/// Runs the loop until shutdown.
pub(super) async fn run(context: Context, ca_pem: String) {
    let client = &context.client;
    let caches = (
        client.cache_of::<Namespace>(),
        client.cache_of::<ServiceAccount>(),
        client.cache_of::<ConfigMap>(),
    );
    let (Ok(namespaces), Ok(accounts), Ok(maps)) = caches else {
        tracing::error!("Namespaces, ServiceAccounts or ConfigMaps are not served");
        return;
    };
    let queue: Queue<String> = Queue::new();
    let shutdown = &context.shutdown;
    let waiting = queue.clone();
    let namespaces = informer::start(
        namespaces,
        shutdown.clone(),
        |object: &Object| (!object.meta.is_deleting()).then_some(()),
        move |changed| {
            if changed.old.is_none() {
                waiting.add(changed.name.name.clone());
            }
        },
    );
    let waiting = queue.clone();
    let named = |name: &'static str| {
        move |object: &Object| (&*object.meta.name == name).then_some(object.meta.resource_version)
    };
    let accounts = informer::start(accounts, shutdown.clone(), named(ACCOUNT), move |changed| {
        if changed.new.is_none() {
            waiting.add(changed.name.namespace.clone());
        }
    });
    let waiting = queue.clone();
    let maps = informer::start(maps, shutdown.clone(), named(CA_MAP), move |changed| {
        waiting.add(changed.name.namespace.clone());
    });
    namespaces.synced().await;
    accounts.synced().await;
    maps.synced().await;
    let shutdown = shutdown.clone();
    let this = Arc::new(Loop { context, ca_pem });
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move { this.reconcile(&name).await }
        })
        .await;
}

impl Loop {
    async fn reconcile(&self, name: &str) -> Outcome {
        match self.try_reconcile(name).await {
            Ok(()) => Outcome::Done,
            Err(error) => super::failed("what every namespace has", &name, &error),
        }
    }

    async fn try_reconcile(&self, name: &str) -> Result<(), ApiError> {
        let client = &self.context.client;
        match client.get::<Namespace>(None, name).await {
            Ok(namespace) if namespace.metadata.deletion_timestamp.is_some() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        match client.get::<ServiceAccount>(Some(name), ACCOUNT).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => self.create_account(name).await?,
            Err(error) => return Err(error),
        }
        match client.get::<ConfigMap>(Some(name), CA_MAP).await {
            Ok(map) => self.correct_map(map).await,
            Err(error) if error.is_not_found() => self.create_map(name).await,
            Err(error) => Err(error),
        }
    }

    async fn create_account(&self, namespace: &str) -> Result<(), ApiError> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(ACCOUNT.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        created(self.context.client.create(&account).await)
    }

    fn data(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(CA_KEY.to_owned(), self.ca_pem.clone())])
    }

    async fn create_map(&self, namespace: &str) -> Result<(), ApiError> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CA_MAP.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            data: Some(self.data()),
            ..ConfigMap::default()
        };
        created(self.context.client.create(&map).await)
    }

    async fn correct_map(&self, mut map: ConfigMap) -> Result<(), ApiError> {
        if map.data.as_ref() == Some(&self.data()) {
            return Ok(());
        }
        map.data = Some(self.data());
        self.context.client.update(&map).await.map(|_| ())
    }
}

/// Somebody else having made it meanwhile is as good.
fn created<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}
