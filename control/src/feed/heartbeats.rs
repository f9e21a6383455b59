// SPDX-License-Identifier: Apache-2.0
//! When each node was last heard: kept in memory, because a write for every heartbeat would never let an
//! idle cluster rest.
//!
//! The feed server writes here; node lifecycle reads it to tell a dead node from a living one. Silence is measured by the
//! monotonic clock, because the other one may be set at any time. (What people see of a
//! heartbeat is the node's Lease, which the feed renews in memory as well; see `reports`.)

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{self, Moment};

/// What is known of a node.
#[derive(Debug, Clone, Copy)]
struct Signs {
    /// From when its silence counts: last heard, or first waited for.
    since: Instant,
    /// Whether it was heard at all.
    heard: bool,
}

/// Last signs of life, by node name.
#[derive(Debug, Default)]
pub struct Heartbeats {
    nodes: Mutex<HashMap<String, Signs>>,
    /// Nodes that were connected when their certificates were taken back, and have not been heard since.
    cut_off: Mutex<HashSet<String>>,
}

impl Heartbeats {
    fn nodes(&self) -> MutexGuard<'_, HashMap<String, Signs>> {
        self.nodes.lock()
    }

    /// `node` was heard at `now`.
    pub fn beat(&self, node: &str, now: Moment) {
        let signs = Signs {
            since: now.monotonic,
            heard: true,
        };
        self.cut_offs().remove(node);
        let mut nodes = self.nodes();
        match nodes.get_mut(node) {
            Some(known) => *known = signs,
            None => {
                nodes.insert(node.to_owned(), signs);
            }
        }
    }

    /// How long ago `node` was last heard by this process; `None` when it was not.
    pub fn heard_ago(&self, node: &str, now: Instant) -> Option<Duration> {
        let nodes = self.nodes();
        let signs = nodes.get(node).filter(|signs| signs.heard)?;
        Some(now.saturating_duration_since(signs.since))
    }

    /// How long `node` has been silent. For a node that this process has not heard that counts from the first
    /// time it asks, as in kube-controller-manager: a control plane that starts waits for every node anew.
    pub fn silence(&self, node: &str, now: Instant) -> Duration {
        let mut nodes = self.nodes();
        let since = match nodes.get(node) {
            Some(signs) => signs.since,
            None => {
                let signs = Signs {
                    since: now,
                    heard: false,
                };
                nodes.insert(node.to_owned(), signs);
                now
            }
        };
        now.saturating_duration_since(since)
    }

    /// `node` is no part of the cluster any more.
    pub fn forget(&self, node: &str) {
        self.nodes().remove(node);
        self.cut_offs().remove(node);
    }

    /// The certificates of `node` were taken back: what was heard of it counts no more.
    pub fn cut_off(&self, node: &str) {
        self.nodes().remove(node);
        self.cut_offs().insert(node.to_owned());
    }

    /// True for a node whose certificates were taken back and that has not been heard since: there is nobody whose place
    /// another machine could take.
    pub fn was_cut_off(&self, node: &str) -> bool {
        self.cut_offs().contains(node)
    }

    fn cut_offs(&self) -> MutexGuard<'_, HashSet<String>> {
        self.cut_off.lock()
    }
}

impl knarr_controllers::Heartbeats for Heartbeats {
    fn silence(&self, node: &str) -> Duration {
        self.silence(node, clock::moment().monotonic)
    }

    fn forget(&self, node: &str) {
        self.forget(node);
    }
}

#[cfg(test)]
mod tests;
