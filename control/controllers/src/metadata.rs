// SPDX-License-Identifier: Apache-2.0
//! Informers of the metadata of every object of every resource but core's Events, for controllers that work on all of
//! them: garbage collection and the deletion of namespaces.
//!
//! One informer for each kind that is stored, shared like any other. The set follows what is served. A kind that is
//! replaced is another kind with the same objects, so the order matters:
//!
//! ```text
//! swap of the kinds --> old kinds are unknown --> their objects count as gone --> new informers list --> new kinds are known
//!                       |------------- [`MetadataInformers::catch_up`] waits for all of this -------------|
//! ```
//!
//! Views are what `knarr_control_plan::garbage` needs of an object.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::join_all;
use knarr_apiserver::{Client, KindId, Namespaced, Object, StoredResource};
use knarr_control_plan::garbage::{self, Deleting, Item, Leaving, OwnerRef, ResourceName};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio_util::sync::CancellationToken;

use crate::informer::{Change, Informer};
use crate::informers::Informers;

/// No controller needs the metadata of core's Events: they own nothing, nothing that matters owns them, and there are many.
const LEFT_OUT: &str = "events";

type Handler = Arc<dyn Fn(&Change<'_, Item>) + Send + Sync>;
type KnownHandler = Box<dyn Fn(&[KnownKind]) + Send + Sync>;

/// A kind of which every object is in the views.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownKind {
    id: KindId,
    group: String,
    kind: String,
    pub(crate) namespaced: Namespaced,
}

impl KnownKind {
    /// Whether an owner reference names this kind, in whichever version.
    pub(crate) fn is_of(&self, owner: &OwnerRef) -> bool {
        let group = owner.api_version.split_once('/');
        let group = group.map_or("", |(group, _)| group);
        (group, &*owner.kind) == (&*self.group, &*self.kind)
    }
}

/// A kind whose objects are followed.
struct WatchedKind {
    informer: Informer<Item>,
    kind: KnownKind,
    /// Cancelled when the kind is not served any more.
    unserved: CancellationToken,
}

#[derive(Default)]
struct State {
    by_id: HashMap<KindId, WatchedKind>,
    known: Arc<[KnownKind]>,
    handlers: Vec<Handler>,
    known_handlers: Vec<KnownHandler>,
}

/// The informers of all resources. Clones share them.
#[derive(Clone)]
pub struct MetadataInformers {
    client: Client,
    informers: Informers,
    state: Arc<Mutex<State>>,
    /// Held for writing while objects of ended kinds leave the views and those of new kinds come. Holding it over an await
    /// is its purpose: no plan is made from what is half there.
    swap: Arc<RwLock<()>>,
    /// The generation of `StoredResources` that is followed; `None` before the first.
    generation: Arc<watch::Sender<Option<u64>>>,
}

/// Says that the views are those of every kind that is served. No kind comes or goes while it is held.
#[derive(Debug)]
#[must_use]
pub(crate) struct CaughtUp {
    _swap: OwnedRwLockReadGuard<()>,
}

impl std::fmt::Debug for MetadataInformers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetadataInformers")
            .field("kinds", &self.state().by_id.len())
            .finish_non_exhaustive()
    }
}

impl MetadataInformers {
    /// Those that all controllers share.
    pub fn of(informers: &Informers) -> Self {
        informers.once(|client| Self::start(client, informers.clone()))
    }

    /// Starts an informer for each kind that is stored, and follows what is served.
    fn start(client: Client, informers: Informers) -> Self {
        let mut changes = client.resource_changes();
        let this = Self::new(client, informers);
        let following = this.clone();
        this.informers.supervise(async move {
            loop {
                following.follow().await;
                changes.changed().await;
            }
        });
        this
    }

