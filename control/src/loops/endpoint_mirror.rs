// SPDX-License-Identifier: Apache-2.0
//! Mirrors hand-made Endpoints into EndpointSlices; `knarr_control_plan::endpoint_mirror` decides.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Endpoints;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Object};
use knarr_control_plan::endpoint_mirror::{self, MANAGER};

use super::Context;
use super::services::{self, ServiceView, Slices};
use crate::informer::{self, Informer};
use crate::queue::Queue;

/// Services that are looked at at once: few have Endpoints made by hand.
const WORKERS: usize = 1;

struct Loop {
    context: Context,
    services: Informer<ServiceView>,
    slices: Slices,
    endpoints: Informer<()>,
}

/// Runs the loop until shutdown; `queue` holds names of Services. Changed Endpoints wake `endpoints_queue` too.
pub(super) async fn run(
    context: Context,
    services: Informer<ServiceView>,
    slices: Slices,
    queue: Queue<NamespacedName>,
    endpoints_queue: Queue<NamespacedName>,
) {
    let cache = match context.client.cache_of::<Endpoints>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(%error, "Endpoints are not served");
            return;
        }
    };
    let waiting = queue.clone();
    let managed = endpoints_queue;
    let view = |_: &Object| Some(());
    let endpoints = informer::start(cache, context.shutdown.clone(), view, move |changed| {
        waiting.add(changed.name.clone());
        // Those made from pods are put right again by their own loop.
        managed.add(changed.name.clone());
    });
    services.synced().await;
    slices.synced().await;
    endpoints.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        services,
        slices,
        endpoints,
    });
    let what = "the mirror of the Endpoints";
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
        self.slices.catch_up().await;
        self.endpoints.catch_up().await;
        let client = &self.context.client;
        let service = services::current(client, name).await?;
        let endpoints = match client.get::<Endpoints>(name.namespace(), &name.name).await {
            Ok(endpoints) => Some(endpoints),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let slices = self.slices.managed(name, MANAGER);
        let actions = endpoint_mirror::plan(endpoints.as_ref(), service.as_ref(), &slices);
        services::apply(client, &name.namespace, actions).await
    }
}
