// SPDX-License-Identifier: Apache-2.0
//! The watch cache of one resource: every object as of now and a bounded window of what happened.
//!
//! One task (`core`) writes it from the store's watch; API watches, lists, controllers and the
//! scheduler read it. Readers hold a position and are woken without a message; nobody has a queue of
//! their own, so a slow reader costs nothing and finds out by [`Lagged`].

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::object::Object;
use crate::registry::{Kind, key};

/// Events kept for watches that start in the past or fall behind, per resource.
const WINDOW_EVENTS_MAX: usize = 8192;
/// Bytes of objects that such events may keep alive, per resource.
const WINDOW_BYTES_MAX: usize = 8 << 20;
/// Events stay for this long at least, within the bounds above: longer than a client that reads nothing is without a
/// new version (a bookmark's or its reconnect's), as far as the memory goes back soon after a burst.
const WINDOW_AGE: Duration = Duration::from_secs(40);
/// Events that hold no more than this stay without regard to their age.
const WINDOW_BYTES_KEPT: usize = 128 << 10;
/// What an event and its object hold beside the object's bytes: metadata in pieces, and their places.
const EVENT_OVERHEAD_BYTES: usize = 600;
/// Events that a reader takes under one hold of the lock.
const BATCH_MAX: usize = 256;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheEventKind {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub struct CacheEvent {
    /// What happened.
    pub kind: CacheEventKind,
    /// The object after the change; for a deletion the last state, with the deletion's resourceVersion.
    pub object: Arc<Object>,
    /// The object before the change; `None` for a creation.
    pub previous: Option<Arc<Object>>,
    /// The revision of the change.
    pub revision: u64,
}

/// The reader fell behind the window and missed events: list again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the watch fell behind and missed events")]
pub struct Lagged;

/// The revision to start from is older than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct Expired {
    /// What was asked for.
    pub requested: u64,
    /// The oldest revision a watch can start from.
    pub oldest: u64,
}

/// A stretch of history that was missed. Who stands before or behind it can watch; for who stands inside it,
/// some of what happened is unknown (an object that came and went, for example).
#[derive(Debug)]
struct Gap {
    /// The last revision before it.
    after: u64,
    /// The revision that was read instead.
    until: u64,
}

/// An event in the window.
#[derive(Debug)]
struct Kept {
    event: Arc<CacheEvent>,
    since: Instant,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    /// How many of them each namespace has; none is 0.
    counts: HashMap<Box<str>, usize>,
    window: VecDeque<Kept>,
    window_bytes: usize,
    /// Sequence number of the first event in the window.
    first: u64,
    /// Every event after this revision is in the window, except inside `gaps`.
    floor: u64,
    /// Revisions between which only the outcome is known, oldest first; the window's events lead over them.
    gaps: VecDeque<Gap>,
    /// The newest change of this resource.
    revision: u64,
}

/// The storage behind [`Cache`]; written only by `core`.
#[derive(Debug)]
pub(crate) struct ResourceCache {
    kind: Arc<Kind>,
    state: RwLock<State>,
    /// Sequence number that the next event will get.
    next: watch::Sender<u64>,
    /// Cancelled when no event follows.
    ended: CancellationToken,
}

