// SPDX-License-Identifier: Apache-2.0
//! Keeps the EndpointSlices of Services with a selector; `knarr_control_plan::endpoint_slice` decides.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Object};
use knarr_control_plan::endpoint_slice::{self, MANAGER, View};
use knarr_control_plan::pods::PodView;

use super::Context;
use super::services::{self, ServiceView, Slices};
use crate::informer::{self, Informer};
use crate::queue::{Outcome, Queue};

/// Services that are looked at at once.
const WORKERS: usize = 4;
/// Well-known label of a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// A node's zone, where it has one.
struct Zone(Option<String>);

struct Loop {
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    slices: Slices,
    zones: Informer<Zone>,
}

/// Runs the loop until shutdown; `queue` holds names of Services.
pub(super) async fn run(
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    slices: Slices,
    queue: Queue<NamespacedName>,
) {
    let cache = match context.client.cache_of::<Node>() {
        Ok(cache) => cache,
        Err(error) => {
            tracing::error!(%error, "Nodes are not served");
            return;
        }
    };
    let view = |object: &Object| Some(Zone(object.meta.label(ZONE).map(str::to_owned)));
    let zones = informer::start(cache, context.shutdown.clone(), view, |_| {});
    services.synced().await;
    slices.synced().await;
    pods.synced().await;
    zones.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        pods,
        services,
        slices,
        zones,
    });
    queue
        .work(WORKERS, shutdown, move |name| {
            let this = this.clone();
            async move {
                match this.reconcile(&name).await {
                    Ok(()) => Outcome::Done,
                    Err(error) if error.is_conflict() || error.is_not_found() => Outcome::Retry,
                    Err(error) => {
                        tracing::warn!(service = %name, %error, "EndpointSlices were not written");
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
        self.slices.catch_up().await;
        self.services.catch_up().await;
        self.pods.catch_up().await;
        // Slices of a Service that is gone are the garbage collector's.
        let Some(view) = self.services.view(name) else {
            return Ok(());
        };
        let selected = match &view.selector {
            Some(selector) => self
                .pods
                .select_in(&name.namespace, |pod| selector.matches(&*pod.labels)),
            None => Vec::new(),
        };
        let pods: Vec<&PodView> = selected.iter().map(|(_, pod)| &**pod).collect();
        let zone_of = |node: &str| {
            let zone = self.zones.view(&NamespacedName::cluster(node))?;
            zone.0.clone()
        };
        let slices = self.slices.managed(name, MANAGER);
        let actions = endpoint_slice::plan(View {
            service: &view.service,
            pods: &pods,
            zone_of: &zone_of,
            slices: &slices,
        });
        services::apply(&self.context.client, &name.namespace, actions).await
    }
}
