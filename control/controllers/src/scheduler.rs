// SPDX-License-Identifier: Apache-2.0
//! Binds pods to nodes. Decides nothing: `knarr_control_plan::scheduler` does.
//!
//! One task feeds the scheduler's plan with changes and asks it for one decision after the other. Bindings are written by
//! other tasks, several at once, and the plan counts each pod on its node meanwhile. It is a loop of its own and no keyed
//! queue, because its pods are tried by priority and each decision depends on the one before.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use knarr_api::k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Client};
use knarr_control_plan::reason::EventReason;
use knarr_control_plan::scheduler::{self, Binding, Decision, unschedulable_status};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::clock;
use crate::controller::{Registration, Scope};
use crate::informer::name_of;
use crate::metrics::PendingPods;
use crate::recorder::{Recorder, reference};
use crate::reflector::{Reflector, WatchEvent};
use crate::shared::Shared;

const NAME: &str = "default-scheduler";
/// Bindings in flight at once: enough to fill the store's commits.
const BINDINGS_MAX: usize = 64;
/// Pods decided before changes are taken in again.
const BATCH_MAX: usize = 256;
/// Reasons that are written at once; fewer than bindings, which matter more.
const NOTIFICATIONS_MAX: usize = 16;
/// How often writing a reason is tried to a pod that keeps changing; after that it gets its next reason.
const CONFLICTS_MAX: usize = 4;
/// How long a pod waits whose binding failed: as long as the store may need to recover, and short enough to go unnoticed.
const REBIND_AFTER: Duration = Duration::from_secs(1);

/// How a binding ended.
struct Bound {
    uid: Arc<str>,
    failed: Option<Failure>,
}

/// Why a pod was not bound.
enum Failure {
    Refused(ApiError),
    /// The task that was to bind it panicked.
    Panicked,
}

/// Whether a pod's status has the reason why no node fits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    pending: PendingPods,
    nodes: Reflector,
    services: Reflector,
    pods: Reflector,
    plan: scheduler::Scheduler,
    bindings: JoinSet<Bound>,
    slots: Arc<Semaphore>,
    notifications: JoinSet<(Arc<str>, Written)>,
}

/// Registers the scheduler.
pub(crate) fn register(shared: &Shared) -> Result<Registration, ApiError> {
    let scheduler = Scheduler::new(shared)?;
    Ok(Registration::of_loop(NAME, |scope| scheduler.run(scope)))
}

impl Scheduler {
    fn new(shared: &Shared) -> Result<Self, ApiError> {
        let client = shared.client();
        Ok(Self {
            nodes: Reflector::new(client.cache_of::<Node>()?),
            services: Reflector::new(client.cache_of::<Service>()?),
            pods: Reflector::new(client.cache_of::<Pod>()?),
            client,
            recorder: shared.recorder(NAME),
            pending: shared.metrics().pending_pods(),
            plan: scheduler::Scheduler::default(),
            bindings: JoinSet::new(),
            slots: Arc::new(Semaphore::new(BINDINGS_MAX)),
            notifications: JoinSet::new(),
        })
    }

    async fn run(mut self, scope: Scope) {
        // Safe to drop: a pod whose binding is not written is decided for again at the next start.
        tokio::select! {
            () = self.work(&scope) => {}
            () = scope.stop.cancelled() => {}
        }
    }

    async fn work(&mut self, scope: &Scope) {
        loop {
            self.take_in();
            if self.schedule_some(scope).await {
                continue;
            }
            self.start_notifications(scope);
            let retry_at = self.plan.retry_at().map(Instant::from_std);
            // Safe to drop: each arm only waits for something that stays where it is.
            tokio::select! {
                event = self.nodes.next() => self.apply_node(event),
                event = self.services.next() => self.apply_service(event),
                event = self.pods.next() => self.apply_pod(event),
                Some(bound) = self.bindings.join_next() => self.settle(bound),
                Some(notified) = self.notifications.join_next() => self.notified(notified),
                () = until(retry_at) => self.plan.retry_notifications(now()),
            }
        }
    }

    /// Takes in everything that has happened: how bindings and notifications ended, and changes.
    fn take_in(&mut self) {
        while let Some(bound) = self.bindings.try_join_next() {
            self.settle(bound);
        }
        while let Some(notified) = self.notifications.try_join_next() {
            self.notified(notified);
        }
        while let Some(event) = self.nodes.try_next() {
            self.apply_node(event);
        }
        while let Some(event) = self.services.try_next() {
            self.apply_service(event);
        }
        while let Some(event) = self.pods.try_next() {
            self.apply_pod(event);
        }
    }

    fn apply_node(&mut self, event: WatchEvent) {
        if let WatchEvent::Replaced(objects) = &event {
            let names: HashSet<&str> = objects.iter().map(|object| &*object.meta.name).collect();
            self.plan.retain_nodes(|name| names.contains(name));
        }
        if let WatchEvent::Deleted(object) = &event {
            self.plan.remove_node(&object.meta.name);
        }
        for object in event.present() {
            // An object that cannot be read is not scheduled to, and not forgotten either.
            if let Ok(node) = object.parse::<Node>() {
                self.plan.set_node(&node);
            }
        }
    }

    fn apply_service(&mut self, event: WatchEvent) {
        if let WatchEvent::Replaced(objects) = &event {
            let names: HashSet<NamespacedName> =
                objects.iter().map(|object| name_of(object)).collect();
            self.plan.retain_services(|name| names.contains(name));
        }
        if let WatchEvent::Deleted(object) = &event {
            self.plan.remove_service(&name_of(object));
        }
        for object in event.present() {
            if let Ok(service) = object.parse::<Service>() {
                self.plan.set_service(&name_of(object), &service);
            }
        }
    }

