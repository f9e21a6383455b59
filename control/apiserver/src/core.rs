// SPDX-License-Identifier: Apache-2.0
//! What all verbs work on: the store, one watch cache for each resource, and the task that feeds them.
//!
//! One store watch over every key feeds every cache, so that "the caches have seen revision N" is one
//! number, and a read that must see an earlier write waits for that number.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use knarr_store::{Event, KeyValue, Range, Revision, Store, StoreError, WatchBatch};
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::admission::{Chain, Server};
use crate::allocations::{self, Allocations, Picks};
use crate::cache::{Cache, ResourceCache};
use crate::metrics::Metrics;
use crate::object::Object;
use crate::registry::{Kind, Registry};
use crate::{ApiConfig, ApiError, OpenError, PartDied, kinds};
use served::{CHANGES_MAX, ChangeRequest};

mod repair;
mod served;

pub use served::KindError;
pub(crate) use served::{KindChange, Served};

/// How long a read waits for the caches to see what the store already has.
const FRESH_MS_MAX: u64 = 3_000;
/// Pause before the store's watch is opened again after an error.
const REWATCH_MS: u64 = 200;
/// Time between two looks at how old the caches' events are, while they hold much.
const TRIM_S: u64 = 5;
/// History older than this is compacted, as kube-apiserver's `--etcd-compaction-interval`.
const COMPACTION_INTERVAL_S: u64 = 300;