impl ResourceCache {
    pub(crate) fn new(kind: Arc<Kind>) -> Self {
        Self {
            kind,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                counts: HashMap::new(),
                window: VecDeque::new(),
                window_bytes: 0,
                first: 0,
                floor: 0,
                gaps: VecDeque::new(),
                revision: 0,
            }),
            next: watch::Sender::new(0),
            ended: CancellationToken::new(),
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.kind.prefix
    }

    /// Notifies the readers that no event follows. Called before the kinds without this one are published, so a reader that
    /// finds the cache not ended knows that it shows every revision that it has seen applied before.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Cancelled when no event follows: the kind is withdrawn, or replaced by another form of it.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// First filling: the objects as of `revision`; watches can start from there.
    pub(crate) fn fill(&self, objects: Vec<Object>, revision: u64) {
        let mut state = self.state.write();
        state.objects = objects
            .into_iter()
            .map(|o| (o.meta.key().into_boxed_str(), Arc::new(o)))
            .collect();
        let mut counts = HashMap::new();
        for object in state.objects.values() {
            *counts.entry(object.meta.namespace.clone()).or_default() += 1;
        }
        state.counts = counts;
        state.window.clear();
        state.window_bytes = 0;
        state.first = *self.next.borrow();
        state.floor = revision;
        state.gaps.clear();
        state.revision = revision;
    }

    /// After the store's watch has missed what came after revision `after`: makes the objects those of `until`,
    /// by the events that lead there. They are put in by revision, as if the watch had brought them; readers find
    /// their place by it.
    pub(crate) fn refill(&self, mut objects: Vec<Object>, after: u64, until: u64) {
        let present: HashSet<String> = objects.iter().map(|o| o.meta.key()).collect();
        objects.sort_by_key(|o| o.meta.resource_version);
        for object in objects {
            let key = object.meta.key();
            let known = self.get(&key);
            if known
                .as_ref()
                .is_some_and(|o| o.meta.uid != object.meta.uid)
            {
                self.remove(&key, object.meta.resource_version);
            }
            if known.is_none_or(|o| o.meta.resource_version != object.meta.resource_version) {
                self.put(object);
            }
        }
        let gone: Vec<Box<str>> = self
            .read()
            .objects
            .keys()
            .filter(|k| !present.contains(&***k))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key, until);
        }
        if after < until {
            let mut state = self.state.write();
            state.gaps.push_back(Gap { after, until });
        }
    }

    /// Applies one write.
    pub(crate) fn put(&self, object: Object) -> Arc<CacheEvent> {
        let revision = object.meta.resource_version;
        let key = object.meta.key().into_boxed_str();
        let object = Arc::new(object);
        let mut state = self.state.write();
        let previous = state.objects.insert(key, Arc::clone(&object));
        if previous.is_none() {
            match state.counts.get_mut(&object.meta.namespace) {
                Some(count) => *count += 1,
                None => drop(state.counts.insert(object.meta.namespace.clone(), 1)),
            }
        }
        let event = Arc::new(CacheEvent {
            kind: if previous.is_none() {
                CacheEventKind::Added
            } else {
                CacheEventKind::Modified
            },
            object,
            previous,
            revision,
        });
        self.push(state, Arc::clone(&event));
        event
    }

    /// Applies one deletion; `None` when there was no such object.
    pub(crate) fn remove(&self, key: &str, revision: u64) -> Option<Arc<CacheEvent>> {
        let mut state = self.state.write();
        let previous = state.objects.remove(key)?;
        if let Some(count) = state.counts.get_mut(&previous.meta.namespace) {
            *count -= 1;
            if *count == 0 {
                state.counts.remove(&previous.meta.namespace);
            }
        }
        let event = Arc::new(CacheEvent {
            kind: CacheEventKind::Deleted,
            object: Arc::new(previous.deleted_at(revision)),
            previous: Some(previous),
            revision,
        });
        self.push(state, Arc::clone(&event));
        Some(event)
    }

    fn push(&self, mut state: parking_lot::RwLockWriteGuard<'_, State>, event: Arc<CacheEvent>) {
        state.revision = state.revision.max(event.revision);
        state.window_bytes += held_bytes(&event);
        state.window.push_back(Kept {
            event,
            since: Instant::now(),
        });
        state.forget_while(|state| {
            state.window.len() > WINDOW_EVENTS_MAX || state.window_bytes > WINDOW_BYTES_MAX
        });
        drop(state);
        self.next.send_modify(|next| *next += 1);
    }

    /// Forgets events that are old at `now` and hold more than is kept of every age. Whether there is more than that
    /// still, so that it is worth coming again.
    pub(crate) fn trim(&self, now: Instant) -> bool {
        let is_large = |state: &State| state.window_bytes > WINDOW_BYTES_KEPT;
        if !is_large(&self.read()) {
            return false;
        }
        let mut state = self.state.write();
        state.forget_while(|state| {
            let oldest = state.window.front();
            let is_old = |kept: &Kept| now.saturating_duration_since(kept.since) > WINDOW_AGE;
            is_large(state) && oldest.is_some_and(is_old)
        });
        let needed = state.window.len() * 2;
        state.window.shrink_to(needed);
        is_large(&state)
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.read().objects.get(key).cloned()
    }

    /// The objects of one namespace (or all), and the newest revision that they show.
    pub(crate) fn list(&self, namespace: Option<&str>) -> Snapshot {
        let state = self.read();
        Snapshot {
            objects: select(&state, namespace).cloned().collect(),
            revision: state.revision,
        }
    }

    /// The first `limit` objects of one namespace (or all), and how many it has. Costs what it returns.
    pub(crate) fn first(&self, namespace: Option<&str>, limit: usize) -> (Snapshot, usize) {
        let state = self.read();
        let snapshot = Snapshot {
            objects: select(&state, namespace).take(limit).cloned().collect(),
            revision: state.revision,
        };
        (snapshot, state.count(namespace))
    }

    /// How many objects one namespace (or all) has.
    pub(crate) fn count(&self, namespace: Option<&str>) -> usize {
        self.read().count(namespace)
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    fn snapshot_and_position(&self, namespace: Option<&str>) -> (Snapshot, u64) {
        let state = self.read();
        let snapshot = Snapshot {
            objects: select(&state, namespace).cloned().collect(),
            revision: state.revision,
        };
        (snapshot, state.first + state.window.len() as u64)
    }

    /// The position after every event up to `revision`.
    fn position_after(&self, revision: u64) -> Result<u64, Expired> {
        let state = self.read();
        if revision < state.floor {
            return Err(Expired {
                requested: revision,
                oldest: state.floor,
            });
        }
        let inside = |gap: &&Gap| gap.after < revision && revision < gap.until;
        if let Some(gap) = state.gaps.iter().find(inside) {
            return Err(Expired {
                requested: revision,
                oldest: gap.until,
            });
        }
        let skipped = state
            .window
            .partition_point(|kept| kept.event.revision <= revision);
        Ok(state.first + skipped as u64)
    }

    fn events_from(&self, position: u64) -> Result<Vec<Arc<CacheEvent>>, Lagged> {
        let state = self.read();
        let skip = position.checked_sub(state.first).ok_or(Lagged)?;
        let skip = usize::try_from(skip).map_err(|_| Lagged)?;
        Ok(state
            .window
            .iter()
            .skip(skip)
            .take(BATCH_MAX)
            .map(|kept| Arc::clone(&kept.event))
            .collect())
    }
}

