// SPDX-License-Identifier: Apache-2.0
//! Bounded places for connections, shared fairly between those who hold them.
//!
//! A holder is a source address while a connection has proved nothing, and a node's certificate afterwards. A newcomer is never
//! turned away: where its holder has no place left, that holder's oldest connection ends. Where all places are taken,
//! the oldest of the holder with most of them ends. So one who takes all that it can get crowds out itself.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Where all places are taken, a connection younger than this keeps its place: a TLS handshake takes some milliseconds,
/// and many machines that start at the same moment must not crowd out each other in the middle of theirs. The next
/// connection waits in the kernel's queue meanwhile.
const AGE_MS_MIN: u64 = 1_000;
/// How often the wait for a place looks whether a connection has become old enough.
const ROOM_POLL_MS: u64 = 100;

/// Who counts as one source: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self(IpAddr::V6(Ipv6Addr::from(network)))
            }
            ipv4 @ IpAddr::V4(_) => Self(ipv4),
        }
    }
}

/// How many places there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// For all.
    pub(super) total: usize,
    /// For one holder.
    pub(super) each: usize,
}

/// Connections by holder.
#[derive(Debug)]
pub(super) struct Pool<K> {
    places: Places,
    state: Mutex<State<K>>,
    left: Notify,
}

#[derive(Debug)]
struct State<K> {
    /// Oldest first; no queue is empty.
    holders: HashMap<K, VecDeque<Entry>>,
    taken: usize,
    next_id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    since: Instant,
    ended: CancellationToken,
}

/// A place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Clone + Eq + Hash> {
    pool: Arc<Pool<K>>,
    holder: K,
    id: u64,
    ended: CancellationToken,
}

impl<K: Clone + Eq + Hash> Pool<K> {
    pub(super) fn new(places: Places) -> Arc<Self> {
        Arc::new(Self {
            places,
            state: Mutex::new(State {
                holders: HashMap::new(),
                taken: 0,
                next_id: 0,
            }),
            left: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock()
    }

    /// Waits until [`Pool::enter`] ends no connection that has just begun.
    pub(super) async fn room(&self) {
        while !self.has_room(Instant::now()) {
            // Both arms only wait, so dropping one loses nothing.
            tokio::select! {
                () = self.left.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(ROOM_POLL_MS)) => {}
            }
        }
    }

    fn has_room(&self, now: Instant) -> bool {
        let state = self.state();
        let oldest = state.largest().and_then(|(_, entries)| entries.front());
        state.taken < self.places.total
            || oldest.is_some_and(|oldest| {
                now.saturating_duration_since(oldest.since) >= Duration::from_millis(AGE_MS_MIN)
            })
    }

    /// A place for a connection of `holder`; ends another one where there is none.
    pub(super) fn enter(self: &Arc<Self>, holder: K, now: Instant) -> Place<K> {
        let ended = CancellationToken::new();
        let mut state = self.state();
        let held = state.holders.get(&holder).map_or(0, VecDeque::len);
        if held >= self.places.each {
            state.end_oldest(&holder);
        } else if state.taken >= self.places.total
            && let Some(largest) = state.largest().map(|(holder, _)| holder.clone())
        {
            state.end_oldest(&largest);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.taken += 1;
        let entry = Entry {
            id,
            since: now,
            ended: ended.clone(),
        };
        state
            .holders
            .entry(holder.clone())
            .or_default()
            .push_back(entry);
        Place {
            pool: Arc::clone(self),
            holder,
            id,
            ended,
        }
    }

    /// How many places are taken.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.state().taken
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// The holder with most places, and of several the one with the oldest connection.
    fn largest(&self) -> Option<(&K, &VecDeque<Entry>)> {
        self.holders.iter().max_by_key(|(_, entries)| {
            let oldest = entries.front().map_or(u64::MAX, |entry| entry.id);
            (entries.len(), std::cmp::Reverse(oldest))
        })
    }

    fn end_oldest(&mut self, holder: &K) {
        let oldest = self.holders.get(holder).and_then(VecDeque::front);
        if let Some(Entry { id, ended, .. }) = oldest {
            ended.cancel();
            let id = *id;
            self.remove(holder, id);
        }
    }

    fn remove(&mut self, holder: &K, id: u64) {
        let Some(entries) = self.holders.get_mut(holder) else {
            return;
        };
        let before = entries.len();
        entries.retain(|entry| entry.id != id);
        self.taken -= before - entries.len();
        if entries.is_empty() {
            self.holders.remove(holder);
        }
    }
}

impl<K: Clone + Eq + Hash> Place<K> {
    /// Cancelled when the place goes to another connection.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Gives the place back; the connection goes on.
    pub(super) fn leave(&self) {
        self.pool.state().remove(&self.holder, self.id);
        self.pool.left.notify_one();
    }
}

impl<K: Clone + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
