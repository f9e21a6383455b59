// SPDX-License-Identifier: Apache-2.0
//! A loop's own compact view of one resource, kept current from the watch cache.
//!
//! [`start`] lists once, then follows changes; a reader that fell behind lists again and finds out what
//! disappeared meanwhile. Views are what a loop needs of an object, not the object; several loops may
//! share one informer. The caller's `changed` runs after the view is updated, usually to add keys to queues.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use knarr_api::names::NamespacedName;
use knarr_apiserver::{Cache, CacheEventKind, Object};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Views of all objects of a resource. Clones share them.
#[derive(Debug)]
pub struct Informer<V> {
    views: Arc<RwLock<HashMap<NamespacedName, Arc<V>>>>,
    synced: watch::Receiver<bool>,
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Self {
            views: self.views.clone(),
            synced: self.synced.clone(),
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
        views.get(name).cloned()
    }

    /// Every object's view, in no order.
    pub fn views(&self) -> Vec<(NamespacedName, Arc<V>)> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        views
            .iter()
            .map(|(name, view)| (name.clone(), view.clone()))
            .collect()
    }

    /// Views that `wanted` picks.
    pub fn select(&self, wanted: impl Fn(&NamespacedName, &V) -> bool) -> Vec<Arc<V>> {
        let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
        let picked = views.iter().filter(|(name, view)| wanted(name, view));
        picked.map(|(_, view)| view.clone()).collect()
    }

    /// Waits until the first listing is in.
    pub async fn synced(&self) {
        // A sender that is gone means shutdown; whoever waits is about to end too.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }
}

/// Starts following `cache` on a task that ends at `shutdown`. `view` returns `None` for an object that
/// cannot be read, which is then treated as absent.
pub fn start<V, F, C>(cache: Cache, shutdown: CancellationToken, view: F, changed: C) -> Informer<V>
where
    V: Send + Sync + 'static,
    F: Fn(&Object) -> Option<V> + Send + Sync + 'static,
    C: Fn(Changed<'_, V>) + Send + Sync + 'static,
{
    let views: Arc<RwLock<HashMap<NamespacedName, Arc<V>>>> = Arc::default();
    let (synced_sender, synced) = watch::channel(false);
    let informer = Informer {
        views: views.clone(),
        synced,
    };
    let follower = Follower {
        views,
        view,
        changed,
    };
    tokio::spawn(async move {
        // Safe to drop: views change between awaits only.
        tokio::select! {
            () = follower.follow(&cache, &synced_sender) => {}
            () = shutdown.cancelled() => {}
        }
    });
    informer
}

struct Follower<V, F, C> {
    views: Arc<RwLock<HashMap<NamespacedName, Arc<V>>>>,
    view: F,
    changed: C,
}

impl<V, F, C> Follower<V, F, C>
where
    F: Fn(&Object) -> Option<V>,
    C: Fn(Changed<'_, V>),
{
    async fn follow(&self, cache: &Cache, synced: &watch::Sender<bool>) {
        loop {
            let (snapshot, mut events) = cache.watch();
            let mut gone: HashSet<NamespacedName> = {
                let views = self.views.read().unwrap_or_else(PoisonError::into_inner);
                views.keys().cloned().collect()
            };
            for object in &snapshot.objects {
                let name = name_of(object);
                gone.remove(&name);
                self.set(&name, (self.view)(object));
            }
            for name in gone {
                self.set(&name, None);
            }
            synced.send_replace(true);
            // A reader that fell behind lists again.
            while let Ok(event) = events.next().await {
                let name = name_of(&event.object);
                let view = match event.kind {
                    CacheEventKind::Deleted => None,
                    CacheEventKind::Added | CacheEventKind::Modified => (self.view)(&event.object),
                };
                self.set(&name, view);
            }
        }
    }

    fn set(&self, name: &NamespacedName, view: Option<V>) {
        let new = view.map(Arc::new);
        let old = {
            let mut views = self.views.write().unwrap_or_else(PoisonError::into_inner);
            match &new {
                Some(new) => views.insert(name.clone(), new.clone()),
                None => views.remove(name),
            }
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