fn held_bytes(event: &CacheEvent) -> usize {
    // A deletion holds the object's last state, which nothing else does, beside the copy with the new version.
    let last = event
        .previous
        .as_ref()
        .filter(|_| event.kind == CacheEventKind::Deleted);
    event.object.bytes.len() + last.map_or(0, |last| last.bytes.len()) + EVENT_OVERHEAD_BYTES
}

impl State {
    /// Takes the oldest events out of the window for as long as `too_much` says so.
    fn forget_while(&mut self, too_much: impl Fn(&Self) -> bool) {
        while too_much(self) {
            let Some(Kept { event: old, .. }) = self.window.pop_front() else {
                break;
            };
            self.window_bytes -= held_bytes(&old);
            self.first += 1;
            self.floor = self.floor.max(old.revision);
        }
        // A gap whose beginning has left the window: nobody may start before its end.
        while self.gaps.front().is_some_and(|gap| gap.after < self.floor) {
            if let Some(gap) = self.gaps.pop_front() {
                self.floor = self.floor.max(gap.until);
            }
        }
    }

    fn count(&self, namespace: Option<&str>) -> usize {
        match namespace {
            None => self.objects.len(),
            Some(namespace) => self.counts.get(namespace).copied().unwrap_or(0),
        }
    }
}

fn select<'a>(
    state: &'a State,
    namespace: Option<&str>,
) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
    let bounds = match namespace {
        None => (Bound::Unbounded, Bound::Unbounded),
        // '0' is the byte after '/'.
        Some(namespace) => (
            Bound::Included(format!("{namespace}/").into_boxed_str()),
            Bound::Excluded(format!("{namespace}0").into_boxed_str()),
        ),
    };
    state.objects.range(bounds).map(|(_, object)| object)
}

/// Objects as of one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// In the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// The newest change of the resource that they show.
    pub revision: u64,
}

/// One resource, read without a copy and without HTTP.
#[derive(Debug, Clone)]
pub struct Cache(pub(crate) Arc<ResourceCache>);

impl Cache {
    /// One object; `namespace` is empty for kinds of the cluster.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.0.get(&key(namespace, name))
    }

    /// Every object, in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.0.list(None).objects
    }

    /// The objects of one namespace.
    #[must_use]
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.0.list(Some(namespace)).objects
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many event streams are open.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.0.next.receiver_count()
    }

    /// Every object now, and every change from now on.
    #[must_use]
    pub fn watch(&self) -> (Snapshot, EventStream) {
        let (snapshot, position) = self.0.snapshot_and_position(None);
        (snapshot, EventStream::new(Arc::clone(&self.0), position))
    }

    /// As [`Cache::watch`], with the objects of one namespace; the stream still carries every namespace.
    pub(crate) fn watch_namespace(&self, namespace: Option<&str>) -> (Snapshot, EventStream) {
        let (snapshot, position) = self.0.snapshot_and_position(namespace);
        (snapshot, EventStream::new(Arc::clone(&self.0), position))
    }

    /// Every change after `revision`.
    pub fn watch_from(&self, revision: u64) -> Result<EventStream, Expired> {
        let position = self.0.position_after(revision)?;
        Ok(EventStream::new(Arc::clone(&self.0), position))
    }
}

/// A reader's place in the window of a cache.
#[derive(Debug)]
pub struct EventStream {
    cache: Arc<ResourceCache>,
    next: u64,
    taken: VecDeque<Arc<CacheEvent>>,
    wake: watch::Receiver<u64>,
}

impl EventStream {
    fn new(cache: Arc<ResourceCache>, next: u64) -> Self {
        let wake = cache.next.subscribe();
        Self {
            cache,
            next,
            taken: VecDeque::new(),
            wake,
        }
    }

    /// The next change; waits for one, and forever where this form of the kind is not served any more. After [`Lagged`]
    /// the stream is of no more use. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Arc<CacheEvent>, Lagged> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(event);
            }
            // The sender lives in the cache that this stream holds, so it cannot be gone.
            if self.wake.changed().await.is_err() {
                return Err(Lagged);
            }
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Result<Option<Arc<CacheEvent>>, Lagged> {
        if self.taken.is_empty() {
            self.wake.borrow_and_update();
            self.taken = self.cache.events_from(self.next)?.into();
            self.next += self.taken.len() as u64;
        }
        Ok(self.taken.pop_front())
    }
}

#[cfg(test)]
mod tests;
