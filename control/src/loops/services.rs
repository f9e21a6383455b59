// SPDX-License-Identifier: Apache-2.0
//! What the three endpoint loops share: Services with their selectors, slices by Service, who wakes whom,
//! and how planned changes of slices are applied.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client, DeleteParams, Object};
use knarr_control_plan::endpoint_slice::{self, MANAGED_BY, SERVICE_NAME, SliceAction};
use knarr_control_plan::pods::PodView;

use super::Context;
use crate::informer::{self, Changed, Informer};
use crate::queue::Queue;

/// A Service, and the selector of its pods where endpoints are made from one.
#[derive(Debug)]
pub(super) struct ServiceView {
    pub(super) service: Service,
    pub(super) selector: Option<Selector>,
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
        let selector = endpoint_slice::selector_of(&service);
        Some(ServiceView { service, selector })
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

/// EndpointSlices by the Service that they belong to.
#[derive(Debug, Clone)]
pub(super) struct Slices {
    all: Informer<EndpointSlice>,
    of_service: Arc<Mutex<HashMap<NamespacedName, HashSet<NamespacedName>>>>,
}

fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let meta = &slice.metadata;
    let service = meta.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(NamespacedName::new(meta.namespace.clone()?, service))
}

impl Slices {
    /// Follows slices; each change wakes the loop that manages it, so that foreign changes are undone.
    pub(super) fn follow(context: &Context, wake: &Wake) -> Result<Self, ApiError> {
        let cache = context.client.cache_of::<EndpointSlice>()?;
        let of_service: Arc<Mutex<HashMap<NamespacedName, HashSet<NamespacedName>>>> =
            Arc::default();
        let (index, wake) = (of_service.clone(), wake.clone());
        let view = |object: &Object| object.parse().ok();
        let changed = move |changed: Changed<'_, EndpointSlice>| {
            let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(service) = changed.old.and_then(|slice| service_of(slice)) {
                if let Some(slices) = index.get_mut(&service) {
                    slices.remove(changed.name);
                    if slices.is_empty() {
                        index.remove(&service);
                    }
                }
                wake.slices.add(service.clone());
                wake.mirror.add(service);
            }
            if let Some(service) = changed.new.and_then(|slice| service_of(slice)) {
                index
                    .entry(service.clone())
                    .or_default()
                    .insert(changed.name.clone());
                wake.slices.add(service.clone());
                wake.mirror.add(service);
            }
        };
        Ok(Self {
            all: informer::start(cache, context.shutdown.clone(), view, changed),
            of_service,
        })
    }

    pub(super) async fn synced(&self) {
        self.all.synced().await;
    }

    pub(super) async fn catch_up(&self) {
        self.all.catch_up().await;
    }

    /// The slices of a Service that `manager` manages, by name.
    pub(super) fn managed(&self, service: &NamespacedName, manager: &str) -> Vec<EndpointSlice> {
        let names: Vec<NamespacedName> = {
            let index = self
                .of_service
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            index.get(service).into_iter().flatten().cloned().collect()
        };
        let slices = names.iter().filter_map(|name| self.all.view(name));
        let is_managed = |slice: &Arc<EndpointSlice>| {
            let labels = slice.metadata.labels.as_ref();
            labels
                .and_then(|labels| labels.get(MANAGED_BY))
                .is_some_and(|by| by == manager)
        };
        let mut managed: Vec<EndpointSlice> = slices
            .filter(is_managed)
            .map(|slice| EndpointSlice::clone(&slice))
            .collect();
        managed.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        managed
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