/// The state that [`crate::ApiServer`] and [`crate::Client`] share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: ApiConfig,
    pub(crate) admission: Chain,
    pub(crate) allocations: Allocations,
    pub(crate) metrics: Metrics,
    /// What is served now.
    served: watch::Sender<Arc<Served>>,
    /// Changes of that, for the task that feeds the caches.
    changes: mpsc::Sender<ChangeRequest>,
    /// Every change up to this revision is in the caches.
    progress: watch::Sender<u64>,
    /// Where objects are stored that cannot be read: no cache has them, and no verb says that they do not exist.
    unreadable: Mutex<BTreeSet<String>>,
    /// Which task died and of what; set at most once.
    died: watch::Sender<Option<PartDied>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("revision", &self.applied())
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Fills the caches; the tasks that keep them filled end with the last [`Arc`] of the core.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        config: ApiConfig,
    ) -> Result<Arc<Self>, OpenError> {
        let served = Arc::new(Served::new(kinds::registry()));
        let (changes, requests) = mpsc::channel(CHANGES_MAX);
        let core = Self {
            store,
            admission: Chain::new(kinds::admission(), &config.admission),
            config,
            allocations: Allocations::default(),
            metrics: Metrics::new(),
            served: watch::Sender::new(served),
            changes,
            progress: watch::Sender::new(0),
            unreadable: Mutex::default(),
            died: watch::Sender::new(None),
        };
        let revision = core.load(Load::First).await.map_err(OpenError::Load)?;
        let core = Arc::new(core);
        let feed = core
            .store
            .watch(Revision(revision))
            .await
            .map_err(OpenError::Watch)?;
        let feeding = keep_fed(Arc::downgrade(&core), feed, requests);
        core.supervise("the task that feeds the caches", feeding);
        let compacting = keep_compacted(Arc::downgrade(&core));
        core.supervise("the task that compacts the history", compacting);
        core.repair_allocations().await.map_err(OpenError::Load)?;
        Ok(core)
    }

    /// Runs a task that has to live as long as the core; its end before that is told to whoever waits in
    /// [`crate::ApiServer::died`].
    fn supervise(&self, what: &'static str, part: impl Future<Output = End> + Send + 'static) {
        let died = self.died.clone();
        let running = tokio::spawn(part);
        tokio::spawn(async move {
            let cause = match running.await {
                Ok(End::Unused) => return,
                Ok(End::StoreClosed) => None,
                Err(error) => Some(Arc::new(error)),
            };
            died.send_replace(Some(PartDied { what, cause }));
        });
    }

    /// Waits for the death of a task that everything depends on.
    pub(crate) fn died(&self) -> impl Future<Output = PartDied> + Send + 'static {
        let mut died = self.died.subscribe();
        async move {
            loop {
                if let Some(died) = died.borrow_and_update().clone() {
                    return died;
                }
                if died.changed().await.is_err() {
                    // The core is gone, and nothing of it can die any more.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Reads every object. The first time fills the caches, later (after a gap) brings them up to date.
    async fn load(&self, load: Load) -> Result<u64, StoreError> {
        let newest = self.store.current_revision().await?;
        for cache in self.served().caches() {
            let objects = self.stored_objects(cache, newest.0).await?;
            match load {
                Load::First => cache.fill(objects, newest.0),
                Load::Again => cache.refill(objects, self.applied(), newest.0),
            }
        }
        let mut range = Range::prefix(allocations::PREFIX);
        if newest.0 > 0 {
            range = range.at(newest);
        }
        self.allocations.fill(&self.store.range(range).await?.kvs);
        self.advance(newest.0);
        Ok(newest.0)
    }

    /// A stored object; `None` for one that cannot be read. Such a one is left out of the caches, at start as well
    /// as later: everything else goes on, the log and a metric say what is missing, and requests for it fail.
    fn read_stored(&self, kind: &Kind, key: &[u8], value: &[u8], revision: u64) -> Option<Object> {
        let key = String::from_utf8_lossy(key);
        match Object::from_stored(kind, value, revision) {
            Ok(object) => {
                self.note_unreadable(|unreadable| unreadable.remove(&*key));
                Some(object)
            }
            Err(error) => {
                tracing::error!(
                    %key,
                    %error,
                    "an object in the store is not readable and is left out"
                );
                self.note_unreadable(|unreadable| unreadable.insert(key.into_owned()));
                None
            }
        }
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unreadable.lock()
    }

    fn note_unreadable(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        let mut unreadable = self.unreadable();
        if change(&mut unreadable) {
            let count = i64::try_from(unreadable.len()).unwrap_or(i64::MAX);
            self.metrics.unreadable.set(count);
        }
    }

    /// Forgets the unreadable keys below `prefix` that are no longer stored.
    fn forget_unreadable(&self, prefix: &str, stored: &[KeyValue]) {
        self.note_unreadable(|unreadable| {
            let before = unreadable.len();
            unreadable.retain(|key| {
                !key.starts_with(prefix) || stored.iter().any(|kv| kv.key == key.as_bytes())
            });
            unreadable.len() != before
        });
    }

    /// Whether something is stored that cannot be read, so that its absence from the caches proves nothing.
    pub(crate) fn has_unreadable(&self) -> bool {
        !self.unreadable().is_empty()
    }

    /// The same for the objects of one kind.
    pub(crate) fn has_unreadable_of(&self, kind: &Kind) -> bool {
        let prefix = &*kind.stored().prefix;
        self.unreadable().iter().any(|key| key.starts_with(prefix))
    }

    /// Refuses to speak about an object that is stored and cannot be read.
    pub(crate) fn check_readable(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let key = kind.stored().store_key(namespace, name);
        if self.unreadable().contains(&key) {
            return Err(ApiError::internal(format!(
                "the stored object {key} is not readable"
            )));
        }
        Ok(())
    }

    /// Follows how far the caches are.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    fn advance(&self, revision: u64) {
        self.progress.send_if_modified(|known| {
            let newer = revision > *known;
            *known = (*known).max(revision);
            newer
        });
    }

    /// Every change up to this revision is in the caches.
    pub(crate) fn applied(&self) -> u64 {
        *self.progress.borrow()
    }

    /// What is served now. The lock is held for as long as copying the pointer takes.
    pub(crate) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.served.borrow())
    }

    /// Each change of what is served.
    pub(crate) fn served_changes(&self) -> watch::Receiver<Arc<Served>> {
        self.served.subscribe()
    }

    /// The kinds that are served now.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.served.borrow().registry)
    }

    /// The cache that has the objects of a kind; see [`Served::cache`].
    pub(crate) fn cache(&self, kind: &Kind) -> Result<Cache, ApiError> {
        self.served.borrow().cache(kind)
    }

    /// Waits until the caches show everything that the store has acknowledged.
    pub(crate) async fn fresh(&self) -> Result<u64, ApiError> {
        let newest = self.store.current_revision().await?.0;
        self.wait_for(newest).await?;
        Ok(newest)
    }

    /// Waits until the caches are current, then [`Allocations::allocate`]. The write has to carry [`Allocations::claims`], and another round follows where these are refused.
    pub(crate) async fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Picks>, ApiError> {
        if !allocations::allocates(kind) {
            return Ok(None);
        }
        // What was acknowledged has to be known before anything is chosen.
        self.fresh().await?;
        let ranges = &*self.config.services;
        self.allocations
            .allocate(ranges, self.progress(), kind, service, old)
    }

    /// Waits until the caches show `revision`.
    pub(crate) async fn wait_for(&self, revision: u64) -> Result<(), ApiError> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let waited = tokio::time::timeout(
            Duration::from_millis(FRESH_MS_MAX),
            progress.wait_for(|applied| *applied >= revision),
        )
        .await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApiError::too_large_version(revision, self.applied())),
        }
    }

    fn apply(&self, batch: WatchBatch) {
        let served = self.served();
        let revision = batch.revision.0;
        for event in batch.events {
            let Some(cache) = served.cache_of_key(event.key()) else {
                self.allocations.observe(&event, revision);
                continue;
            };
            let kind = cache.kind();
            match event {
                Event::Put { key, value } => {
                    match self.read_stored(kind, &key, &value, revision) {
                        Some(object) => drop(cache.put(object)),
                        // Showing the version before it would be as wrong, and would end with a restart.
                        None => self.remove(cache, &key, revision),
                    }
                }
                Event::Delete { key } => {
                    let shown = String::from_utf8_lossy(&key);
                    self.note_unreadable(|unreadable| unreadable.remove(&*shown));
                    self.remove(cache, &key, revision);
                }
            }
        }
        self.advance(revision);
    }

    fn remove(&self, cache: &ResourceCache, store_key: &[u8], revision: u64) {
        let key = String::from_utf8_lossy(&store_key[cache.prefix().len()..]);
        cache.remove(&key, revision);
    }
}

