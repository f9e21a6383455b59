// SPDX-License-Identifier: Apache-2.0
//! When a pod that fits nowhere is told why, and what its status says then.
//!
//! [`Tellings`] keeps the rules: each reason once, the same pod not too often, one write of a pod at a time and
//! always the newest reason. The scheduler loop asks it for the [`Telling`]s to write; nothing here writes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use knarr_api::k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::Timestamp;

/// A pod is told at most this often why it fits nowhere: while nodes come and go the reasons of every waiting
/// pod change with each of them.
pub const TELL_EVERY: Duration = Duration::from_secs(5);

const SCHEDULED: &str = "PodScheduled";

/// Something to write to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telling {
    /// Which pod.
    pub uid: Arc<str>,
    /// Why it fits nowhere.
    pub message: String,
}

/// What waiting pods have been told, and what they are still to be told. At most one entry for each pod.
#[derive(Debug, Default)]
pub struct Tellings {
    /// When a pod was last told.
    told: HashMap<Arc<str>, Instant>,
    /// Pods whose reason changed too soon after that, and when the first of them may be told.
    untold: HashSet<Arc<str>>,
    again_at: Option<Instant>,
    /// Messages to write; pods in `queue` without one have been forgotten.
    messages: HashMap<Arc<str>, String>,
    queue: VecDeque<Arc<str>>,
    on_the_way: HashSet<Arc<str>>,
}

impl Tellings {
    /// A pod fits nowhere because of `message`; `known` is what its status says of it already.
    pub fn refused(&mut self, uid: &Arc<str>, message: String, known: Option<&str>, now: Instant) {
        let is_known = known == Some(message.as_str()) && !self.on_the_way.contains(uid);
        if is_known {
            // A reason that held in between need not be told any more.
            self.messages.remove(uid);
            self.untold.remove(uid);
            return;
        }
        let due = self.told.get(uid).map(|last| *last + TELL_EVERY);
        if let Some(due) = due.filter(|due| *due > now) {
            self.untold.insert(uid.clone());
            self.again_at = Some(self.again_at.map_or(due, |at| at.min(due)));
            return;
        }
        self.told.insert(uid.clone(), now);
        if self.messages.insert(uid.clone(), message).is_none() {
            self.queue.push_back(uid.clone());
        }
    }

    /// The next thing to write; [`Tellings::ended`] has to follow.
    pub fn take_next(&mut self) -> Option<Telling> {
        let (messages, on_the_way) = (&self.messages, &self.on_the_way);
        while let Some(first) = self.queue.front() {
            if messages.contains_key(first) {
                break;
            }
            self.queue.pop_front();
        }
        let may_go = |uid: &Arc<str>| messages.contains_key(uid) && !on_the_way.contains(uid);
        let place = self.queue.iter().position(may_go)?;
        let uid = self.queue.remove(place)?;
        let message = self.messages.remove(&uid)?;
        self.on_the_way.insert(uid.clone());
        Some(Telling { uid, message })
    }

    /// A write is over, well or not.
    pub fn ended(&mut self, uid: &str) {
        self.on_the_way.remove(uid);
    }

    /// A write is over, and the pod does not say it: its reason is looked up again after a while.
    pub fn failed(&mut self, uid: &Arc<str>, now: Instant) {
        self.ended(uid);
        let due = now + TELL_EVERY;
        self.untold.insert(uid.clone());
        self.again_at = Some(self.again_at.map_or(due, |at| at.min(due)));
    }

    /// The pod waits no more.
    pub fn forget(&mut self, uid: &str) {
        self.told.remove(uid);
        self.untold.remove(uid);
        self.messages.remove(uid);
    }

    /// When [`Tellings::take_untold`] has something to give.
    pub fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Pods whose reason is to be looked up again, because they could not be told the last one.
    pub fn take_untold(&mut self) -> HashSet<Arc<str>> {
        self.again_at = None;
        std::mem::take(&mut self.untold)
    }
}

/// The status of a pod that fits nowhere; `None` where it says so already, and for a pod that has a node after
/// all: the reason is from before.
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
        reason: Some("Unschedulable".to_owned()),
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
