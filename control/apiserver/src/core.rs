// SPDX-License-Identifier: Apache-2.0
//! What all verbs work on: the store, one watch cache for each resource, and the task that feeds them.
//!
//! One store watch over every key feeds every cache, so that "the caches have seen revision N" is one
//! number, and a read that must see an earlier write waits for that number.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use knarr_store::{EventKind, Range, Revision, Store, StoreError, WatchBatch};
use tokio::sync::watch;

use crate::allocations::Allocations;
use crate::cache::{Cache, ResourceCache};
use crate::metrics::Metrics;
use crate::object::Object;
use crate::registry::{self, Kind};
use crate::{ApiConfig, ApiError, OpenError, Reason};

/// How long a read waits for the caches to see what the store already has.
const FRESH_MS_MAX: u64 = 3_000;
/// Pause before the store's watch is opened again after an error.
const REWATCH_MS: u64 = 200;
/// History older than this is compacted, as kube-apiserver's `--etcd-compaction-interval`.
const COMPACTION_INTERVAL_S: u64 = 300;

/// The state that [`crate::ApiServer`] and [`crate::Client`] share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) config: ApiConfig,
    pub(crate) allocations: Allocations,
    pub(crate) metrics: Metrics,
    caches: Vec<Arc<ResourceCache>>,
    /// Every change up to this revision is in the caches.
    progress: watch::Sender<u64>,
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
        let caches: Vec<_> = registry::stored()
            .map(|kind| Arc::new(ResourceCache::new(kind)))
            .collect();
        let core = Self {
            store,
            config,
            allocations: Allocations::default(),
            metrics: Metrics::new(),
            caches,
            progress: watch::Sender::new(0),
        };
        let revision = core.load(Load::First).await?;
        let core = Arc::new(core);
        let feed = core
            .store
            .watch(
                Bytes::from_static(&[0]),
                Bytes::from_static(&[0]),
                Revision(revision).next(),
            )
            .await
            .map_err(OpenError::Watch)?;
        tokio::spawn(keep_fed(Arc::downgrade(&core), feed));
        tokio::spawn(keep_compacted(Arc::downgrade(&core)));
        Ok(core)
    }

    /// Reads every object. The first time fills the caches, later (after a gap) brings them up to date.
    async fn load(&self, load: Load) -> Result<u64, OpenError> {
        let newest = self
            .store
            .range(Range::key(Bytes::from_static(b"/")))
            .await
            .map_err(OpenError::Load)?
            .revision;
        for cache in &self.caches {
            let mut range = Range::prefix(cache.kind().prefix());
            if newest.0 > 0 {
                range = range.at(newest);
            }
            let found = self.store.range(range).await.map_err(OpenError::Load)?;
            let mut objects = Vec::with_capacity(found.kvs.len());
            for kv in found.kvs {
                let object = Object::from_stored(cache.kind(), &kv.value, kv.mod_revision.0)
                    .map_err(|source| OpenError::Object {
                        key: String::from_utf8_lossy(&kv.key).into_owned(),
                        source,
                    })?;
                objects.push(object);
            }
            self.allocations.reset(cache.kind(), &objects);
            match load {
                Load::First => cache.fill(objects, newest.0),
                Load::Again => cache.refill(objects, newest.0),
            }
        }
        self.advance(newest.0);
        Ok(newest.0)
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

    pub(crate) fn cache(&self, kind: &'static Kind) -> Cache {
        let stored = kind.stored();
        let found = self
            .caches
            .iter()
            .find(|c| std::ptr::eq(c.kind(), stored))
            .expect("every stored kind of the registry got a cache in Core::open");
        Cache(Arc::clone(found))
    }

    /// Waits until the caches show everything that the store has acknowledged.
    pub(crate) async fn fresh(&self) -> Result<u64, ApiError> {
        let newest = self.store.stats().revision.0;
        self.wait_for(newest).await?;
        Ok(newest)
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
        for event in batch.events {
            let Some(cache) = self.cache_of_key(&event.kv.key) else {
                continue;
            };
            let kind = cache.kind();
            let prefix = cache.prefix();
            match event.kind {
                EventKind::Put => {
                    match Object::from_stored(kind, &event.kv.value, event.kv.mod_revision.0) {
                        Ok(object) => {
                            let event = cache.put(object);
                            self.allocations.observe(
                                kind,
                                event.previous.as_deref(),
                                Some(&event.object),
                            );
                        }
                        Err(error) => tracing::error!(
                            key = %String::from_utf8_lossy(&event.kv.key),
                            %error,
                            "an object in the store is not readable and is left out"
                        ),
                    }
                }
                EventKind::Delete => {
                    let key = String::from_utf8_lossy(&event.kv.key[prefix.len()..]).into_owned();
                    if let Some(event) = cache.remove(&key, batch.revision.0) {
                        self.allocations
                            .observe(kind, event.previous.as_deref(), None);
                    }
                }
            }
        }
        self.advance(batch.revision.0);
    }

    fn cache_of_key(&self, key: &[u8]) -> Option<&Arc<ResourceCache>> {
        self.caches
            .iter()
            .find(|c| key.starts_with(c.prefix().as_bytes()))
    }
}

impl ApiError {
    /// 504: the client asks for a revision that has not happened yet.
    fn too_large_version(wanted: u64, current: u64) -> Self {
        Self::new(
            Reason::Timeout,
            format!("Too large resource version: {wanted}, current: {current}"),
        )
    }
}

#[derive(Clone, Copy)]
enum Load {
    First,
    Again,
}

/// Applies the store's changes for as long as anybody holds the core.
async fn keep_fed(core: std::sync::Weak<Core>, mut feed: knarr_store::WatchStream) {
    loop {
        let item = feed.next().await;
        let Some(core) = core.upgrade() else { return };
        match item {
            Some(Ok(batch)) => core.apply(batch),
            Some(Err(StoreError::Closed)) | None => return,
            Some(Err(error)) => {
                tracing::warn!(%error, "the store's watch broke, reading everything again");
                match reopened(&core).await {
                    Some(again) => feed = again,
                    None => return,
                }
            }
        }
    }
}

/// Reads everything again and opens the watch from there; `None` when the store has closed.
async fn reopened(core: &Core) -> Option<knarr_store::WatchStream> {
    loop {
        match core.load(Load::Again).await {
            Ok(revision) => {
                let all = Bytes::from_static(&[0]);
                match core
                    .store
                    .watch(all.clone(), all, Revision(revision).next())
                    .await
                {
                    Ok(feed) => return Some(feed),
                    Err(StoreError::Closed) => return None,
                    Err(error) => tracing::warn!(%error, "cannot watch the store"),
                }
            }
            Err(OpenError::Load(StoreError::Closed)) => return None,
            Err(error) => tracing::warn!(%error, "cannot read the store"),
        }
        tokio::time::sleep(Duration::from_millis(REWATCH_MS)).await;
    }
}

/// Compacts history after it has been kept for one interval. Writes nothing while nothing changes.
async fn keep_compacted(core: std::sync::Weak<Core>) {
    let mut keep_from = core.upgrade().map_or(0, |c| c.applied());
    let mut done = keep_from;
    loop {
        tokio::time::sleep(Duration::from_secs(COMPACTION_INTERVAL_S)).await;
        let Some(core) = core.upgrade() else { return };
        if keep_from > done {
            match core.store.compact(Revision(keep_from)).await {
                Ok(()) => done = keep_from,
                Err(StoreError::Closed) => return,
                Err(error) => tracing::warn!(%error, "cannot compact the store"),
            }
        }
        keep_from = core.applied();
    }
}
