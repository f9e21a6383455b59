// SPDX-License-Identifier: Apache-2.0
//! Turns the watch cache into the feed's log: one task for each resource, one view, one log.
//!
//! Sessions read from here and never from the cache. Only the tasks that [`Hub::run`] starts change the view.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use knarr_api::feed::Change;
use knarr_api::k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodStatus, Secret, Service};
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{ApiError, Cache, Client, Object};
use knarr_control_plan::feed::{FeedView, ObjectKey, ObjectKind, Outgoing};
use knarr_controllers::{Reflector, WatchEvent, name_of};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::log::{Limits, Log, Piece};

/// Most changes in one message.
pub(super) const CHANGES_PER_DELTA_MAX: usize = 256;
/// Bytes of one message. One change may be larger by itself (an object has up to 3 MiB); the agent takes messages
/// of many times that.
pub(super) const DELTA_BYTES_MAX: usize = 2 * 1024 * 1024;

/// How long the log's older changes stay at least, twice as long at most: longer than an agent needs to start again.
const LOG_AGE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct State {
    view: FeedView,
    log: Log,
}

/// The feed's view and log, shared by every session.
pub struct Hub {
    /// Versions of another process mean nothing here.
    pub(super) epoch: String,
    state: Mutex<State>,
    latest: watch::Sender<u64>,
    /// Resources whose first listing is still to come; sessions wait for all of them.
    unseen: watch::Sender<usize>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The view holds Secrets, which must not reach a log.
        f.debug_struct("Hub")
            .field("epoch", &self.epoch)
            .field("latest", &*self.latest.borrow())
            .finish_non_exhaustive()
    }
}

/// A resource that the feed follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Pods,
    Services,
    EndpointSlices,
    Nodes,
    ConfigMaps,
    Secrets,
}

const RESOURCES: [Resource; 6] = [
    Resource::Pods,
    Resource::Services,
    Resource::EndpointSlices,
    Resource::Nodes,
    Resource::ConfigMaps,
    Resource::Secrets,
];

/// Whether an object of these resources is stored and cannot be read.
pub(super) fn has_unreadable(client: &Client) -> Result<bool, ApiError> {
    for resource in RESOURCES {
        if resource.has_unreadable(client)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Hub {
    /// A hub that has seen nothing; `epoch` must differ from that of every earlier process.
    pub fn new(epoch: String) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            state: Mutex::default(),
            latest: watch::Sender::new(0),
            unseen: watch::Sender::new(RESOURCES.len()),
        })
    }

    /// Follows the watch cache until `shutdown`.
    pub async fn run(self: Arc<Self>, client: Client, shutdown: CancellationToken) {
        let mut tasks = JoinSet::new();
        for resource in RESOURCES {
            let hub = self.clone();
            let cache = match resource.cache(&client) {
                Ok(cache) => cache,
                Err(error) => {
                    tracing::error!(?resource, %error, "the feed cannot follow a resource, so the feed ends");
                    shutdown.cancel();
                    return;
                }
            };
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                // Safe to drop: the view is changed between awaits only.
                tokio::select! {
                    () = hub.follow(resource, cache) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
        let hub = self.clone();
        let stop = shutdown.clone();
        tasks.spawn(async move {
            // Safe to drop: the log is changed between awaits only.
            tokio::select! {
                () = hub.trim_log() => {}
                () = stop.cancelled() => {}
            }
        });
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a feed follower panicked; nodes would miss changes, so the feed ends");
                shutdown.cancel();
            }
        }
    }

    /// Waits until every resource has been listed once.
    pub(super) async fn ready(&self) {
        let mut unseen = self.unseen.subscribe();
        // The sender lives in `self`, so this ends only when the count is zero.
        let _ = unseen.wait_for(|count| *count == 0).await;
    }

    /// Tells when there is something after the version last read.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// True when a node that has everything up to `version` of `epoch` can go on from there.
    pub(super) fn can_resume(&self, epoch: &str, version: u64) -> bool {
        epoch == self.epoch && self.state().log.reaches(version)
    }

    /// What `node` has to know after `version`; `None` when it needs a snapshot.
    pub(super) fn since(&self, version: u64, node: &str) -> Option<Piece> {
        let limits = Limits {
            changes: CHANGES_PER_DELTA_MAX,
            bytes: DELTA_BYTES_MAX,
        };
        let state = self.state();
        state.log.since(version, node, limits, &state.view)
    }

    /// The version of what is known now.
    pub(super) fn version(&self) -> u64 {
        self.state().log.version()
    }

    /// A part of what every node has to know of Services, and where the next part starts; see
    /// [`FeedView::snapshot_services`].
    pub(super) fn snapshot_services(
        &self,
        after: Option<&NamespacedName>,
    ) -> (Vec<Change>, Option<NamespacedName>) {
        let state = self.state();
        state.view.snapshot_services(after, CHANGES_PER_DELTA_MAX)
    }

    /// Everything else `node` has to know.
    pub(super) fn snapshot_of_node(&self, node: &str) -> Vec<Change> {
        self.state().view.snapshot_of_node(node)
    }

    /// True when this pod is bound to `node`.
    pub(super) fn runs_on(&self, name: &NamespacedName, uid: &str, node: &str) -> bool {
        let state = self.state();
        state
            .view
            .node_of_pod(name, uid)
            .is_some_and(|on| &**on == node)
    }

    /// A pod is about to get this status from its node's report.
    pub(super) fn reported(&self, name: &NamespacedName, uid: &str, status: &PodStatus) {
        self.state().view.report_pod(name, uid, status);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn change(&self, plan: impl FnOnce(&mut FeedView) -> Vec<Outgoing>) {
        let version = {
            let mut state = self.state();
            let State { view, log } = &mut *state;
            let outgoing = plan(view);
            if outgoing.is_empty() {
                return;
            }
            for change in outgoing {
                log.append(change);
            }
            log.version()
        };
        self.latest.send_if_modified(|latest| {
            let newer = version > *latest;
            *latest = (*latest).max(version);
            newer
        });
    }

    /// Takes old changes out of the log. While nothing changes and the log is small it only waits.
    async fn trim_log(&self) {
        let mut latest = self.latest.subscribe();
        // The sender lives in `self`, so this loop ends only by being dropped.
        while latest.changed().await.is_ok() {
            loop {
                tokio::time::sleep(LOG_AGE).await;
                latest.mark_unchanged();
                if !self.state().log.trim() {
                    break;
                }
            }
        }
    }

    async fn follow(&self, resource: Resource, cache: Cache) {
        let mut known: HashSet<NamespacedName> = HashSet::new();
        let mut reflector = Reflector::new(cache);
        let mut is_first = true;
        loop {
            let event = reflector.next().await;
            for object in event.present() {
                known.insert(name_of(object));
                self.change(|view| resource.observe(view, object));
            }
            match &event {
                WatchEvent::Replaced(objects) => {
                    let present: HashSet<NamespacedName> =
                        objects.iter().map(|object| name_of(object)).collect();
                    for name in known.extract_if(|name| !present.contains(name)) {
                        self.change(|view| resource.forget(view, &name));
                    }
                    if std::mem::take(&mut is_first) {
                        self.unseen.send_modify(|count| *count -= 1);
                    }
                }
                WatchEvent::Applied(_) => {}
                WatchEvent::Deleted(object) => {
                    let name = name_of(object);
                    known.remove(&name);
                    if known.len() < known.capacity() / 8 {
                        // The room that a namespace full of objects needed is given back.
                        known.shrink_to(known.len() * 2);
                    }
                    self.change(|view| resource.forget(view, &name));
                }
            }
        }
    }
}

