// SPDX-License-Identifier: Apache-2.0
//! A compact view of every object of one resource, kept current from the watch cache, with many subscribers.
//!
//! An informer lists and watches once, however many controllers subscribe to it. It keeps what they need of an
//! object; the object itself stays in the watch cache, where [`Informer::object`] finds it. Made by
//! [`crate::informers::Informers`].

use std::collections::HashSet;
use std::sync::Arc;

use knarr_api::k8s_openapi::Resource;
use knarr_api::names::NamespacedName;
use knarr_apiserver::{Cache, Object};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::reflector::{Reflector, WatchEvent};

mod views;

use views::Views;

/// Reconciles that wait for an informer to catch up at once; more of them wait for their turn.
const WAITING_MAX: usize = 64;

/// What controllers keep of an object.
pub trait View: Send + Sync + Sized + 'static {
    /// The kind of object.
    type Kind: Resource;

    /// The view of `object`; `None` for one that cannot be read or that no controller needs, which then counts as absent.
    fn of(object: &Object) -> Option<Self>;

    /// The groups in which the object is found by [`Informer::indexed`].
    fn index(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One object's view before and after a change; at least one of them is there.
#[derive(Debug)]
pub struct Change<'a, V> {
    /// Which object.
    pub name: &'a NamespacedName,
    /// `None` for an object that is new.
    pub old: Option<&'a Arc<V>>,
    /// `None` for an object that is gone.
    pub new: Option<&'a Arc<V>>,
}

impl<V> Change<'_, V> {
    /// The views that there are, the older first.
    pub fn views(&self) -> impl Iterator<Item = &Arc<V>> {
        [self.old, self.new].into_iter().flatten()
    }
}

type Handler<V> = Box<dyn Fn(&Change<'_, V>) + Send + Sync>;
/// Makes the view of an object.
pub(crate) type ViewOf<V> = Box<dyn Fn(&Object) -> Option<V> + Send + Sync>;
/// Names the groups of a view.
pub(crate) type IndexOf<V> = fn(&V) -> Vec<String>;

struct Shared<V> {
    views: RwLock<Views<V>>,
    /// Held over each change and the calls that it makes, so that a new subscriber misses no change and sees none twice.
    handlers: Mutex<Vec<Handler<V>>>,
}

/// Views of all objects of a resource. Clones share them.
pub struct Informer<V> {
    shared: Arc<Shared<V>>,
    cache: Cache,
    synced: watch::Receiver<bool>,
    requests: mpsc::Sender<oneshot::Sender<()>>,
}

impl<V> std::fmt::Debug for Informer<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Informer")
            .field("synced", &*self.synced.borrow())
            .finish_non_exhaustive()
    }
}

impl<V> Clone for Informer<V> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            cache: self.cache.clone(),
            synced: self.synced.clone(),
            requests: self.requests.clone(),
        }
    }
}

