// SPDX-License-Identifier: Apache-2.0
//! The informers that controllers share: one for each view, started when the first controller asks for it.
//!
//! Client-go calls this a shared informer factory. The runner makes one for each term of leadership and ends it after the
//! last worker.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use knarr_apiserver::{ApiError, Cache, Client};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::informer::{IndexOf, Informer, View, ViewOf};

/// One value of each type.
type ByType = Arc<Mutex<HashMap<TypeId, Box<dyn Any + Send>>>>;

/// The shared informers. Clones share them.
#[derive(Debug, Clone)]
pub struct Informers {
    client: Client,
    by_view: ByType,
    sets: ByType,
    tasks: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Informers {
    /// No informers yet; those that start end at `stop`.
    pub(crate) fn new(client: Client, stop: CancellationToken) -> Self {
        Self {
            client,
            by_view: Arc::default(),
            sets: Arc::default(),
            tasks: TaskTracker::new(),
            stop,
            failed: CancellationToken::new(),
        }
    }

    /// The informer of a view. Fails for a kind that is not served.
    pub fn of<V: View>(&self) -> Result<Informer<V>, ApiError> {
        let mut by_view = self.by_view.lock();
        let known = by_view.get(&TypeId::of::<V>());
        if let Some(informer) = known.and_then(|known| known.downcast_ref::<Informer<V>>()) {
            return Ok(informer.clone());
        }
        let cache = self.client.cache_of::<V::Kind>()?;
        let informer = self.start(cache, Box::new(V::of), V::index, CancellationToken::new());
        by_view.insert(TypeId::of::<V>(), Box::new(informer.clone()));
        Ok(informer)
    }

    /// A set of informers that is made of these, once for all who ask. `make` may start informers.
    pub(crate) fn once<T: Clone + Send + 'static>(&self, make: impl FnOnce(Client) -> T) -> T {
        let mut sets = self.sets.lock();
        let known = sets.get(&TypeId::of::<T>());
        if let Some(set) = known.and_then(|known| known.downcast_ref::<T>()) {
            return set.clone();
        }
        let set = make(self.client.clone());
        sets.insert(TypeId::of::<T>(), Box::new(set.clone()));
        set
    }

    /// Starts an informer that only its maker knows. It ends with the others, or after `unserved`, when every object counts
    /// as gone.
    pub(crate) fn start<V: Send + Sync + 'static>(
        &self,
        cache: Cache,
        view_of: ViewOf<V>,
        index_of: IndexOf<V>,
        unserved: CancellationToken,
    ) -> Informer<V> {
        let (informer, following) = Informer::new(cache, view_of, index_of, unserved);
        self.supervise(following);
        informer
    }

    /// Runs a task of an informer until the informers end.
    pub(crate) fn supervise(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, failed) = (self.stop.clone(), self.failed.clone());
        self.tasks.spawn(async move {
            // Safe to drop: views change between awaits only. Nothing of the task is used again after a panic.
            tokio::select! {
                ended = AssertUnwindSafe(task).catch_unwind() => if ended.is_err() {
                    tracing::error!("an informer panicked, and no controller may go on with old views");
                    failed.cancel();
                },
                () = stop.cancelled() => {}
            }
        });
    }

    /// Returns when an informer has panicked.
    pub(crate) async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Ends every informer and waits until they have ended.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Sets of informers hold these in turn, so views of a term that is over would stay for ever.
        for by_type in [&self.by_view, &self.sets] {
            let mut held = by_type.lock();
            let ended = std::mem::take(&mut *held);
            drop(held);
            drop(ended);
        }
    }
}
