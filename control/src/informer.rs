// SPDX-License-Identifier: Apache-2.0
//! A loop's own compact view of one resource, kept current from the watch cache.
//!
//! [`start`] lists once, then follows changes; a reader that fell behind lists again and finds out what
//! disappeared meanwhile. Views are what a loop needs of an object, not the object; several loops may
//! share one informer. The caller's `changed` runs after the view is updated, usually to add keys to queues.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use knarr_api::names::NamespacedName;
use knarr_apiserver::{Cache, CacheEvent, CacheEventKind, EventStream, Lagged, Object};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Reconciles that wait for the informer at once; more of them wait for their turn.
const WAITING_MAX: usize = 64;

/// The views of a resource, with the names of those that an index groups under a key.
#[derive(Debug)]
struct Views<V> {
    by_name: BTreeMap<NamespacedName, Arc<V>>,
    by_key: BTreeMap<String, BTreeSet<NamespacedName>>,
}

impl<V> Default for Views<V> {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            by_key: BTreeMap::new(),
        }
    }
}

impl<V> Views<V> {
    fn set(
        &mut self,
        name: &NamespacedName,
        new: Option<&Arc<V>>,
        keys: fn(&V) -> Vec<String>,
    ) -> Option<Arc<V>> {
        let old = match new {
            Some(new) => self.by_name.insert(name.clone(), new.clone()),
            None => self.by_name.remove(name),
        };
        let before = old.as_ref().map(|view| keys(view)).unwrap_or_default();
        let after = new.map(|view| keys(view)).unwrap_or_default();
        for key in before.iter().filter(|key| !after.contains(key)) {
            if let Some(names) = self.by_key.get_mut(key) {
                names.remove(name);
                if names.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        for key in after {
            self.by_key.entry(key).or_default().insert(name.clone());
        }
        old
    }
}

/// Views of all objects of a resource. Clones share them.
#[derive(Debug)]
pub struct Informer<V> {
    views: Arc<RwLock<Views<V>>>,
    synced: watch::Receiver<bool>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Self {
            views: self.views.clone(),
            synced: self.synced.clone(),
            requests: self.requests.clone(),
        }
    }
}

/// One object's view before and after a change; at least one of them is there.
#[derive(Debug)]
pub struct Changed<'a, V> {
    /// Which object.
    pub name: &'a NamespacedName,
    /// `None` for an object that is new.
    pub old: Option<&'a Arc<V>>,
    /// `None` for an object that is gone.
    pub new: Option<&'a Arc<V>>,
}

impl<V: Send + Sync + 'static> Informer<V> {
    /// The view of one object.
    pub fn view(&self, name: &NamespacedName) -> Option<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views.by_name.get(name).cloned()
    }

    /// Every object's view, by name.
    pub fn views(&self) -> Vec<(NamespacedName, Arc<V>)> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views
            .by_name
            .iter()
            .map(|(name, view)| (name.clone(), view.clone()))
            .collect()
    }

    /// Views that `wanted` picks out of all.
    pub fn select(&self, wanted: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let picked = views.by_name.values().filter(|view| wanted(view));
        picked.cloned().collect()
    }

    /// Views of one namespace that `wanted` picks, with their names.
    pub fn select_in(
        &self,
        namespace: &str,
        wanted: impl Fn(&V) -> bool,
    ) -> Vec<(NamespacedName, Arc<V>)> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let first = NamespacedName::new(namespace, "");
        let from_first = views.by_name.range(first..);
        let own = from_first.take_while(|(name, _)| name.namespace == namespace);
        let picked = own.filter(|(_, view)| wanted(view));
        picked
            .map(|(name, view)| (name.clone(), view.clone()))
            .collect()
    }

    /// Views that the index of [`start_indexed`] groups under `key`.
    pub fn indexed(&self, key: &str) -> Vec<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let names = views.by_key.get(key).into_iter().flatten();
        names
            .filter_map(|name| views.by_name.get(name).cloned())
            .collect()
    }

    /// Names of what the index of [`start_indexed`] groups under `key`, in order.
    pub fn indexed_names(&self, key: &str) -> Vec<NamespacedName> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views
            .by_key
            .get(key)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }

    /// Waits until the first listing is in.
    pub async fn synced(&self) {
        // A sender that is gone means shutdown; whoever waits is about to end too.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    /// Waits until the views show everything that the watch cache shows now. After `Client::sync` that is
    /// every write acknowledged so far, the caller's own above all.
    pub async fn catch_up(&self) {
        let (reply, caught_up) = oneshot::channel();
        // Either failure means shutdown.
        if self.requests.send(reply).await.is_ok() {
            let _ = caught_up.await;
        }
    }
}

