// SPDX-License-Identifier: Apache-2.0
//! When an unschedulable pod's status gets the reason, and what it says then.
//!
//! [`Notifications`] keeps the rules: each reason once, the same pod not too often, one write of a pod at a time and always
//! the newest reason. The scheduler asks it for each [`Notification`] to write; nothing here writes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_api::k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::Timestamp;

use crate::reason::ConditionReason;

/// The status of a pod gets a reason at most this often: while nodes come and go, the reasons of every unschedulable pod
/// change with each of them.
pub const NOTIFY_EVERY: Duration = Duration::from_secs(5);

const SCHEDULED: &str = "PodScheduled";

/// A reason to write to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Which pod.
    pub uid: Arc<str>,
    /// Why no node fits.
    pub message: String,
}

/// The reasons that unschedulable pods have got and are still to get. At most one entry for each pod.
#[derive(Debug, Default)]
pub struct Notifications {
    /// When a pod last got a reason.
    sent: HashMap<Arc<str>, Instant>,
    /// Pods whose reason changed too soon after that, or was not written.
    postponed: HashSet<Arc<str>>,
    /// When the first of them may get a reason.
    retry_at: Option<Instant>,
    /// Messages to write; pods in `queue` without one have been forgotten.
    messages: HashMap<Arc<str>, String>,
    queue: VecDeque<Arc<str>>,
    /// Pods of which a reason is being written.
    in_flight: HashSet<Arc<str>>,
}

impl Notifications {
    /// No node fits a pod, because of `message`; `known` is what its status says already.
    pub fn unschedulable(
        &mut self,
        uid: &Arc<str>,
        message: String,
        known: Option<&str>,
        now: Instant,
    ) {
        let is_known = known == Some(message.as_str()) && !self.in_flight.contains(uid);
        if is_known {
            // A reason that held in between need not be written any more.
            self.messages.remove(uid);
            self.postponed.remove(uid);
            return;
        }
        let due = self.sent.get(uid).map(|last| *last + NOTIFY_EVERY);
        if let Some(due) = due.filter(|due| *due > now) {
            self.postpone(uid, due);
            return;
        }
        self.sent.insert(uid.clone(), now);
        if self.messages.insert(uid.clone(), message).is_none() {
            self.queue.push_back(uid.clone());
        }
    }

    /// The next reason to write; [`Notifications::written`] or [`Notifications::failed`] has to follow.
    pub fn take_next(&mut self) -> Option<Notification> {
        let (messages, in_flight) = (&self.messages, &self.in_flight);
        while let Some(first) = self.queue.front() {
            if messages.contains_key(first) {
                break;
            }
            self.queue.pop_front();
        }
        let may_go = |uid: &Arc<str>| messages.contains_key(uid) && !in_flight.contains(uid);
        let place = self.queue.iter().position(may_go)?;
        let uid = self.queue.remove(place)?;
        let message = self.messages.remove(&uid)?;
        self.in_flight.insert(uid.clone());
        Some(Notification { uid, message })
    }

    /// The pod has its reason, or is gone.
    pub fn written(&mut self, uid: &str) {
        self.in_flight.remove(uid);
    }

    /// The reason was not written: it is looked up again after a while.
    pub fn failed(&mut self, uid: &Arc<str>, now: Instant) {
        self.written(uid);
        self.postpone(uid, now + NOTIFY_EVERY);
    }

    fn postpone(&mut self, uid: &Arc<str>, due: Instant) {
        self.postponed.insert(uid.clone());
        self.retry_at = Some(self.retry_at.map_or(due, |at| at.min(due)));
    }

    /// The pod is not unschedulable any more.
    pub fn forget(&mut self, uid: &str) {
        self.sent.remove(uid);
        self.postponed.remove(uid);
        self.messages.remove(uid);
    }

    /// When [`Notifications::take_postponed`] has pods to give.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Pods whose reason is to be looked up again, because they did not get the last one.
    pub fn take_postponed(&mut self) -> HashSet<Arc<str>> {
        self.retry_at = None;
        std::mem::take(&mut self.postponed)
    }
}

/// The status of a pod that no node fits; `None` where it says so already, and for a pod that has a node by now: the
/// reason is older.
pub fn unschedulable_status(pod: &Pod, message: &str, now: Timestamp) -> Option<PodStatus> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if node.is_some_and(|node| !node.is_empty()) {
        return None;
    }
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut condition = PodCondition {
        type_: SCHEDULED.to_owned(),
        status: "False".to_owned(),
        reason: Some(ConditionReason::Unschedulable.as_str().to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|known| known.type_ == SCHEDULED) {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time.clone();
            }
            condition.last_probe_time = known.last_probe_time.clone();
            condition.observed_generation = known.observed_generation;
            if *known == condition {
                return None;
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    Some(status)
}

#[cfg(test)]
mod tests;
