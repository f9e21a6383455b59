// SPDX-License-Identifier: Apache-2.0
//! A controller as a registration: its name, what it watches, what it owns, how many workers it has, and how one key is
//! reconciled. The runner does the rest.
//!
//! A changed object adds keys to the controller's queue, and a worker reconciles each. An error of a reconcile is logged
//! and retried with back-off; a panic is that too, and counted.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use knarr_api::names::NamespacedName;
use knarr_apiserver::ApiError;
use knarr_control_plan::garbage::Item;
use knarr_control_plan::owners;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::informer::{Change, Informer};
use crate::metadata::MetadataInformers;
use crate::queue::{Key, Outcome, Queue};
use crate::shared::Shared;

/// How a controller brings one object to what it should be.
#[async_trait]
pub trait Reconcile: Send + Sync + 'static {
    /// What names an object.
    type Key: Key;

    /// Fetches, plans and applies. No two workers have the same key at a time.
    async fn reconcile(&self, key: &Self::Key) -> Result<Outcome, ApiError>;
}

/// A view that names the object's controlling owner.
pub trait Owned {
    /// The owner whose reference is marked as the controller.
    fn controller(&self) -> Option<&owners::Controller>;
}

/// A controller that is being registered. `K` names what it reconciles.
pub struct Controller<K> {
    name: &'static str,
    workers: usize,
    queue: Queue<K>,
    synced: Vec<BoxFuture<'static, ()>>,
    watches: Vec<Box<dyn FnOnce() + Send>>,
}

/// A controller that the runner can start.
pub struct Registration {
    /// As the source of its events and as the label of its metrics.
    pub(crate) name: &'static str,
    pub(crate) run: Box<dyn FnOnce(Scope) -> BoxFuture<'static, ()> + Send>,
}

/// The bounds of a controller's tasks.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    /// Cancelled when tasks are to finish what they have begun, and end.
    pub(crate) stop: CancellationToken,
    /// Every task that a controller spawns is tracked here, so that the runner knows when the last one has ended.
    pub(crate) tasks: TaskTracker,
}

impl Registration {
    /// A controller with a loop of its own in place of a queue of keys. `run` ends soon after it is asked to, or is dropped.
    pub(crate) fn of_loop<F, R>(name: &'static str, run: F) -> Self
    where
        F: FnOnce(Scope) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        Self {
            name,
            run: Box::new(move |scope| run(scope).boxed()),
        }
    }
}

impl<K: Key> Controller<K> {
    /// A controller that watches nothing yet; `workers` keys are reconciled at once.
    pub fn new(shared: &Shared, name: &'static str, workers: usize) -> Self {
        let queue = Queue::new(shared.metrics().queue(name));
        shared.metrics().follow(name, queue.in_progress());
        Self {
            name,
            workers,
            queue,
            synced: Vec::new(),
            watches: Vec::new(),
        }
    }

    /// Its queue, for a reconcile that adds other keys.
    pub fn queue(&self) -> Queue<K> {
        self.queue.clone()
    }

