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
use crate::queue::{Outcome, Queue};

/// Services that are looked at at once: few have Endpoints made by hand.
const WORKERS: usize = 1;

struct Loop {
    context: Context,
    services: Informer<ServiceView>,
    slices: Slices,
    endpoints: Informer<Endpoints>,
}

/// Runs the loop until shutdown; `queue` holds names of Services.
pub(super) async fn run(
    context: Context,
    services: Informer<ServiceView>,
    slices: Slices,
    queue: Queue<NamespacedName>,
) {
    let cache = match context.client.cache_of::<Endpoints>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(%error, "Endpoints are not served");
            return;
        }
    };
    let waiting = queue.clone();
    let view = |object: &Object| object.parse().ok();
    let endpoints = informer::start(cache, context.shutdown.clone(), view, move |changed| {
        waiting.add(changed.name.clone());
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
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move {
                match this.reconcile(&name).await {
                    Ok(()) => Outcome::Done,
                    Err(error) if error.is_conflict() || error.is_not_found() => Outcome::Retry,
                    Err(error) => {
                        tracing::warn!(service = %name, %error, "Endpoints were not mirrored");
                        Outcome::Retry
                    }
                }
            }
        })
        .await;
}

impl Loop {
    async fn reconcile(&self, name: &NamespacedName) -> Result<(), ApiError> {
        self.context.client.sync().await?;
        self.services.catch_up().await;
        self.slices.catch_up().await;
        self.endpoints.catch_up().await;
        let endpoints = self.endpoints.view(name);
        let service = self.services.view(name);
        let slices = self.slices.managed(name, MANAGER);
        let service = service.as_ref().map(|view| &view.service);
        let actions = endpoint_mirror::plan(endpoints.as_deref(), service, &slices);
        services::apply(&self.context.client, &name.namespace, actions).await
    }
}
