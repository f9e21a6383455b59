// SPDX-License-Identifier: Apache-2.0
//! Keeps the EndpointSlices of Services with a selector; `knarr_control_plan::endpoint_slice` decides.

use async_trait::async_trait;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::endpoint_slice::{self, MANAGER, View};
use knarr_control_plan::pods::PodView;

use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::Informer;
use crate::nodes::NodeView;
use crate::queue::Outcome;
use crate::services::{self, ServiceView, SliceView};
use crate::shared::Shared;

const NAME: &str = "endpoint-slice-controller";
/// Services that are reconciled at once.
const WORKERS: usize = 4;

struct EndpointSlices {
    client: Client,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
    slices: Informer<SliceView>,
    nodes: Informer<NodeView>,
}

/// Registers the controller; its keys are names of Services.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let pods = shared.informers().of::<PodView>()?;
    let services = shared.informers().of::<ServiceView>()?;
    let slices = shared.informers().of::<SliceView>()?;
    let nodes = shared.informers().of::<NodeView>()?;
    let selecting = services.clone();
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_itself(&services)
        .watches(&slices, services::queue_service_of_slice)
        .watches(&pods, move |queue, change| {
            services::queue_services_of(queue, &selecting, change);
        })
        .reads(&nodes)
        .reconcile(EndpointSlices {
            client: shared.client(),
            pods,
            services,
            slices,
            nodes,
        }))
}

#[async_trait]
impl Reconcile for EndpointSlices {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.slices.catch_up().await;
        self.services.catch_up().await;
        self.pods.catch_up().await;
        // The garbage collector deletes the slices of a Service that is gone.
        let client = &self.client;
        let Some(service) = services::current(client, name).await? else {
            return Ok(Outcome::Done);
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
        let slices = services::slices_of(&self.slices, name, MANAGER);
        let actions = endpoint_slice::plan(View {
            service: &service,
            pods: &pods,
            zone_of: &zone_of,
            slices: &slices,
        });
        services::apply(client, &name.namespace, actions).await?;
        Ok(Outcome::Done)
    }
}