#[async_trait]
impl Server for Core {
    fn registry(&self) -> Arc<Registry> {
        Self::registry(self)
    }

    fn cache(&self, kind: &Kind) -> Result<Cache, ApiError> {
        Self::cache(self, kind)
    }

    async fn fresh(&self) -> Result<u64, ApiError> {
        Self::fresh(self).await
    }

    fn not_ready_toleration_seconds(&self) -> i64 {
        self.config.not_ready_toleration_seconds
    }

    fn unreachable_toleration_seconds(&self) -> i64 {
        self.config.unreachable_toleration_seconds
    }
}

#[derive(Clone, Copy)]
enum Load {
    First,
    Again,
}

/// Why a task of the core has ended.
enum End {
    /// Nobody holds the core any more.
    Unused,
    /// The store is closed although somebody does.
    StoreClosed,
}

/// Applies the store's changes for as long as anybody holds the core, and takes old ones out of the windows of the caches.
/// While nothing changes and the windows are small it only waits.
async fn keep_fed(
    core: std::sync::Weak<Core>,
    mut feed: knarr_store::WatchStream,
    mut changes: mpsc::Receiver<ChangeRequest>,
) -> End {
    let mut trim_at = None;
    loop {
        let item = tokio::select! {
            // Waiting for an item or a request loses none when dropped; the third arm only waits for a moment.
            item = feed.next() => Some(item),
            request = changes.recv() => {
                let (Some(core), Some(request)) = (core.upgrade(), request) else {
                    return End::Unused;
                };
                let outcome = core.make_change(request.change).await;
                // A caller that has gone needs no answer.
                drop(request.reply.send(outcome));
                continue;
            }
            () = moment(trim_at) => None,
        };
        let Some(core) = core.upgrade() else {
            return End::Unused;
        };
        let Some(item) = item else {
            let now = std::time::Instant::now();
            // All of them, also after the first that is large.
            let served = core.served();
            let caches = served.caches();
            let large = caches.filter(|cache| cache.trim(now)).count();
            trim_at = (large > 0).then(|| Instant::now() + Duration::from_secs(TRIM_S));
            continue;
        };
        trim_at.get_or_insert_with(|| Instant::now() + Duration::from_secs(TRIM_S));
        match item {
            Some(Ok(batch)) => core.apply(batch),
            Some(Err(StoreError::Closed)) | None => return End::StoreClosed,
            Some(Err(error)) => {
                tracing::warn!(error = %knarr_base::chain(&error), "the store's watch broke, reading everything again");
                match reopened(&core).await {
                    Some(again) => feed = again,
                    None => return End::StoreClosed,
                }
            }
        }
    }
}

async fn moment(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Reads everything again and opens the watch from there; `None` when the store has closed.
async fn reopened(core: &Core) -> Option<knarr_store::WatchStream> {
    loop {
        match core.load(Load::Again).await {
            Ok(revision) => match core.store.watch(Revision(revision)).await {
                Ok(feed) => return Some(feed),
                Err(StoreError::Closed) => return None,
                Err(error) => {
                    tracing::warn!(error = %knarr_base::chain(&error), "cannot watch the store");
                }
            },
            Err(StoreError::Closed) => return None,
            Err(error) => {
                tracing::warn!(error = %knarr_base::chain(&error), "cannot read the store")
            }
        }
        tokio::time::sleep(Duration::from_millis(REWATCH_MS)).await;
    }
}

/// Compacts history after it has been kept for one interval. Writes nothing while nothing changes.
async fn keep_compacted(core: std::sync::Weak<Core>) -> End {
    let mut keep_from = core.upgrade().map_or(0, |c| c.applied());
    let mut done = keep_from;
    loop {
        tokio::time::sleep(Duration::from_secs(COMPACTION_INTERVAL_S)).await;
        let Some(core) = core.upgrade() else {
            return End::Unused;
        };
        if keep_from > done {
            match core.store.compact(Revision(keep_from)).await {
                Ok(()) => done = keep_from,
                Err(StoreError::Closed) => return End::StoreClosed,
                Err(error) => {
                    tracing::warn!(error = %knarr_base::chain(&error), "cannot compact the store");
                }
            }
        }
        keep_from = core.applied();
    }
}
