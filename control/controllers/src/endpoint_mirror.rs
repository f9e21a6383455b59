// SPDX-License-Identifier: Apache-2.0
//! Mirrors hand-made Endpoints into EndpointSlices; `knarr_control_plan::endpoint_mirror` decides.

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::Endpoints;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::endpoint_mirror::{self, MANAGER};

use crate::controller::{Controller, Reconcile, Registration};
use crate::endpoints::EndpointsView;
use crate::informer::Informer;
use crate::queue::Outcome;
use crate::services::{self, ServiceView, SliceView};
use crate::shared::Shared;

const NAME: &str = "endpoint-slice-mirroring-controller";
/// Services that are reconciled at once: few have Endpoints made by hand.
const WORKERS: usize = 1;

struct EndpointMirror {
    client: Client,
    services: Informer<ServiceView>,
    slices: Informer<SliceView>,
    endpoints: Informer<EndpointsView>,
}

/// Registers the controller; its keys are names of Services.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let services = shared.informers().of::<ServiceView>()?;
    let slices = shared.informers().of::<SliceView>()?;
    let endpoints = shared.informers().of::<EndpointsView>()?;
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_itself(&services)
        .watches_itself(&endpoints)
        .watches(&slices, services::queue_service_of_slice)
        .reconcile(EndpointMirror {
            client: shared.client(),
            services,
            slices,
            endpoints,
        }))
}

#[async_trait]
impl Reconcile for EndpointMirror {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.services.catch_up().await;
        self.slices.catch_up().await;
        self.endpoints.catch_up().await;
        let client = &self.client;
        let service = services::current(client, name).await?;
        let endpoints = match client.get::<Endpoints>(name.namespace(), &name.name).await {
            Ok(endpoints) => Some(endpoints),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let slices = services::slices_of(&self.slices, name, MANAGER);
        let actions = endpoint_mirror::plan(endpoints.as_ref(), service.as_ref(), &slices);
        services::apply(client, &name.namespace, actions).await?;
        Ok(Outcome::Done)
    }
}