    /// No worker starts before the informer has its first list.
    #[must_use]
    pub fn reads<V: Send + Sync + 'static>(mut self, informer: &Informer<V>) -> Self {
        let informer = informer.clone();
        self.synced
            .push(async move { informer.synced().await }.boxed());
        self
    }

    /// As [`Controller::reads`], and `handler` adds to the queue what each change concerns. It first sees every object that
    /// there is.
    #[must_use]
    pub fn watches<V, H>(self, informer: &Informer<V>, handler: H) -> Self
    where
        V: Send + Sync + 'static,
        H: Fn(&Queue<K>, &Change<'_, V>) + Send + Sync + 'static,
    {
        let (watched, queue) = (informer.clone(), self.queue.clone());
        let mut this = self.reads(informer);
        this.watches.push(Box::new(move || {
            watched.subscribe(move |change| handler(&queue, change));
        }));
        this
    }

    /// Has `run` called with the queue when every informer has its first list and before the first worker starts.
    #[must_use]
    pub(crate) fn starts_with(mut self, run: impl FnOnce(&Queue<K>) + Send + 'static) -> Self {
        let queue = self.queue.clone();
        self.watches.push(Box::new(move || run(&queue)));
        self
    }

    /// As [`Controller::watches`], for the metadata of every object.
    #[must_use]
    pub fn watches_metadata<H>(mut self, metadata: &MetadataInformers, handler: H) -> Self
    where
        H: Fn(&Queue<K>, &Change<'_, Item>) + Send + Sync + 'static,
    {
        let (watched, queue) = (metadata.clone(), self.queue.clone());
        let synced = metadata.clone();
        self.synced
            .push(async move { synced.synced().await }.boxed());
        self.watches.push(Box::new(move || {
            watched.subscribe(move |change| handler(&queue, change));
        }));
        self
    }

    /// Completes the registration.
    #[must_use]
    pub fn reconcile(self, reconcile: impl Reconcile<Key = K>) -> Registration {
        let name = self.name;
        let reconcile: Arc<dyn Reconcile<Key = K>> = Arc::new(reconcile);
        let run = move |scope| self.run(reconcile, scope).boxed();
        Registration {
            name,
            run: Box::new(run),
        }
    }

    async fn run(self, reconcile: Arc<dyn Reconcile<Key = K>>, scope: Scope) {
        let Self {
            name,
            workers,
            queue,
            synced,
            watches,
        } = self;
        // Safe to drop: informers are only waited for.
        tokio::select! {
            _ = futures::future::join_all(synced) => {}
            () = scope.stop.cancelled() => return,
        }
        for watch in watches {
            watch();
        }
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let worker = Worker {
                name,
                queue: queue.clone(),
                reconcile: reconcile.clone(),
            };
            tasks.spawn(scope.tasks.track_future(worker.run(scope.stop.clone())));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                // A worker catches the panics of reconciles, so this is a fault of the runner.
                tracing::error!(controller = name, %error, "a worker failed");
                return;
            }
        }
    }
}

impl Controller<NamespacedName> {
    /// Adds the owner of each changed object, before and after the change, where the controlling owner is of `kind`.
    #[must_use]
    pub fn owns<V>(self, informer: &Informer<V>, kind: &'static str) -> Self
    where
        V: Owned + Send + Sync + 'static,
    {
        self.watches(informer, move |queue, change| {
            let owners = change.views().filter_map(|view| view.controller());
            for owner in owners.filter(|owner| &*owner.kind == kind) {
                let namespace = change.name.namespace.as_str();
                queue.add(NamespacedName::new(namespace, &*owner.name));
            }
        })
    }

    /// Adds each changed object itself.
    #[must_use]
    pub fn watches_itself<V: Send + Sync + 'static>(self, informer: &Informer<V>) -> Self {
        self.watches(informer, |queue, change| queue.add(change.name.clone()))
    }
}

struct Worker<K> {
    name: &'static str,
    queue: Queue<K>,
    reconcile: Arc<dyn Reconcile<Key = K>>,
}

impl<K: Key> Worker<K> {
    /// Reconciles keys until `stop`; the key that it has then is finished.
    async fn run(self, stop: CancellationToken) {
        loop {
            // Safe to drop: a key that is not taken stays in the queue.
            let key = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                key = self.queue.next() => key,
            };
            // Nothing of a reconcile is used again after it panicked.
            let reconciled = AssertUnwindSafe(self.reconcile.reconcile(&key));
            let outcome = match reconciled.catch_unwind().await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => self.failed(&key, &error),
                Err(_) => {
                    tracing::error!(controller = self.name, ?key, "a reconcile panicked");
                    self.queue.metrics().panics.inc();
                    Outcome::Retry
                }
            };
            self.queue.done(&key, outcome);
        }
    }

    /// What a failed reconcile asks for. Failures that others' writes cause are usual, and not worth a line in the log.
    fn failed(&self, key: &K, error: &ApiError) -> Outcome {
        if error.is_namespace_ending() {
            return Outcome::Done;
        }
        if !(error.is_conflict() || error.is_not_found() || error.is_already_exists()) {
            tracing::warn!(controller = self.name, ?key, %error, "a reconcile failed");
        }
        Outcome::Retry
    }
}
