// SPDX-License-Identifier: Apache-2.0
//! Lists a resource and then follows it: the one way in which this process keeps up with the watch cache.
//!
//! A reader that fell behind gets the whole list again. What a reader keeps of the objects is its own: the informers,
//! the scheduler and the node feed read from here. API watches of clients are served elsewhere, by `knarr-apiserver`.

use std::sync::Arc;

use knarr_apiserver::{Cache, CacheEvent, CacheEventKind, EventStream, Lagged, Object};

/// What a reader takes in. The objects are those of the watch cache, not copies.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// Every object there is: at the start, and after the reader fell behind. What is not among them is gone.
    Replaced(Vec<Arc<Object>>),
    /// An object was created or changed.
    Applied(Arc<Object>),
    /// An object is gone; this was its last state.
    Deleted(Arc<Object>),
}

impl WatchEvent {
    /// The objects that it says exist.
    pub fn present(&self) -> impl Iterator<Item = &Arc<Object>> {
        match self {
            Self::Replaced(objects) => objects.as_slice(),
            Self::Applied(object) => std::slice::from_ref(object),
            Self::Deleted(_) => &[],
        }
        .iter()
    }
}

impl From<&CacheEvent> for WatchEvent {
    fn from(event: &CacheEvent) -> Self {
        let object = event.object.clone();
        match event.kind {
            CacheEventKind::Added | CacheEventKind::Modified => Self::Applied(object),
            CacheEventKind::Deleted => Self::Deleted(object),
        }
    }
}

/// One reader of one resource.
#[derive(Debug)]
pub struct Reflector {
    cache: Cache,
    /// `None` until the first list.
    events: Option<EventStream>,
}

impl Reflector {
    /// A reader that has seen nothing yet.
    #[must_use]
    pub fn new(cache: Cache) -> Self {
        Self {
            cache,
            events: None,
        }
    }

    /// The next event; waits for one. Dropping the future loses nothing.
    pub async fn next(&mut self) -> WatchEvent {
        let Some(events) = &mut self.events else {
            return self.list();
        };
        match events.next().await {
            Ok(event) => WatchEvent::from(&*event),
            Err(Lagged) => self.list(),
        }
    }

    /// The next event, where there is one already.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        let Some(events) = &mut self.events else {
            return Some(self.list());
        };
        match events.try_next() {
            Ok(event) => event.map(|event| WatchEvent::from(&*event)),
            Err(Lagged) => Some(self.list()),
        }
    }

    fn list(&mut self) -> WatchEvent {
        let (snapshot, events) = self.cache.watch();
        self.events = Some(events);
        WatchEvent::Replaced(snapshot.objects)
    }
}
