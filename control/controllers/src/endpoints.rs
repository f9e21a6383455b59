// SPDX-License-Identifier: Apache-2.0
//! Keeps the Endpoints objects of Services with a selector; `knarr_control_plan::endpoints` decides.

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::Endpoints;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object};
use knarr_control_plan::endpoint_slice;
use knarr_control_plan::endpoints::{self, EndpointsAction, MANAGED_BY};
use knarr_control_plan::pods::PodView;

use crate::controller::{Controller, Reconcile, Registration};
use crate::informer::{Informer, View};
use crate::queue::Outcome;
use crate::services::{self, ServiceView};
use crate::shared::Shared;

const NAME: &str = "endpoint-controller";
/// Services that are reconciled at once.
const WORKERS: usize = 4;

/// Endpoints that exist; only their name matters.
pub(crate) struct EndpointsView;

impl View for EndpointsView {
    type Kind = Endpoints;

    fn of(_: &Object) -> Option<Self> {
        Some(Self)
    }
}

struct ServiceEndpoints {
    client: Client,
    pods: Informer<PodView>,
    services: Informer<ServiceView>,
}

/// Registers the controller; its keys are names of Services.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let pods = shared.informers().of::<PodView>()?;
    let services = shared.informers().of::<ServiceView>()?;
    let endpoints = shared.informers().of::<EndpointsView>()?;
    let selecting = services.clone();
    Ok(Controller::new(shared, NAME, WORKERS)
        .watches_itself(&services)
        // Foreign changes of Endpoints that are made from pods are undone.
        .watches_itself(&endpoints)
        .watches(&pods, move |queue, change| {
            services::queue_services_of(queue, &selecting, change);
        })
        .reconcile(ServiceEndpoints {
            client: shared.client(),
            pods,
            services,
        }))
}

#[async_trait]
impl Reconcile for ServiceEndpoints {
    type Key = NamespacedName;

    async fn reconcile(&self, name: &NamespacedName) -> Result<Outcome, ApiError> {
        self.client.sync().await?;
        self.services.catch_up().await;
        self.pods.catch_up().await;
        let client = &self.client;
        let current = client.get::<Endpoints>(name.namespace(), &name.name).await;
        let current = match current {
            Ok(current) => Some(current),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(service) = services::current(client, name).await? else {
            self.clean_up(name, current).await?;
            return Ok(Outcome::Done);
        };
        let Some(selector) = endpoint_slice::selector_of(&service) else {
            return Ok(Outcome::Done);
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
        Ok(Outcome::Done)
    }
}

impl ServiceEndpoints {
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
        let client = &self.client;
        match client
            .delete::<Endpoints>(name.namespace(), &name.name, &params)
            .await
        {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