impl Resource {
    fn has_unreadable(self, client: &Client) -> Result<bool, ApiError> {
        match self {
            Self::Pods => client.has_unreadable_of::<Pod>(),
            Self::Services => client.has_unreadable_of::<Service>(),
            Self::EndpointSlices => client.has_unreadable_of::<EndpointSlice>(),
            Self::Nodes => client.has_unreadable_of::<Node>(),
            Self::ConfigMaps => client.has_unreadable_of::<ConfigMap>(),
            Self::Secrets => client.has_unreadable_of::<Secret>(),
        }
    }

    fn cache(self, client: &Client) -> Result<Cache, ApiError> {
        match self {
            Self::Pods => client.cache_of::<Pod>(),
            Self::Services => client.cache_of::<Service>(),
            Self::EndpointSlices => client.cache_of::<EndpointSlice>(),
            Self::Nodes => client.cache_of::<Node>(),
            Self::ConfigMaps => client.cache_of::<ConfigMap>(),
            Self::Secrets => client.cache_of::<Secret>(),
        }
    }

    fn object_key(self, name: &NamespacedName) -> ObjectKey {
        let kind = match self {
            Self::Secrets => ObjectKind::Secret,
            _ => ObjectKind::ConfigMap,
        };
        ObjectKey {
            kind,
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        }
    }

    fn observe(self, view: &mut FeedView, object: &Object) -> Vec<Outgoing> {
        let told = match self {
            Self::Pods => object
                .parse::<Pod>()
                .map(|pod| view.observe_pod(&pod, object.bytes.clone())),
            Self::Services => object
                .parse::<Service>()
                .map(|service| view.observe_service(&service)),
            Self::EndpointSlices => object
                .parse::<EndpointSlice>()
                .map(|slice| view.observe_slice(&slice)),
            Self::Nodes => object.parse::<Node>().map(|node| view.observe_node(&node)),
            Self::ConfigMaps | Self::Secrets => {
                let key = self.object_key(&name_of(object));
                Ok(view.observe_object(&key, Some(object.bytes.clone())))
            }
        };
        told.unwrap_or_else(|error| {
            tracing::error!(resource = ?self, object = %name_of(object), %error, "a stored object cannot be read; nodes are not told of it");
            Vec::new()
        })
    }

    fn forget(self, view: &mut FeedView, name: &NamespacedName) -> Vec<Outgoing> {
        match self {
            Self::Pods => view.forget_pod(name),
            Self::Services => view.forget_service(name),
            Self::EndpointSlices => view.forget_slice(name),
            Self::Nodes => view.forget_node(&name.name),
            Self::ConfigMaps | Self::Secrets => view.observe_object(&self.object_key(name), None),
        }
    }
}

#[cfg(test)]
mod tests;
