// SPDX-License-Identifier: Apache-2.0
//! Keeps the EndpointSlices of Services with a selector; `knarr_control_plan::endpoint_slice` decides.

use std::sync::Arc;

use knarr_api::names::NamespacedName;
use knarr_apiserver::ApiError;
use knarr_control_plan::endpoint_slice::{self, MANAGER, View};
use knarr_control_plan::pods::PodView;

use super::Context;
use super::nodes::Nodes;
use super::services::{self, ServiceView, Slices};
use crate::informer::Informer;
use crate::queue::Queue;

/// Services that are looked at at once.
const WORKERS: usize = 4;
struct Loop {
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    slices: Slices,
    nodes: Nodes,
}

/// Runs the loop until shutdown; `queue` holds names of Services.
pub(super) async fn run(
    context: Context,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    slices: Slices,
    nodes: Nodes,
    queue: Queue<NamespacedName>,
) {
    services.synced().await;
    slices.synced().await;
    pods.synced().await;
    nodes.synced().await;
    let shutdown = context.shutdown.clone();
    let this = Arc::new(Loop {
        context,
        pods,
        services,
        slices,
        nodes,
    });
    let what = "the EndpointSlices of the Service";
    super::work(queue, WORKERS, shutdown, what, move |name| {
        let this = this.clone();
        async move { this.reconcile(&name).await }
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
        let client = &self.context.client;
        let Some(service) = services::current(client, name).await? else {
            return Ok(());
        };
        let selected = match endpoint_slice::selector_of(&service) {
            Some(selector) => self
                .pods
                .select_in(&name.namespace, |pod| selector.matches(&*pod.labels)),
            None => Vec::new(),
        };
        let pods: Vec<&PodView> = selected.iter().map(|(_, pod)| &**pod).collect();
        let zone_of = |node: &str| {
            let node = self.nodes.view(&NamespacedName::cluster(node))?;
            node.zone.clone()
        };
        let slices = self.slices.managed(name, MANAGER);
        let actions = endpoint_slice::plan(View {
            service: &service,
            pods: &pods,
            zone_of: &zone_of,
            slices: &slices,
        });
        services::apply(client, &name.namespace, actions).await
    }
}
