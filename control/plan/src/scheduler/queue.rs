// SPDX-License-Identifier: Apache-2.0
//! The scheduling queue: pods without a node, in the order in which they are tried.
//!
//! ```text
//! add --> active --pop--> (tried) --no node fits--> unschedulable --activate_all--> active
//! ```
//!
//! The shape of kube-scheduler's queue without its timers: a change that may make room activates all. [`super::Scheduler`]
//! works it.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use knarr_api::k8s_openapi::jiff::Timestamp;

use super::PodInfo;

/// Higher priority first, then older, then by uid so that no two are equal.
type Rank = (Reverse<i32>, Option<Timestamp>, Arc<str>);

fn rank(pod: &PodInfo) -> Rank {
    (Reverse(pod.priority), pod.created_at, pod.uid.clone())
}

/// Pods without a node. A pod is in it at most once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SchedulingQueue {
    active: BTreeSet<Rank>,
    /// Pods that no node fitted when they were last tried.
    unschedulable: HashMap<Arc<str>, Rank>,
}

impl SchedulingQueue {
    /// The pod is tried when its turn comes.
    pub fn add(&mut self, pod: &PodInfo) {
        self.unschedulable.remove(&pod.uid);
        self.active.insert(rank(pod));
    }

    /// No node fits the pod now.
    pub fn add_unschedulable(&mut self, pod: &PodInfo) {
        let rank = rank(pod);
        self.active.remove(&rank);
        self.unschedulable.insert(pod.uid.clone(), rank);
    }

    /// Takes out the pod to try next.
    pub fn pop(&mut self) -> Option<Arc<str>> {
        self.active.pop_first().map(|(_, _, uid)| uid)
    }

    /// The pod needs no node any more. `pod` is as it was added.
    pub fn remove(&mut self, pod: &PodInfo) {
        self.unschedulable.remove(&pod.uid);
        self.active.remove(&rank(pod));
    }

    /// There may be room now: every unschedulable pod is tried again.
    pub fn activate_all(&mut self) {
        self.active
            .extend(self.unschedulable.drain().map(|(_, rank)| rank));
    }

    /// Whether no node fitted the pod when it was last tried.
    pub fn is_unschedulable(&self, uid: &str) -> bool {
        self.unschedulable.contains_key(uid)
    }

    /// How many pods wait to be tried.
    pub fn active_len(&self) -> usize {
        self.active.len()
    }

    /// How many pods no node fitted.
    pub fn unschedulable_len(&self) -> usize {
        self.unschedulable.len()
    }
}

#[cfg(test)]
mod tests;
