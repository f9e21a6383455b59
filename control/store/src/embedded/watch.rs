// SPDX-License-Identifier: Apache-2.0
//! Watches: history is replayed at the reader's pace, then the reader is given what is committed.
//!
//! A reader joins the live ones under the same lock that a commit publishes under, and only when it
//! has seen everything up to the newest published revision; so it misses nothing and sees nothing
//! twice. A live reader has a bounded queue; one that lets it fill up is cut off and told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::mpsc;

use crate::{Revision, StoreError, WatchBatch};

/// Batches that a live reader may be behind. The API server's cache drains this in microseconds each;
/// at 5,000 changes a second it is half a second of standing still.
pub(super) const WATCH_QUEUE: usize = 2048;

/// The live watches, and the newest revision they have been given.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Revision,
    live: Vec<Live>,
    closed: bool,
}

/// One reader and its queue.
#[derive(Debug)]
pub(super) struct Live {
    /// What the reader has seen, or does not ask for.
    pub(super) after: Revision,
    pub(super) sender: mpsc::Sender<Result<WatchBatch, StoreError>>,
    pub(super) lagged: Arc<AtomicBool>,
}

/// Whether a reader could join the live ones.
pub(super) enum Joined {
    Live,
    /// More was published meanwhile: replay this far and try again.
    Behind(Live),
    /// The store is closed.
    Closed,
}

impl Hub {
    pub(super) fn new(head: Revision) -> Self {
        Self {
            state: Mutex::new(State {
                head,
                live: Vec::new(),
                closed: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The newest revision that readers have been given.
    pub(super) fn head(&self) -> Revision {
        self.lock().head
    }

    /// The same, unless the store is closed.
    pub(super) fn open_head(&self) -> Option<Revision> {
        let state = self.lock();
        (!state.closed).then_some(state.head)
    }

    /// How many readers are live.
    pub(super) fn len(&self) -> usize {
        let mut state = self.lock();
        state.live.retain(|live| !live.sender.is_closed());
        state.live.len()
    }

    /// Adds a reader that has seen everything up to `seen`.
    pub(super) fn join(&self, live: Live, seen: Revision) -> Joined {
        let mut state = self.lock();
        if state.closed {
            return Joined::Closed;
        }
        if state.head > seen {
            return Joined::Behind(live);
        }
        state.live.retain(|live| !live.sender.is_closed());
        state.live.push(live);
        Joined::Live
    }

    /// Gives committed batches to the readers. Batches that were published before are skipped.
    pub(super) fn publish(&self, batches: &[WatchBatch], head: Revision) {
        let mut state = self.lock();
        let published = state.head;
        state.head = head.max(published);
        state.live.retain(|live| {
            batches
                .iter()
                .filter(|batch| batch.revision > published)
                .all(|batch| live.offer(batch))
        });
    }

    /// Ends every live watch as one that missed something; those to come start after `head`.
    pub(super) fn cut_off(&self, head: Revision) {
        let mut state = self.lock();
        state.head = state.head.max(head);
        for live in state.live.drain(..) {
            live.lagged.store(true, Ordering::Release);
        }
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.live.clear();
    }
}

impl Live {
    /// Queues a batch, where the reader has not seen it; false when the reader is gone or too slow.
    fn offer(&self, batch: &WatchBatch) -> bool {
        if batch.revision <= self.after {
            return true;
        }
        match self.sender.try_send(Ok(batch.clone())) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lagged.store(true, Ordering::Release);
                false
            }
        }
    }
}
