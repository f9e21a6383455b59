// SPDX-License-Identifier: Apache-2.0
//! Binds pods to nodes; `knarr_control_plan::scheduler` picks the node.
//!
//! One task owns the scheduler's picture of the cluster and decides one pod after the other; bindings are
//! written by others, several at once, while it goes on with its assumption that they succeed. A pod that
//! fits nowhere waits until a change may have made room.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;

use knarr_api::k8s_openapi::api::core::v1::{Node, Pod, Service};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, CacheEvent, CacheEventKind, Client, EventStream, Object};
use knarr_control_plan::endpoint_slice::selector_of;
use knarr_control_plan::scheduler::{
    Cluster, Effects, PodInfo, Telling, Tellings, unschedulable_status,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Context;
use crate::clock;
use crate::informer::name_of;

/// Bindings on their way at once: enough to fill the store's commits.
const BINDINGS_MAX: usize = 64;
/// Pods placed before changes are taken in again.
const BATCH_MAX: usize = 256;
/// Pods told at once why they fit nowhere; fewer than bindings, which matter more.
const TELLINGS_MAX: usize = 16;
/// How often a pod that keeps changing is tried again; after that its next reason tells it.
const CONFLICTS_MAX: usize = 4;

/// Order in the queue: higher priority first, then older, then by uid so that no two are equal.
type Place = (Reverse<i32>, Option<Timestamp>, Arc<str>);

/// How long a pod waits whose binding failed for another reason than the pod: as long as the store may need
/// to recover, and short enough to go unnoticed.
const REBIND_AFTER: Duration = Duration::from_secs(1);

/// What became of a binding.
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

struct Scheduler {
    context: Context,
    cluster: Cluster,
    /// Pods to place, in order.
    active: BTreeSet<Place>,
    /// Pods that fitted nowhere when last tried.
    waiting: HashMap<Arc<str>, Place>,
    /// Uids by name, because the end of an object names it only so.
    uids: HashMap<NamespacedName, Arc<str>>,
    bindings: JoinSet<Bound>,
    slots: Arc<Semaphore>,
    /// What waiting pods are told.
    tellings: Tellings,
    /// Pods that are being told now.
    telling: JoinSet<(Arc<str>, Written)>,
}

/// Runs the scheduler until shutdown.
pub(super) async fn run(context: Context) {
    let shutdown = context.shutdown.clone();
    let scheduler = Scheduler::new(context);
    // Safe to drop: a binding that is not written is decided anew at the next start.
    tokio::select! {
        result = scheduler.work() => {
            if let Err(error) = result {
                tracing::error!(%error, "the scheduler cannot run");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

struct Streams {
    pods: EventStream,
    nodes: EventStream,
    services: EventStream,
}

impl Scheduler {
    fn new(context: Context) -> Self {
        Self {
            context,
            cluster: Cluster::default(),
            active: BTreeSet::new(),
            waiting: HashMap::new(),
            uids: HashMap::new(),
            bindings: JoinSet::new(),
            slots: Arc::new(Semaphore::new(BINDINGS_MAX)),
            tellings: Tellings::default(),
            telling: JoinSet::new(),
        }
    }

    async fn work(mut self) -> Result<(), ApiError> {
        loop {
            let streams = self.list()?;
            self.follow(streams).await;
            tracing::warn!("the scheduler fell behind and lists everything again");
            self.start_over().await;
        }
    }

    /// Forgets everything, so that it can be listed again. Bindings on their way are waited for, and so are the
    /// caches that have to show them: nobody else may be given the room that they take.
    async fn start_over(&mut self) {
        while let Some(bound) = self.bindings.join_next().await {
            self.settle(bound);
        }
        while let Some(told) = self.telling.join_next().await {
            self.told(told);
        }
        while let Err(error) = self.context.client.sync().await {
            tracing::warn!(%error, "the scheduler cannot see what was written");
            tokio::time::sleep(REBIND_AFTER).await;
        }
        self.cluster = Cluster::default();
        self.active.clear();
        self.waiting.clear();
        self.uids.clear();
        self.tellings = Tellings::default();
    }

    fn list(&mut self) -> Result<Streams, ApiError> {
        let client = &self.context.client;
        let (nodes, node_events) = client.cache_of::<Node>()?.watch();
        let (services, service_events) = client.cache_of::<Service>()?.watch();
        let (pods, pod_events) = client.cache_of::<Pod>()?.watch();
        for node in &nodes.objects {
            self.node(node);
        }
        for service in &services.objects {
            self.service(service);
        }
        for pod in &pods.objects {
            self.pod(pod);
        }
        Ok(Streams {
            pods: pod_events,
            nodes: node_events,
            services: service_events,
        })
    }

    /// Takes in changes and places pods until a stream falls behind.
    async fn follow(&mut self, mut streams: Streams) {
        loop {
            while let Some(bound) = self.bindings.try_join_next() {
                self.settle(bound);
            }
            while let Some(told) = self.telling.try_join_next() {
                self.told(told);
            }
            if self.take_changes(&mut streams).is_err() {
                return;
            }
            if self.place_some().await {
                continue;
            }
            self.tell();
            // Safe to drop: each arm only waits for something that stays where it is.
            let changed = tokio::select! {
                event = streams.pods.next() => event.map(|event| self.pod_event(&event)),
                event = streams.nodes.next() => event.map(|event| self.node_event(&event)),
                event = streams.services.next() => event.map(|event| self.service_event(&event)),
                Some(bound) = self.bindings.join_next() => {
                    self.settle(bound);
                    Ok(())
                }
                Some(told) = self.telling.join_next() => {
                    self.told(told);
                    Ok(())
                }
                () = until(self.tellings.again_at().map(Instant::from_std)) => {
                    self.tell_again();
                    Ok(())
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn take_changes(&mut self, streams: &mut Streams) -> Result<(), knarr_apiserver::Lagged> {
        while let Some(event) = streams.nodes.try_next()? {
            self.node_event(&event);
        }
        while let Some(event) = streams.services.try_next()? {
            self.service_event(&event);
        }
        while let Some(event) = streams.pods.try_next()? {
            self.pod_event(&event);
        }
        Ok(())
    }

    fn pod_event(&mut self, event: &CacheEvent) {
        if event.kind != CacheEventKind::Deleted {
            self.pod(&event.object);
            return;
        }
        if let Some(uid) = self.uids.remove(&name_of(&event.object)) {
            self.unqueue(&uid);
            let effects = self.cluster.remove_pod(&uid);
            self.react(effects);
        }
    }

    fn node_event(&mut self, event: &CacheEvent) {
        if event.kind == CacheEventKind::Deleted {
            self.cluster.remove_node(&event.object.meta.name);
        } else {
            self.node(&event.object);
        }
    }

    fn service_event(&mut self, event: &CacheEvent) {
        if event.kind == CacheEventKind::Deleted {
            self.cluster.remove_service(&name_of(&event.object));
        } else {
            self.service(&event.object);
        }
    }

    fn pod(&mut self, object: &Object) {
        let Ok(pod) = object.parse::<Pod>() else {
            return;
        };
        let info = PodInfo::of(&pod);
        let uid = info.uid.clone();
        let name = info.name.clone();
        if let Some(old) = self
            .uids
            .insert(name, uid.clone())
            .filter(|old| *old != uid)
        {
            // The same name again, and the end of the first was not seen by itself.
            self.unqueue(&old);
            let effects = self.cluster.remove_pod(&old);
            self.react(effects);
        }
        let needs_node = info.needs_node();
        let place: Place = (Reverse(info.priority), info.created_at, uid.clone());
        let known = self
            .cluster
            .pod(&uid)
            .map(|known| (known.wants.clone(), known.is_gated));
        let asks_anew = known.is_none_or(|known| known != (info.wants.clone(), info.is_gated));
        let effects = self.cluster.set_pod(info);
        self.react(effects);
        if !needs_node {
            self.unqueue(&uid);
        } else if self.cluster.node_of(&uid).is_none()
            && (asks_anew || !self.waiting.contains_key(&uid))
        {
            self.waiting.remove(&uid);
            self.active.insert(place);
        }
    }

    fn node(&mut self, object: &Object) {
        if let Ok(node) = object.parse::<Node>() {
            let effects = self.cluster.set_node(&node);
            self.react(effects);
        }
    }

    fn service(&mut self, object: &Object) {
        if let Ok(service) = object.parse::<Service>() {
            self.cluster
                .set_service(&name_of(object), selector_of(&service));
        }
    }

    fn unqueue(&mut self, uid: &Arc<str>) {
        self.waiting.remove(uid);
        self.tellings.forget(uid);
        if let Some(info) = self.cluster.pod(uid) {
            let place = (Reverse(info.priority), info.created_at, uid.clone());
            self.active.remove(&place);
        }
    }

    fn react(&mut self, effects: Effects) {
        if effects == Effects::MayFit {
            self.active
                .extend(self.waiting.drain().map(|(_, place)| place));
        }
    }

    /// Places the first pods of the queue. False when there was none.
    async fn place_some(&mut self) -> bool {
        for _ in 0..BATCH_MAX {
            let Some(place) = self.active.pop_first() else {
                return false;
            };
            let uid = place.2.clone();
            let Some(name) = self.cluster.pod(&uid).map(|info| info.name.clone()) else {
                continue;
            };
            match self.cluster.place(&uid) {
                Ok(node) => {
                    self.cluster.assume(&uid, &node);
                    self.bind(uid, name, node).await;
                }
                Err(refusal) => {
                    self.waiting.insert(uid.clone(), place);
                    self.refuse(&uid, refusal.to_string());
                }
            }
        }
        true
    }

    async fn bind(&mut self, uid: Arc<str>, name: NamespacedName, node: Arc<str>) {
        let (client, recorder) = (self.context.client.clone(), self.context.recorder.clone());
        let bound = uid.clone();
        self.spawn_binding(uid, async move {
            let NamespacedName {
                namespace,
                name: pod,
            } = &name;
            client.bind(namespace, pod, &bound, &node).await?;
            let message = format!("Successfully assigned {name} to {node}");
            recorder.normal(reference(&name, &bound), "Scheduled", message);
            Ok(())
        })
        .await;
    }

    /// Starts a binding as soon as there is a slot for it. However it ends, [`Scheduler::settle`] hears of it.
    async fn spawn_binding<B>(&mut self, uid: Arc<str>, binding: B)
    where
        B: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        // The semaphore lives as long as the scheduler and is never closed.
        let Ok(slot) = self.slots.clone().acquire_owned().await else {
            return;
        };
        self.bindings.spawn(async move {
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
        });
    }

    fn settle(&mut self, bound: Result<Bound, tokio::task::JoinError>) {
        let Bound { uid, failed } = match bound {
            Ok(bound) => bound,
            Err(error) => {
                // Only the end of the process takes a binding's task away; its own panics are caught.
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
        let effects = self.cluster.forget(&uid);
        self.react(effects);
        // A pod that somebody else bound or deleted has shown it meanwhile.
        if let Some(info) = self.cluster.pod(&uid).filter(|info| info.needs_node()) {
            let place = (Reverse(info.priority), info.created_at, uid.clone());
            self.active.insert(place);
        }
    }

    /// Tells the pods that were told something else before, and still wait.
    fn tell_again(&mut self) {
        for uid in self.tellings.take_untold() {
            if self.waiting.contains_key(&uid)
                && let Err(refusal) = self.cluster.place(&uid)
            {
                self.refuse(&uid, refusal.to_string());
            }
        }
    }

    /// A pod fits nowhere: it is told so when its turn comes.
    fn refuse(&mut self, uid: &Arc<str>, message: String) {
        let Some(info) = self.cluster.pod(uid) else {
            return;
        };
        let known = info.unschedulable_message.as_deref();
        self.tellings
            .refused(uid, message, known, Instant::now().into_std());
    }

    /// Starts as many tellings as may be on their way.
    fn tell(&mut self) {
        while self.telling.len() < TELLINGS_MAX {
            let Some(Telling { uid, message }) = self.tellings.take_next() else {
                return;
            };
            let Some(name) = self.cluster.pod(&uid).map(|info| info.name.clone()) else {
                self.tellings.ended(&uid);
                continue;
            };
            let about = reference(&name, &uid);
            self.context
                .recorder
                .warning(about, "FailedScheduling", message.clone());
            let client = self.context.client.clone();
            self.telling.spawn(async move {
                let marked = mark_unschedulable(&client, &name, &uid, &message);
                let written = match AssertUnwindSafe(marked).catch_unwind().await {
                    Ok(Ok(())) => Written::Yes,
                    Ok(Err(error)) => {
                        tracing::debug!(pod = %name, %error, "a pod was not marked unschedulable");
                        Written::No
                    }
                    Err(_) => {
                        tracing::error!(pod = %name, "marking a pod unschedulable panicked");
                        Written::No
                    }
                };
                (uid, written)
            });
        }
    }

    fn told(&mut self, told: Result<(Arc<str>, Written), tokio::task::JoinError>) {
        match told {
            Ok((uid, Written::Yes)) => self.tellings.ended(&uid),
            Ok((uid, Written::No)) => self.tellings.failed(&uid, Instant::now().into_std()),
            // As for bindings: only the end of the process does this.
            Err(error) => tracing::error!(%error, "a telling was lost"),
        }
    }
}

/// Whether a pod says why it fits nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Yes,
    No,
}

/// Waits until a moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn reference(
    name: &NamespacedName,
    uid: &str,
) -> knarr_api::k8s_openapi::api::core::v1::ObjectReference {
    let meta = ObjectMeta {
        namespace: Some(name.namespace.clone()),
        name: Some(name.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectMeta::default()
    };
    super::reference("v1", "Pod", &meta)
}

/// Writes why the pod fits nowhere, unless it was bound or replaced meanwhile: each try looks at the pod anew and
/// writes only over what it has seen.
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