    fn apply_pod(&mut self, event: WatchEvent) {
        if let WatchEvent::Replaced(objects) = &event {
            let names: HashSet<NamespacedName> =
                objects.iter().map(|object| name_of(object)).collect();
            self.plan.retain_pods(|name| names.contains(name));
        }
        if let WatchEvent::Deleted(object) = &event {
            self.plan.remove_pod(&name_of(object));
        }
        for object in event.present() {
            if let Ok(pod) = object.parse::<Pod>() {
                self.plan.set_pod(&pod);
            }
        }
    }

    /// Carries out the next decisions. False when there was none left.
    async fn schedule_some(&mut self, scope: &Scope) -> bool {
        let mut is_left = true;
        for _ in 0..BATCH_MAX {
            match self.plan.schedule_one(now()) {
                Some(Decision::Bind(binding)) => self.bind(binding, scope).await,
                // Its reason is written when no decision is left.
                Some(Decision::Unschedulable(_)) => {}
                None => {
                    is_left = false;
                    break;
                }
            }
        }
        self.pending.set(self.plan.queue());
        is_left
    }

    async fn bind(&mut self, binding: Binding, scope: &Scope) {
        let (client, recorder) = (self.client.clone(), self.recorder.clone());
        self.start_binding(binding.uid.clone(), scope, async move {
            let Binding { uid, pod, node } = &binding;
            client.bind(&pod.namespace, &pod.name, uid, node).await?;
            let message = format!("Successfully assigned {pod} to {node}");
            recorder.normal(pod_reference(pod, uid), EventReason::Scheduled, message);
            Ok(())
        })
        .await;
    }

    /// Starts a binding as soon as there is a slot for it. [`Scheduler::settle`] gets its end.
    async fn start_binding<B>(&mut self, uid: Arc<str>, scope: &Scope, binding: B)
    where
        B: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        // The semaphore lives as long as the scheduler and is never closed.
        let Ok(slot) = self.slots.clone().acquire_owned().await else {
            return;
        };
        self.bindings.spawn(scope.tasks.track_future(async move {
            // Nothing of a binding is used again after it panicked.
            let result = AssertUnwindSafe(binding).catch_unwind().await;
            drop(slot);
            let failed = match result {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(Failure::Refused(error)),
                Err(_) => Some(Failure::Panicked),
            };
            if failed.is_some() {
                tokio::time::sleep(REBIND_AFTER).await;
            }
            Bound { uid, failed }
        }));
    }

    fn settle(&mut self, bound: Result<Bound, JoinError>) {
        let Bound { uid, failed } = match bound {
            Ok(bound) => bound,
            Err(error) => {
                // Only the end of the process ends a binding's task; its own panics are caught.
                tracing::error!(%error, "a binding was lost");
                return;
            }
        };
        let Some(failure) = failed else {
            return;
        };
        match failure {
            Failure::Refused(error) if error.is_conflict() || error.is_not_found() => {}
            Failure::Refused(error) => tracing::warn!(uid = %uid, %error, "a pod was not bound"),
            Failure::Panicked => tracing::error!(uid = %uid, "binding a pod panicked"),
        }
        self.plan.binding_failed(&uid);
    }

    /// Starts to write as many reasons as may be in flight.
    fn start_notifications(&mut self, scope: &Scope) {
        while self.notifications.len() < NOTIFICATIONS_MAX {
            let Some((pod, notification)) = self.plan.next_notification() else {
                return;
            };
            let scheduler::Notification { uid, message } = notification;
            let about = pod_reference(&pod, &uid);
            self.recorder
                .warning(about, EventReason::FailedScheduling, message.clone());
            let client = self.client.clone();
            self.notifications
                .spawn(scope.tasks.track_future(async move {
                    let marked = mark_unschedulable(&client, &pod, &uid, &message);
                    let written = match AssertUnwindSafe(marked).catch_unwind().await {
                        Ok(Ok(())) => Written::Yes,
                        Ok(Err(error)) => {
                            tracing::debug!(%pod, %error, "a pod was not marked unschedulable");
                            Written::No
                        }
                        Err(_) => {
                            tracing::error!(%pod, "marking a pod unschedulable panicked");
                            Written::No
                        }
                    };
                    (uid, written)
                }));
        }
    }

    fn notified(&mut self, notified: Result<(Arc<str>, Written), JoinError>) {
        match notified {
            Ok((uid, Written::Yes)) => self.plan.notified(&uid),
            Ok((uid, Written::No)) => self.plan.not_notified(&uid, now()),
            // As for bindings: only the end of the process does this.
            Err(error) => tracing::error!(%error, "a notification was lost"),
        }
    }
}

/// This moment by tokio's clock.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Waits until a moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn pod_reference(name: &NamespacedName, uid: &str) -> ObjectReference {
    let meta = ObjectMeta {
        namespace: Some(name.namespace.clone()),
        name: Some(name.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectMeta::default()
    };
    reference("v1", "Pod", &meta)
}

/// Writes why no node fits the pod, unless it was bound or replaced meanwhile: each try reads the pod again and writes only
/// over what it has read.
async fn mark_unschedulable(
    client: &Client,
    name: &NamespacedName,
    uid: &str,
    message: &str,
) -> Result<(), ApiError> {
    let mut tries = 0;
    loop {
        let mut pod: Pod = client.get(name.namespace(), &name.name).await?;
        if pod.metadata.uid.as_deref() != Some(uid) {
            return Ok(());
        }
        let Some(status) = unschedulable_status(&pod, message, clock::now()) else {
            return Ok(());
        };
        pod.status = Some(status);
        match client.update_status(&pod).await {
            Err(error) if error.is_conflict() && tries < CONFLICTS_MAX => tries += 1,
            result => return result.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests;
