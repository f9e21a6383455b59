// SPDX-License-Identifier: Apache-2.0
//! What the three controllers of endpoints share: Services with their selectors, slices by Service, and how planned
//! changes of slices are applied.

use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object};
use knarr_control_plan::endpoint_slice::{self, MANAGED_BY, SERVICE_NAME, SliceAction};
use knarr_control_plan::pods::PodView;

use crate::informer::{Change, Informer, View};
use crate::queue::Queue;

/// What is kept of a Service: the selector of its pods, if its endpoints are made from one.
#[derive(Debug)]
pub(crate) struct ServiceView {
    selector: Option<Selector>,
}

impl View for ServiceView {
    type Kind = Service;

    fn of(object: &Object) -> Option<Self> {
        let service: Service = object.parse().ok()?;
        Some(Self {
            selector: endpoint_slice::selector_of(&service),
        })
    }
}

/// A Service as it is now; `None` when it is gone.
pub(crate) async fn current(
    client: &Client,
    name: &NamespacedName,
) -> Result<Option<Service>, ApiError> {
    match client.get::<Service>(name.namespace(), &name.name).await {
        Ok(service) => Ok(Some(service)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the Services that select a changed pod, before or after the change.
pub(crate) fn queue_services_of(
    queue: &Queue<NamespacedName>,
    services: &Informer<ServiceView>,
    change: &Change<'_, PodView>,
) {
    if change.old == change.new {
        return;
    }
    let selects = |service: &ServiceView| {
        let selector = service.selector.as_ref();
        selector.is_some_and(|selector| change.views().any(|pod| selector.matches(&*pod.labels)))
    };
    for (name, _) in services.select_in(&change.name.namespace, selects) {
        queue.add(name);
    }
}

/// What is kept of a slice: the Service that it belongs to.
#[derive(Debug)]
pub(crate) struct SliceView {
    service: NamespacedName,
}

impl View for SliceView {
    type Kind = EndpointSlice;

    fn of(object: &Object) -> Option<Self> {
        let service = object.meta.label(SERVICE_NAME)?;
        let service = NamespacedName::new(&*object.meta.namespace, service);
        Some(Self { service })
    }

    fn index(&self) -> Vec<String> {
        vec![self.service.to_string()]
    }
}

/// Adds the Service of a changed slice, so that foreign changes are undone.
pub(crate) fn queue_service_of_slice(
    queue: &Queue<NamespacedName>,
    change: &Change<'_, SliceView>,
) {
    for view in change.views() {
        queue.add(view.service.clone());
    }
}

/// The slices of a Service that `manager` manages, by name.
pub(crate) fn slices_of(
    slices: &Informer<SliceView>,
    service: &NamespacedName,
    manager: &str,
) -> Vec<EndpointSlice> {
    let names = slices.indexed_names(&service.to_string());
    let objects = names.iter().filter_map(|name| slices.object(name));
    let managed = objects.filter(|object| object.meta.label(MANAGED_BY) == Some(manager));
    managed.filter_map(|object| object.parse().ok()).collect()
}

/// Applies planned changes of slices in their order.
pub(crate) async fn apply(
    client: &Client,
    namespace: &str,
    actions: Vec<SliceAction>,
) -> Result<(), ApiError> {
    for action in actions {
        match action {
            SliceAction::Create(slice) => {
                client.create(&*slice).await?;
            }
            SliceAction::Update(slice) => {
                client.update(&*slice).await?;
            }
            SliceAction::Delete { name, uid } => {
                let params = DeleteParams {
                    uid: Some(uid),
                    ..DeleteParams::default()
                };
                match client
                    .delete::<EndpointSlice>(Some(namespace), &name, &params)
                    .await
                {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
        }
    }
    Ok(())
}
