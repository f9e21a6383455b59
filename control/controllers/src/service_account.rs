// SPDX-License-Identifier: Apache-2.0
//! What every namespace has: the ServiceAccount `default` and the cluster's CA in `kube-root-ca.crt`.
//!
//! Programs and Helm charts rely on both. They are created again when they are deleted.

use std::collections::BTreeMap;

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, Object};

use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::View;
use crate::namespace::NamespaceView;
use crate::queue::Outcome;
use crate::shared::Shared;

const NAME: &str = "service-account-controller";
/// Namespaces that are reconciled at once.
const WORKERS: usize = 2;
const ACCOUNT: &str = "default";
const CA_MAP: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

/// The ServiceAccount that every namespace has.
struct DefaultAccount;

impl View for DefaultAccount {
    type Kind = ServiceAccount;

    fn of(object: &Object) -> Option<Self> {
        (&*object.meta.name == ACCOUNT).then_some(Self)
    }
}

/// The ConfigMap that every namespace has.
struct CaMap;

impl View for CaMap {
    type Kind = ConfigMap;

    fn of(object: &Object) -> Option<Self> {
        (&*object.meta.name == CA_MAP).then_some(Self)
    }
}

struct ServiceAccounts {
    client: Client,
    ca_pem: String,
}

/// Registers the controller; its keys are names of namespaces.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let namespaces = shared.informers().of::<NamespaceView>()?;
    let accounts = shared.informers().of::<DefaultAccount>()?;
    let maps = shared.informers().of::<CaMap>()?;
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches(&namespaces, |queue, change| {
            // A namespace that was made again may replace the old one in a single change.
            let began = change.old.is_none_or(|old| old.is_terminating);
            if began && change.new.is_some_and(|view| !view.is_terminating) {
                queue.add(change.name.clone());
            }
        })
        .watches(&accounts, |queue, change| {
            if change.new.is_none() {
                queue.add(NamespacedName::cluster(change.name.namespace.as_str()));
            }
        })
        .watches(&maps, |queue, change| {
            queue.add(NamespacedName::cluster(change.name.namespace.as_str()));
        })
        .reconcile(ServiceAccounts {
            client: shared.client(),
            ca_pem: shared.settings().ca_pem.clone(),
        }))
}

#[async_trait]
impl Reconcile for ServiceAccounts {
    type Key = NamespacedName;

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ApiError> {
        let name = key.name.as_str();
        match self.client.get::<Namespace>(None, name).await {
            Ok(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                return Ok(Outcome::Done);
            }
            Ok(_) => {}
            Err(error) if error.is_not_found() => return Ok(Outcome::Done),
            Err(error) => return Err(error),
        }
        match self.client.get::<ServiceAccount>(Some(name), ACCOUNT).await {
            Ok(_) => {}
            Err(error) if error.is_not_found() => self.create_account(name).await?,
            Err(error) => return Err(error),
        }
        match self.client.get::<ConfigMap>(Some(name), CA_MAP).await {
            Ok(map) => self.correct_map(map).await?,
            Err(error) if error.is_not_found() => self.create_map(name).await?,
            Err(error) => return Err(error),
        }
        Ok(Outcome::Done)
    }
}

impl ServiceAccounts {
    async fn create_account(&self, namespace: &str) -> Result<(), ApiError> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(ACCOUNT.to_owned()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceAccount::default()
        };
        created(self.client.create(&account).await)
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
        created(self.client.create(&map).await)
    }

    async fn correct_map(&self, mut map: ConfigMap) -> Result<(), ApiError> {
        if map.data.as_ref() == Some(&self.data()) {
            return Ok(());
        }
        map.data = Some(self.data());
        self.client.update(&map).await.map(|_| ())
    }
}

/// An object that was created by others meanwhile is as good.
fn created<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error) if !error.is_already_exists() => Err(error),
        _ => Ok(()),
    }
}
