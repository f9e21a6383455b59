// SPDX-License-Identifier: Apache-2.0
//! The keyed work queue of a controller: a key says "reconcile this again" and nothing else.
//!
//! A key is in the queue at most once, and at most one worker reconciles it at a time. A key that is added meanwhile comes
//! again afterwards. Delays and retries are kept in one heap. The shape is that of client-go's workqueue. Worked by
//! `controller`.
//!
//! tokio's `DelayQueue` does not fit: it has one owner that polls it, and here every idle worker waits for the next delay.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{InProgress, QueueMetrics};

/// First wait after a failure; doubles with each further one of the same key.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// Longest wait after failures: an object that cannot be reconciled is tried this often.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a reconcile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until the next change.
    Done,
    /// Reconcile again after this time, even if nothing changes.
    After(Duration),
    /// It failed: reconcile again soon, and less and less often while it goes on failing.
    Retry,
}

/// Keys that a queue keeps room for without need.
const KEPT_CAPACITY: usize = 256;

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// The keys in `ready`, and since when they wait.
    queued: HashMap<K, Instant>,
    /// The keys that workers have, and since when.
    working: HashMap<K, Instant>,
    /// Keys that were added while a worker had them.
    again: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, K)>>,
    /// When a delayed key becomes ready. Entries of `delayed` with another moment are stale: a key that is
    /// reconciled often must not collect timers.
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    /// Adds a key now. True where a worker may take it.
    fn add(&mut self, key: K, now: Instant) -> bool {
        if self.working.contains_key(&key) {
            self.again.insert(key);
            return false;
        }
        self.enqueue(key, now)
    }

    fn enqueue(&mut self, key: K, now: Instant) -> bool {
        if self.queued.contains_key(&key) {
            return false;
        }
        self.queued.insert(key.clone(), now);
        self.ready.push_back(key);
        true
    }

    /// Makes `key` ready at `due`, or earlier if that is planned already.
    fn delay(&mut self, key: K, due: Instant) {
        if self.due.get(&key).is_some_and(|known| *known <= due) {
            return;
        }
        self.due.insert(key.clone(), due);
        self.delayed.push(Reverse((due, key)));
    }

    /// Gives the room of a burst of keys back once they are gone.
    fn shrink(&mut self) {
        if self.ready.is_empty() && self.ready.capacity() > KEPT_CAPACITY {
            self.ready.shrink_to_fit();
            self.queued.shrink_to_fit();
        }
        if self.delayed.is_empty() && self.delayed.capacity() > KEPT_CAPACITY {
            self.delayed.shrink_to_fit();
            self.due.shrink_to_fit();
        }
        if self.failures.is_empty() && self.failures.capacity() > KEPT_CAPACITY {
            self.failures.shrink_to_fit();
        }
    }
}

/// What names an object, or another thing that a controller reconciles as one.
pub trait Key: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static {}

impl<K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Key for K {}

#[derive(Debug)]
struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

impl<K> Shared<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }
}

impl<K: Key> InProgress for Shared<K> {
    fn in_progress(&self) -> Vec<Duration> {
        let state = self.state();
        state.working.values().map(Instant::elapsed).collect()
    }
}

/// A queue of keys. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue<K> {
    shared: Arc<Shared<K>>,
    metrics: QueueMetrics,
}

impl<K: Key> Queue<K> {
    /// An empty queue.
    pub(crate) fn new(metrics: QueueMetrics) -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashMap::new(),
            working: HashMap::new(),
            again: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                wake: Notify::new(),
            }),
            metrics,
        }
    }

    /// What is in progress, for the metrics.
    pub(crate) fn in_progress(&self) -> Weak<dyn InProgress> {
        let shared: Arc<dyn InProgress> = self.shared.clone();
        Arc::downgrade(&shared)
    }

    pub(crate) fn metrics(&self) -> &QueueMetrics {
        &self.metrics
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state()
    }

    fn set_depth(&self, state: &State<K>) {
        let depth = i64::try_from(state.ready.len()).unwrap_or(i64::MAX);
        self.metrics.depth.set(depth);
    }

    /// Reconcile `key` as soon as a worker is free.
    pub fn add(&self, key: K) {
        self.metrics.adds.inc();
        let mut state = self.state();
        if state.add(key, Instant::now()) {
            self.set_depth(&state);
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// Reconcile `key` after `delay`.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state().delay(key, Instant::now() + delay);
        self.shared.wake.notify_one();
    }

    /// The next key, which is this caller's until [`Queue::done`]. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> K {
        loop {
            let notified = self.shared.wake.notified();
            let now = Instant::now();
            let due = {
                let mut state = self.state();
                self.take_due(&mut state, now);
                if let Some(key) = self.take_ready(&mut state, now) {
                    if !state.ready.is_empty() {
                        // One wake-up may have stood for several keys.
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((due, _))| *due)
            };
            match due {
                // Both only wait; what they wait for is looked up again.
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => notified.await,
            }
        }
    }

    /// Adds the keys whose time has come.
    fn take_due(&self, state: &mut State<K>, now: Instant) {
        let is_due = |Reverse((due, _)): &Reverse<(Instant, K)>| *due <= now;
        while state.delayed.peek().is_some_and(is_due) {
            let Some(Reverse((due, key))) = state.delayed.pop() else {
                break;
            };
            if state.due.get(&key) == Some(&due) {
                state.due.remove(&key);
                self.metrics.adds.inc();
                state.add(key, now);
            }
        }
    }

    fn take_ready(&self, state: &mut State<K>, now: Instant) -> Option<K> {
        let key = state.ready.pop_front()?;
        if let Some(since) = state.queued.remove(&key) {
            let waited = now.saturating_duration_since(since);
            self.metrics.queue_duration.observe(waited.as_secs_f64());
        }
        state.working.insert(key.clone(), now);
        self.set_depth(state);
        Some(key)
    }

    /// The caller of [`Queue::next`] has finished with `key`.
    pub(crate) fn done(&self, key: &K, outcome: Outcome) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(since) = state.working.remove(key) {
            let worked = now.saturating_duration_since(since);
            self.metrics.work_duration.observe(worked.as_secs_f64());
        }
        let delay = match outcome {
            Outcome::Done => {
                state.failures.remove(key);
                None
            }
            Outcome::After(delay) => {
                state.failures.remove(key);
                Some(delay)
            }
            Outcome::Retry => {
                let failures = state.failures.entry(key.clone()).or_default();
                let doubled = RETRY_FIRST.saturating_mul(1 << (*failures).min(16));
                *failures += 1;
                self.metrics.retries.inc();
                Some(doubled.min(RETRY_MAX))
            }
        };
        if let Some(delay) = delay {
            state.delay(key.clone(), now + delay);
        }
        if state.again.remove(key) {
            state.enqueue(key.clone(), now);
        }
        state.shrink();
        self.set_depth(&state);
        drop(state);
        self.shared.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
