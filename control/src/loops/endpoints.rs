// SPDX-License-Identifier: Apache-2.0
//! Keeps the Endpoints objects of Services with a selector; `knarr_control_plan::endpoints` decides.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Endpoints;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, DeleteParams};
use knarr_control_plan::endpoint_slice;
use knarr_control_plan::endpoints::{self, EndpointsAction, MANAGED_BY};
use knarr_control_plan::pods::PodView;

use super::Context;
use super::services::{self, ServiceView};
use crate::informer::Informer;
use crate::queue::Queue;

/// Services that are looked at at once.
const WORKERS: usize = 4;

struct Loop {
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
}

/// Runs the loop until shutdown; `queue` holds names of Services.
pub(super) async fn run(
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    queue: Queue<NamespacedName>,
) {
    services.synced().await;
    pods.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        pods,
        services,
    });
    let what = "the Endpoints of the Service";
    super::work(queue, WORKERS, shutdown, what, move |name| {
        let this = this.clone();
        async move { this.reconcile(&name).await }
    })
    .await;
}

impl Loop {
    async fn reconcile(&self, name: &NamespacedName) -> Result<(), ApiError> {
        self.context.client.sync().await?;
        self.services.catch_up().await;
        self.pods.catch_up().await;
        let client = &self.context.client;
        let current = client.get::<Endpoints>(name.namespace(), &name.name).await;
        let current = match current {
            Ok(current) => Some(current),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(service) = services::current(client, name).await? else {
            return self.clean_up(name, current).await;
        };
        let Some(selector) = endpoint_slice::selector_of(&service) else {
            return Ok(());
        };
        let selected = self
            .pods
            .select_in(&name.namespace, |pod| selector.matches(&*pod.labels));
        let pods: Vec<&PodView> = selected.iter().map(|(_, pod)| &**pod).collect();
        match endpoints::plan(&service, &pods, current.as_ref()) {
            None => {}
            Some(EndpointsAction::Create(object)) => {
                client.create(&*object).await?;
            }
            Some(EndpointsAction::Update(object)) => {
                client.update(&*object).await?;
            }
        }
        Ok(())
    }

    /// A Service that is gone takes its Endpoints with it.
    async fn clean_up(
        &self,
        name: &NamespacedName,
        current: Option<Endpoints>,
    ) -> Result<(), ApiError> {
        let Some(current) = current.filter(|current| endpoints::is_left_over(&current.metadata))
        else {
            return Ok(());
        };
        let labels = current.metadata.labels.as_ref();
        if labels.is_none_or(|labels| !labels.contains_key(MANAGED_BY)) {
            // Written by hand, possibly before its Service.
            return Ok(());
        }
        let params = DeleteParams {
            uid: current.metadata.uid,
            ..DeleteParams::default()
        };
        let client = &self.context.client;
        match client
            .delete::<Endpoints>(name.namespace(), &name.name, &params)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