/// Starts following `cache` on a task that ends at `shutdown`. `view` returns `None` for an object that
/// cannot be read or is nobody's concern, which is then treated as absent.
pub fn start<V, F, C>(cache: Cache, shutdown: CancellationToken, view: F, changed: C) -> Informer<V>
where
    V: Send + Sync + 'static,
    F: Fn(&Object) -> Option<V> + Send + Sync + 'static,
    C: Fn(Changed<'_, V>) + Send + Sync + 'static,
{
    start_indexed(cache, shutdown, |_| Vec::new(), view, changed)
}

/// As [`start`], with an index: `keys` names the groups that an object belongs to.
pub fn start_indexed<V, F, C>(
    cache: Cache,
    shutdown: CancellationToken,
    keys: fn(&V) -> Vec<String>,
    view: F,
    changed: C,
) -> Informer<V>
where
    V: Send + Sync + 'static,
    F: Fn(&Object) -> Option<V> + Send + Sync + 'static,
    C: Fn(Changed<'_, V>) + Send + Sync + 'static,
{
    let views: Arc<RwLock<Views<V>>> = Arc::default();
    let (synced_sender, synced) = watch::channel(false);
    let (requests, to_answer) = mpsc::channel(WAITING_MAX);
    let informer = Informer {
        views: views.clone(),
        synced,
        requests,
    };
    let follower = Follower {
        views,
        keys,
        view,
        changed,
    };
    let stop = shutdown.clone();
    let following = tokio::spawn(async move {
        // Safe to drop: views change between awaits only.
        tokio::select! {
            () = follower.follow(&cache, &synced_sender, to_answer) => {}
            () = stop.cancelled() => {}
        }
    });
    tokio::spawn(async move {
        if let Err(error) = following.await {
            // Nobody may go on with views that have stopped following.
            tracing::error!(%error, "an informer failed, so the control plane ends");
            shutdown.cancel();
        }
    });
    informer
}

struct Follower<V, F, C> {
    views: Arc<RwLock<Views<V>>>,
    keys: fn(&V) -> Vec<String>,
    view: F,
    changed: C,
}

impl<V, F, C> Follower<V, F, C>
where
    F: Fn(&Object) -> Option<V>,
    C: Fn(Changed<'_, V>),
{
    async fn follow(
        &self,
        cache: &Cache,
        synced: &watch::Sender<bool>,
        mut requests: mpsc::Receiver<oneshot::Sender<()>>,
    ) {
        let mut events = self.list(cache);
        synced.send_replace(true);
        loop {
            // Safe to drop: neither takes anything before it is ready.
            let request = tokio::select! {
                event = events.next() => {
                    match event {
                        Ok(event) => self.apply(&event),
                        // A reader that fell behind lists again.
                        Err(Lagged) => events = self.list(cache),
                    }
                    None
                }
                Some(request) = requests.recv() => Some(request),
            };
            let Some(request) = request else {
                continue;
            };
            loop {
                match events.try_next() {
                    Ok(Some(event)) => self.apply(&event),
                    Ok(None) => break,
                    Err(Lagged) => events = self.list(cache),
                }
            }
            // Whoever asked may have stopped waiting.
            let _ = request.send(());
        }
    }

    fn list(&self, cache: &Cache) -> EventStream {
        let (snapshot, events) = cache.watch();
        let mut gone: HashSet<NamespacedName> = {
            let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
            views.by_name.keys().cloned().collect()
        };
        for object in &snapshot.objects {
            let name = name_of(object);
            gone.remove(&name);
            self.set(&name, (self.view)(object));
        }
        for name in gone {
            self.set(&name, None);
        }
        events
    }

    fn apply(&self, event: &CacheEvent) {
        let view = match event.kind {
            CacheEventKind::Deleted => None,
            CacheEventKind::Added | CacheEventKind::Modified => (self.view)(&event.object),
        };
        self.set(&name_of(&event.object), view);
    }

    fn set(&self, name: &NamespacedName, view: Option<V>) {
        let new = view.map(Arc::new);
        let old = {
            let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
            views.set(name, new.as_ref(), self.keys)
        };
        if old.is_some() || new.is_some() {
            (self.changed)(Changed {
                name,
                old: old.as_ref(),
                new: new.as_ref(),
            });
        }
    }
}

/// The name of an object of the cache.
pub fn name_of(object: &Object) -> NamespacedName {
    NamespacedName::new(&*object.meta.namespace, &*object.meta.name)
}

#[cfg(test)]
mod tests;