    fn new(client: Client, informers: Informers) -> Self {
        Self {
            client,
            informers,
            state: Arc::default(),
            swap: Arc::default(),
            generation: Arc::new(watch::Sender::new(None)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Follows the kinds that are stored now, and no others. Only one task calls this.
    async fn follow(&self) {
        let stored = self.client.stored_resources();
        if *self.generation.borrow() == Some(stored.generation) {
            return;
        }
        let swap = self.swap.write().await;
        // An ended kind is unknown from here on: that its objects leave the views says nothing about them.
        for WatchedKind {
            informer, unserved, ..
        } in self.take_all_but(&stored.resources)
        {
            unserved.cancel();
            // Every object has left, so none leaves after the next informer of the same kind has brought it back.
            informer.catch_up().await;
        }
        let new = self.start_missing(stored.resources);
        join_all(new.iter().map(|(informer, _)| informer.synced())).await;
        let new: Vec<KnownKind> = new.into_iter().map(|(_, kind)| kind).collect();
        let mut state = self.state();
        let known = state.known.iter().chain(&new).cloned();
        state.known = known.collect();
        self.generation.send_replace(Some(stored.generation));
        for handler in &state.known_handlers {
            handler(&new);
        }
        drop(state);
        drop(swap);
    }

    /// Takes out the kinds that are not among these.
    fn take_all_but(&self, stored: &[StoredResource]) -> Vec<WatchedKind> {
        let mut state = self.state();
        let served: HashSet<KindId> = stored.iter().map(|resource| resource.id).collect();
        let ended = state.by_id.extract_if(|id, _| !served.contains(id));
        let ended: Vec<WatchedKind> = ended.map(|(_, followed)| followed).collect();
        let known = state.known.iter();
        let known = known.filter(|kind| ended.iter().all(|followed| followed.kind.id != kind.id));
        state.known = known.cloned().collect();
        ended
    }

    /// Starts the informers that are missing.
    fn start_missing(&self, stored: Vec<StoredResource>) -> Vec<(Informer<Item>, KnownKind)> {
        let mut state = self.state();
        let mut new = Vec::new();
        for stored in stored {
            let StoredResource {
                id,
                resource,
                kind,
                namespaced,
                cache,
            } = stored;
            let is_left_out = resource.group.is_empty() && resource.resource == LEFT_OUT;
            if is_left_out || state.by_id.contains_key(&id) {
                continue;
            }
            let name = ResourceName {
                group: resource.group.as_str().into(),
                version: resource.version.into(),
                resource: resource.resource.into(),
            };
            let view_of = Box::new(move |object: &Object| Some(item(&name, object)));
            let unserved = CancellationToken::new();
            let informer = self
                .informers
                .start(cache, view_of, |_| Vec::new(), unserved.clone());
            for handler in state.handlers.iter().cloned() {
                informer.subscribe(move |change| handler(change));
            }
            let kind = KnownKind {
                id,
                group: resource.group,
                kind,
                namespaced,
            };
            new.push((informer.clone(), kind.clone()));
            let followed = WatchedKind {
                informer,
                kind,
                unserved,
            };
            state.by_id.insert(id, followed);
        }
        new
    }

    fn all(&self) -> Vec<Informer<Item>> {
        let state = self.state();
        let followed = state.by_id.values();
        followed.map(|followed| followed.informer.clone()).collect()
    }

    /// As [`Informer::subscribe`], for every object of every resource. An object of a kind that is replaced is gone, and
    /// then new.
    pub fn subscribe(&self, handler: impl Fn(&Change<'_, Item>) + Send + Sync + 'static) {
        let handler: Handler = Arc::new(handler);
        let mut state = self.state();
        for followed in state.by_id.values() {
            let handler = handler.clone();
            followed.informer.subscribe(move |change| handler(change));
        }
        state.handlers.push(handler);
    }

    /// Calls `handler` with the kinds that become known from now on, after their objects are in the views. It adds keys to
    /// queues and does not wait.
    pub(crate) fn subscribe_known(&self, handler: impl Fn(&[KnownKind]) + Send + Sync + 'static) {
        self.state().known_handlers.push(Box::new(handler));
    }

    /// The kinds of which every object is in the views.
    pub(crate) fn known(&self) -> Arc<[KnownKind]> {
        Arc::clone(&self.state().known)
    }

    /// Waits until the first list of each resource is in.
    pub async fn synced(&self) {
        let mut generation = self.generation.subscribe();
        // The sender is in `self`, so the wait does not fail.
        let _ = generation.wait_for(Option::is_some).await;
    }

    /// As [`Informer::catch_up`], for every resource that is served when it is called.
    pub(crate) async fn catch_up(&self) -> CaughtUp {
        let mut generation = self.generation.subscribe();
        loop {
            let swap = self.swap.clone().read_owned().await;
            let followed = *generation.borrow_and_update();
            let is_followed = || followed == Some(self.client.resources_generation());
            if is_followed() {
                join_all(self.all().iter().map(Informer::catch_up)).await;
                // Kinds that were swapped meanwhile may have objects that no view shows.
                if is_followed() {
                    return CaughtUp { _swap: swap };
                }
            }
            drop(swap);
            // The sender is in `self`, so the wait does not fail.
            let _ = generation.changed().await;
        }
    }
}

fn item(resource: &ResourceName, object: &Object) -> Item {
    let meta = &object.meta;
    let finalizers = || meta.finalizers.iter().map(|finalizer| &**finalizer);
    Item {
        uid: meta.uid.as_ref().into(),
        resource: resource.clone(),
        namespace: meta.namespace.as_ref().into(),
        name: meta.name.clone(),
        owners: meta
            .owners
            .iter()
            .map(|owner| OwnerRef {
                uid: owner.uid.as_ref().into(),
                api_version: owner.api_version.clone(),
                kind: owner.kind.clone(),
                name: owner.name.clone(),
                blocks: owner.block_owner_deletion,
            })
            .collect(),
        leaving: Leaving::of(Deleting(meta.is_deleting()), finalizers()),
        wants: garbage::wanted(finalizers()),
    }
}

#[cfg(test)]
mod tests;