impl<V: Send + Sync + 'static> Informer<V> {
    /// An informer over `cache`, and the task that keeps its views current. After `unserved` the task takes every object for
    /// gone, and ends.
    pub(crate) fn new(
        cache: Cache,
        view_of: ViewOf<V>,
        index_of: IndexOf<V>,
        unserved: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared {
            views: RwLock::new(Views::new(index_of)),
            handlers: Mutex::default(),
        });
        let (synced_sender, synced) = watch::channel(false);
        let (requests, to_answer) = mpsc::channel(WAITING_MAX);
        let follower = Follower {
            shared: shared.clone(),
            view_of,
            reflector: Reflector::new(cache.clone()),
        };
        let informer = Self {
            shared,
            cache,
            synced,
            requests,
        };
        (
            informer,
            follower.follow(synced_sender, to_answer, unserved),
        )
    }

    fn read(&self) -> RwLockReadGuard<'_, Views<V>> {
        self.shared.read()
    }

    /// The view of one object.
    pub fn view(&self, name: &NamespacedName) -> Option<Arc<V>> {
        self.read().get(name).cloned()
    }

    /// The object itself, out of the watch cache: as new as the view, or newer.
    pub fn object(&self, name: &NamespacedName) -> Option<Arc<Object>> {
        self.cache.get(&name.namespace, &name.name)
    }

    /// Every object's view, by name.
    pub fn views(&self) -> Vec<(NamespacedName, Arc<V>)> {
        let pair = |(name, view): (&NamespacedName, &Arc<V>)| (name.clone(), view.clone());
        self.read().iter().map(pair).collect()
    }

    /// The views of which `wanted` is true.
    pub fn select(&self, wanted: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        let views = self.read();
        let picked = views.iter().map(|(_, view)| view);
        picked.filter(|view| wanted(view)).cloned().collect()
    }

    /// The views in one namespace of which `wanted` is true, with their names.
    pub fn select_in(
        &self,
        namespace: &str,
        wanted: impl Fn(&V) -> bool,
    ) -> Vec<(NamespacedName, Arc<V>)> {
        let views = self.read();
        let picked = views
            .in_namespace(namespace)
            .filter(|(_, view)| wanted(view));
        picked
            .map(|(name, view)| (name.clone(), view.clone()))
            .collect()
    }

    /// The views in a group of [`View::index`].
    pub fn indexed(&self, group: &str) -> Vec<Arc<V>> {
        let views = self.read();
        let names = views.group(group);
        names.filter_map(|name| views.get(name).cloned()).collect()
    }

    /// The names in a group of [`View::index`], in order.
    pub fn indexed_names(&self, group: &str) -> Vec<NamespacedName> {
        self.read().group(group).cloned().collect()
    }

    /// Calls `handler` with every object that there is, and from then on with every change, after the views show it.
    /// The handler runs in the informer's task: it adds keys to queues and does not wait. It must not subscribe to this
    /// informer.
    pub fn subscribe(&self, handler: impl Fn(&Change<'_, V>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers();
        for (name, view) in self.views() {
            handler(&Change {
                name: &name,
                old: None,
                new: Some(&view),
            });
        }
        handlers.push(Box::new(handler));
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        let synced = self.synced.clone().wait_for(|synced| *synced).await.is_ok();
        if !synced {
            // The informer has ended before its first list, so its readers are about to be ended.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the views show everything that the watch cache shows now. After `Client::sync` that is every write
    /// acknowledged so far, the caller's own above all. Does not return once the informer has ended: no plan may be made
    /// from views that stopped following.
    pub async fn catch_up(&self) {
        let (reply, caught_up) = oneshot::channel();
        let asked = self.requests.send(reply).await;
        if asked.is_err() || caught_up.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl<V> Shared<V> {
    fn read(&self) -> RwLockReadGuard<'_, Views<V>> {
        self.views.read()
    }

    fn handlers(&self) -> MutexGuard<'_, Vec<Handler<V>>> {
        self.handlers.lock()
    }

    fn set(&self, name: &NamespacedName, new: Option<V>) {
        let handlers = self.handlers();
        let new = new.map(Arc::new);
        let old = {
            let mut views = self.views.write();
            views.set(name, new.as_ref())
        };
        if old.is_none() && new.is_none() {
            return;
        }
        let change = Change {
            name,
            old: old.as_ref(),
            new: new.as_ref(),
        };
        for handler in &*handlers {
            handler(&change);
        }
    }
}

struct Follower<V> {
    shared: Arc<Shared<V>>,
    view_of: ViewOf<V>,
    reflector: Reflector,
}

impl<V> Drop for Follower<V> {
    fn drop(&mut self) {
        // Handlers hold queues, and informers whose handlers may hold this one.
        let handlers = std::mem::take(&mut *self.shared.handlers());
        drop(handlers);
    }
}

impl<V> Follower<V> {
    async fn follow(
        mut self,
        synced: watch::Sender<bool>,
        mut requests: mpsc::Receiver<oneshot::Sender<()>>,
        unserved: CancellationToken,
    ) {
        loop {
            // Safe to drop: none takes anything before it is ready. Requests come before events, which they take in too.
            tokio::select! {
                biased;
                () = unserved.cancelled() => {
                    self.replace(&[]);
                    synced.send_replace(true);
                    break;
                }
                Some(request) = requests.recv() => {
                    while let Some(event) = self.reflector.try_next() {
                        self.apply(event);
                    }
                    // A caller that stopped waiting needs no answer.
                    let _ = request.send(());
                }
                event = self.reflector.next() => self.apply(event),
            }
            // Each of the two has taken in the first list.
            synced.send_if_modified(|synced| !std::mem::replace(synced, true));
        }
        // Nothing of the resource is there any more, and no view is behind.
        while let Some(request) = requests.recv().await {
            let _ = request.send(());
        }
    }

    fn apply(&self, event: WatchEvent) {
        match event {
            WatchEvent::Replaced(objects) => self.replace(&objects),
            WatchEvent::Applied(object) => {
                self.shared.set(&name_of(&object), (self.view_of)(&object));
            }
            WatchEvent::Deleted(object) => self.shared.set(&name_of(&object), None),
        }
    }

    fn replace(&self, objects: &[Arc<Object>]) {
        let mut gone: HashSet<NamespacedName> = {
            let views = self.shared.read();
            views.iter().map(|(name, _)| name.clone()).collect()
        };
        for object in objects {
            let name = name_of(object);
            gone.remove(&name);
            self.shared.set(&name, (self.view_of)(object));
        }
        for name in gone {
            self.shared.set(&name, None);
        }
    }
}

/// The name of an object of the watch cache.
#[must_use]
pub fn name_of(object: &Object) -> NamespacedName {
    NamespacedName::new(&*object.meta.namespace, &*object.meta.name)
}

#[cfg(test)]
mod tests;
