// SPDX-License-Identifier: Apache-2.0
//! When each node was last heard: kept in memory, because a write for every heartbeat would never let an
//! idle cluster rest.
//!
//! The feed server writes here; node lifecycle reads it to tell a dead node from a living one, and the API
//! server reads it to show the renewTime of node Leases.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Last signs of life, by node name.
#[derive(Debug)]
pub struct Heartbeats {
    started: SystemTime,
    last: Mutex<HashMap<String, SystemTime>>,
}

impl Heartbeats {
    /// Nothing heard yet; `now` is the moment from which silence counts.
    pub fn new(now: SystemTime) -> Self {
        Self {
            started: now,
            last: Mutex::default(),
        }
    }

    fn last(&self) -> MutexGuard<'_, HashMap<String, SystemTime>> {
        // A panic while a time is stored leaves the map whole.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `node` was heard at `now`.
    pub fn beat(&self, node: &str, now: SystemTime) {
        let mut last = self.last();
        match last.get_mut(node) {
            Some(time) => *time = now,
            None => {
                last.insert(node.to_owned(), now);
            }
        }
    }

    /// When `node` was last heard by this process; `None` when it was not.
    pub fn heard(&self, node: &str) -> Option<SystemTime> {
        self.last().get(node).copied()
    }

    /// From when `node`'s silence counts: last heard, or this process' start.
    pub fn silent_since(&self, node: &str) -> SystemTime {
        self.heard(node).unwrap_or(self.started)
    }

    /// `node` is no part of the cluster any more.
    pub fn forget(&self, node: &str) {
        self.last().remove(node);
    }
}
