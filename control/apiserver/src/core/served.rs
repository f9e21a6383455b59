// SPDX-License-Identifier: Apache-2.0
//! What is served at one moment, and how that changes while the server runs.
//!
//! [`Served`] is immutable and swapped as a whole. The task that feeds the caches makes every change, between two
//! batches of events: so a new kind's cache begins where the others are, and no event is lost or applied twice.

use std::collections::HashMap;
use std::sync::Arc;

use knarr_store::{Range, Revision, StoreError};
use tokio::sync::oneshot;

use super::Core;
use crate::ApiError;
use crate::cache::{Cache, ResourceCache};
use crate::object::Object;
use crate::registry::{GroupVersionResource, Kind, KindId, Registry, RegistryError};

/// Changes of the kinds that wait for the feeding task. They are rare; a caller past the bound waits.
pub(super) const CHANGES_MAX: usize = 16;

/// Kinds, and a cache for each of them that is stored.
#[derive(Debug)]
pub(crate) struct Served {
    /// Grows with each change.
    pub(crate) generation: u64,
    pub(crate) registry: Arc<Registry>,
    caches: HashMap<KindId, Arc<ResourceCache>>,
}

/// A change of what is served.
#[derive(Debug)]
pub(crate) enum KindChange {
    /// Serves a kind, in the place of the one that has its group, version and plural name.
    Serve(Box<Kind>),
    /// Ends serving a kind. Its stored objects stay.
    Withdraw(GroupVersionResource),
}

/// A change and where its outcome goes.
#[derive(Debug)]
pub(super) struct ChangeRequest {
    pub(super) change: KindChange,
    pub(super) reply: oneshot::Sender<Result<(), KindError>>,
}

/// Why the kinds that are served were not changed.
#[derive(Debug, thiserror::Error)]
pub enum KindError {
    /// The kinds do not fit together.
    #[error("the kind cannot be served")]
    Registry(#[from] RegistryError),
    /// The objects of the kind could not be read. Worth another try.
    #[error("cannot read the stored objects of {resource}")]
    Load {
        /// The resource's store prefix.
        resource: String,
        /// What the store said.
        #[source]
        source: StoreError,
    },
    /// The server has ended.
    #[error("the server has ended")]
    Ended,
}

impl Served {
    /// These kinds, with caches that are empty.
    pub(super) fn new(registry: Registry) -> Self {
        let caches = registry
            .stored()
            .map(|kind| (kind.id, Arc::new(ResourceCache::new(Arc::clone(kind)))))
            .collect();
        Self {
            generation: 0,
            registry: Arc::new(registry),
            caches,
        }
    }

    pub(super) fn caches(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.caches.values()
    }

    /// The cache of the kind whose objects are stored where `key` is.
    pub(super) fn cache_of_key(&self, key: &[u8]) -> Option<&Arc<ResourceCache>> {
        self.caches.get(&self.registry.by_store_key(key)?.id)
    }

    /// The cache of this registration of a kind; `None` where it is not served any more.
    pub(crate) fn own_cache(&self, kind: &Kind) -> Option<Cache> {
        let cache = self.caches.get(&kind.stored().id)?;
        Some(Cache(Arc::clone(cache)))
    }

    /// The cache that has the objects of a kind. A request that began before the kind was replaced goes on with the
    /// objects of its successor, which are the same. 404 where the kind is no longer served.
    pub(crate) fn cache(&self, kind: &Kind) -> Result<Cache, ApiError> {
        let successor = || self.cache_of_key(kind.stored().prefix.as_bytes());
        let cache = self.own_cache(kind);
        let cache = cache.or_else(|| successor().map(|cache| Cache(Arc::clone(cache))));
        cache.ok_or_else(|| {
            ApiError::not_found(&kind.group, &kind.plural, "no such resource is served")
        })
    }
}

impl Core {
    /// Changes what is served. When it returns, the change is in effect for every request that follows.
    pub(crate) async fn change_kinds(&self, change: KindChange) -> Result<(), KindError> {
        let (reply, done) = oneshot::channel();
        let request = ChangeRequest { change, reply };
        let sent = self.changes.send(request).await;
        sent.map_err(|_| KindError::Ended)?;
        done.await.map_err(|_| KindError::Ended)?
    }

    /// Makes a change; only the task that feeds the caches does. Caches of kinds that stay are kept as they are.
    pub(super) async fn make_change(&self, change: KindChange) -> Result<(), KindError> {
        let before = self.served();
        let registry = match change {
            KindChange::Serve(kind) => before.registry.with(*kind)?,
            KindChange::Withdraw(resource) => before.registry.without(&resource)?,
        };
        let mut caches = HashMap::new();
        for kind in registry.stored() {
            let cache = match before.caches.get(&kind.id) {
                Some(kept) => Arc::clone(kept),
                None => self.filled_cache(kind).await?,
            };
            caches.insert(kind.id, cache);
        }
        let ended = before
            .caches
            .iter()
            .filter(|(id, _)| !caches.contains_key(id));
        let ended: Vec<_> = ended.map(|(_, cache)| Arc::clone(cache)).collect();
        // Before the swap: no event reaches these caches after it, and no reader may take them for current then.
        ended.iter().for_each(|cache| cache.end());
        let served = Arc::new(Served {
            generation: before.generation + 1,
            registry: Arc::new(registry),
            caches,
        });
        self.served.send_replace(Arc::clone(&served));
        for cache in ended {
            if served.cache_of_key(cache.prefix().as_bytes()).is_none() {
                self.forget_unreadable(cache.prefix(), &[]);
            }
        }
        Ok(())
    }

    /// The cache of a kind that was not served, with what is stored as of the other caches' revision.
    async fn filled_cache(&self, kind: &Arc<Kind>) -> Result<Arc<ResourceCache>, KindError> {
        let cache = ResourceCache::new(Arc::clone(kind));
        let revision = self.applied();
        let objects = self.stored_objects(&cache, revision).await;
        let objects = objects.map_err(|source| KindError::Load {
            resource: kind.prefix.to_string(),
            source,
        })?;
        cache.fill(objects, revision);
        Ok(Arc::new(cache))
    }

    /// Everything that is stored of the cache's kind and can be read, as of `revision` (0: nothing was written yet).
    pub(super) async fn stored_objects(
        &self,
        cache: &ResourceCache,
        revision: u64,
    ) -> Result<Vec<Object>, StoreError> {
        let mut range = Range::prefix(cache.prefix().to_owned());
        if revision > 0 {
            range = range.at(Revision(revision));
        }
        let found = self.store.range(range).await?;
        self.forget_unreadable(cache.prefix(), &found.kvs);
        let read = found
            .kvs
            .iter()
            .filter_map(|kv| self.read_stored(cache.kind(), &kv.key, &kv.value, kv.mod_revision.0));
        Ok(read.collect())
    }
}
