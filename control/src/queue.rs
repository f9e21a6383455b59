// SPDX-License-Identifier: Apache-2.0
//! Keyed work queue of a reconcile loop: a key says "look again" and nothing else.
//!
//! A key is in the queue at most once and worked on by at most one worker; added while it is worked on, it
//! comes again afterwards. Delays and retries are kept in one heap. The shape of client-go's workqueue.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First wait after a failure; doubles with each further one of the same key.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// Longest wait after failures: an object that cannot be reconciled is looked at this often.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What a reconcile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until the next change.
    Done,
    /// Look again after this time, even if nothing changes.
    After(Duration),
    /// It failed: look again soon, and less and less often while it goes on failing.
    Retry,
}

/// Keys that a queue keeps room for without need.
const KEPT_CAPACITY: usize = 256;

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// What is in `ready`.
    queued: HashSet<K>,
    working: HashSet<K>,
    /// Added while being worked on.
    again: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, K)>>,
    /// The one moment at which a key comes by itself. Entries of `delayed` that say otherwise are stale:
    /// a key that is looked at often must not collect timers.
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    /// Has `key` come at `due` by itself, or earlier if that is planned already.
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
    }
}

/// A queue of keys. Clones share it.
#[derive(Debug, Clone)]
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
}

impl<K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Default for Queue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static> Queue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                ready: VecDeque::new(),
                queued: HashSet::new(),
                working: HashSet::new(),
                again: HashSet::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            })),
            wake: Arc::new(Notify::new()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        // Each change below leaves the state whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Look at `key` as soon as a worker is free.
    pub fn add(&self, key: K) {
        let mut state = self.state();
        if state.working.contains(&key) {
            state.again.insert(key);
        } else if state.queued.insert(key.clone()) {
            state.ready.push_back(key);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Look at `key` after `delay`.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state().delay(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// How many keys wait for a worker now.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// True when no key waits for a worker.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, which is this caller's until [`Queue::done`]. Dropping the future loses nothing.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let until = {
                let mut state = self.state();
                let now = Instant::now();
                while state
                    .delayed
                    .peek()
                    .is_some_and(|Reverse((due, _))| *due <= now)
                {
                    let Some(Reverse((due, key))) = state.delayed.pop() else {
                        break;
                    };
                    if state.due.get(&key) != Some(&due) {
                        continue;
                    }
                    state.due.remove(&key);
                    if state.working.contains(&key) {
                        state.again.insert(key);
                    } else if state.queued.insert(key.clone()) {
                        state.ready.push_back(key);
                    }
                }
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        // One wake-up may have stood for several keys.
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((due, _))| *due)
            };
            match until {
                // Both only wait; what they wait for is looked up anew.
                Some(due) => tokio::select! {
                    () = notified => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => notified.await,
            }
        }
    }

    /// The caller of [`Queue::next`] has finished with `key`.
    pub fn done(&self, key: &K, outcome: Outcome) {
        let mut state = self.state();
        state.working.remove(key);
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
                Some(doubled.min(RETRY_MAX))
            }
        };
        if let Some(delay) = delay {
            state.delay(key.clone(), Instant::now() + delay);
        }
        if state.again.remove(key) && state.queued.insert(key.clone()) {
            state.ready.push_back(key.clone());
        }
        state.shrink();
        drop(state);
        self.wake.notify_one();
    }

    /// Works the queue with `workers` workers until `shutdown`. `reconcile` reports its own errors; a panic
    /// in it is logged and counts as a failure of its key.
    pub async fn work<F, R>(self, workers: usize, shutdown: CancellationToken, reconcile: F)
    where
        F: Fn(K) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (queue, shutdown, reconcile) = (self.clone(), shutdown.clone(), reconcile.clone());
            tasks.spawn(async move {
                loop {
                    // Safe to drop: a key that is not taken stays in the queue.
                    let key = tokio::select! {
                        key = queue.next() => key,
                        () = shutdown.cancelled() => return,
                    };
                    // In a task of its own, so that a panic is one key's and not the loop's.
                    let outcome = tokio::spawn(reconcile(key.clone())).await;
                    let outcome = outcome.unwrap_or_else(|error| {
                        tracing::error!(?key, %error, "a reconcile panicked");
                        Outcome::Retry
                    });
                    queue.done(&key, outcome);
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests;
