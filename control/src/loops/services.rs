// SPDX-License-Identifier: Apache-2.0
//! What the three endpoint loops share: Services with their selectors, slices by Service, who wakes whom,
//! and how planned changes of slices are applied.

use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Cache, Client, DeleteParams, Object};
use knarr_control_plan::endpoint_slice::{self, MANAGED_BY, SERVICE_NAME, SliceAction};
use knarr_control_plan::pods::PodView;

use super::Context;
use crate::informer::{self, Changed, Informer};
use crate::queue::Queue;

/// What is kept of a Service: the selector of its pods, where endpoints are made from one.
#[derive(Debug)]
pub(super) struct ServiceView {
    pub(super) selector: Option<Selector>,
}

/// A Service as it is now; `None` when it is gone.
pub(super) async fn current(
    client: &Client,
    name: &NamespacedName,
) -> Result<Option<Service>, ApiError> {
    match client.get::<Service>(name.namespace(), &name.name).await {
        Ok(service) => Ok(Some(service)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Queues of Service names that a change wakes.
#[derive(Debug, Clone)]
pub(super) struct Wake {
    pub(super) slices: Queue<NamespacedName>,
    pub(super) endpoints: Queue<NamespacedName>,
    pub(super) mirror: Queue<NamespacedName>,
}

/// Follows Services; each change wakes all three loops.
pub(super) fn follow_services(
    context: &Context,
    wake: &Wake,
) -> Result<Informer<ServiceView>, ApiError> {
    let cache = context.client.cache_of::<Service>()?;
    let wake = wake.clone();
    let view = |object: &Object| {
        let service: Service = object.parse().ok()?;
        Some(ServiceView {
            selector: endpoint_slice::selector_of(&service),
        })
    };
    Ok(informer::start(
        cache,
        context.shutdown.clone(),
        view,
        move |changed| {
            for queue in [&wake.slices, &wake.endpoints, &wake.mirror] {
                queue.add(changed.name.clone());
            }
        },
    ))
}

/// Wakes the loops for the Services that select a changed pod, before or after the change.
pub(super) fn pod_changed(
    services: &Informer<ServiceView>,
    wake: &Wake,
    changed: &Changed<'_, PodView>,
) {
    if changed.old == changed.new {
        return;
    }
    let selects = |service: &ServiceView, pod: Option<&Arc<PodView>>| {
        let selector = service.selector.as_ref();
        selector.is_some_and(|selector| pod.is_some_and(|pod| selector.matches(&*pod.labels)))
    };
    let concerned = services.select_in(&changed.name.namespace, |service| {
        selects(service, changed.old) || selects(service, changed.new)
    });
    for (name, _) in concerned {
        wake.slices.add(name.clone());
        wake.endpoints.add(name);
    }
}

/// What is kept of a slice: the Service that it belongs to.
#[derive(Debug)]
struct SliceView {
    service: NamespacedName,
}

fn slice_keys(view: &SliceView) -> Vec<String> {
    vec![view.service.to_string()]
}

/// EndpointSlices by the Service that they belong to.
#[derive(Debug, Clone)]
pub(super) struct Slices {
    views: Informer<SliceView>,
    cache: Cache,
}

impl Slices {
    /// Follows slices; each change wakes the loops that manage slices, so that foreign changes are undone.
    pub(super) fn follow(context: &Context, wake: &Wake) -> Result<Self, ApiError> {
        let cache = context.client.cache_of::<EndpointSlice>()?;
        let wake = wake.clone();
        let view = |object: &Object| {
            let service = object.meta.label(SERVICE_NAME)?;
            let service = NamespacedName::new(&*object.meta.namespace, service);
            Some(SliceView { service })
        };
        let changed = move |changed: Changed<'_, SliceView>| {
            for view in [changed.old, changed.new].into_iter().flatten() {
                wake.slices.add(view.service.clone());
                wake.mirror.add(view.service.clone());
            }
        };
        let shutdown = context.shutdown.clone();
        Ok(Self {
            views: informer::start_indexed(cache.clone(), shutdown, slice_keys, view, changed),
            cache,
        })
    }

    pub(super) async fn synced(&self) {
        self.views.synced().await;
    }

    pub(super) async fn catch_up(&self) {
        self.views.catch_up().await;
    }

    /// The slices of a Service that `manager` manages, by name.
    pub(super) fn managed(&self, service: &NamespacedName, manager: &str) -> Vec<EndpointSlice> {
        let names = self.views.indexed_names(&service.to_string());
        let objects = names
            .iter()
            .filter_map(|name| self.cache.get(&name.namespace, &name.name));
        let managed = objects.filter(|object| object.meta.label(MANAGED_BY) == Some(manager));
        managed.filter_map(|object| object.parse().ok()).collect()
    }
}

/// Applies planned changes of slices in their order.
pub(super) async fn apply(
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
