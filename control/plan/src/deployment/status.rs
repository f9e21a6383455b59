// SPDX-License-Identifier: Apache-2.0
//! The status of a Deployment: counters, and the conditions that say whether a rollout gets on.

use std::time::Duration;

use knarr_api::k8s_openapi::api::apps::v1::{
    DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Step, Working};
use crate::reason::ConditionReason;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_SET_AVAILABLE: &str = ConditionReason::NewReplicaSetAvailable.as_str();
const TIMED_OUT: &str = ConditionReason::ProgressDeadlineExceeded.as_str();
const PAUSED: &str = ConditionReason::DeploymentPaused.as_str();

/// The conditions of a Deployment while they are planned.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    pub(super) fn of(status: Option<&DeploymentStatus>, now: Timestamp) -> Self {
        let list = status
            .and_then(|status| status.conditions.clone())
            .unwrap_or_default();
        Self { list, now }
    }

    fn find(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list
            .iter()
            .find(|condition| condition.type_.as_deref() == Some(type_))
    }

    pub(super) fn progressing(&self) -> Option<&DeploymentCondition> {
        self.find(PROGRESSING)
    }

    pub(super) fn set_progressing(
        &mut self,
        status: &str,
        reason: ConditionReason,
        message: String,
    ) {
        self.set(PROGRESSING, status, reason.as_str(), message);
    }

    fn remove(&mut self, type_: &str) {
        self.list
            .retain(|condition| condition.type_.as_deref() != Some(type_));
    }

    /// Status and reason decide whether anything changes; the time of transition follows the status alone.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let same = self.find(type_).is_some_and(|known| {
            known.status.as_deref() == Some(status) && known.reason.as_deref() == Some(reason)
        });
        if !same {
            self.replace(type_, status, reason, message);
        }
    }

    fn replace(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let known = self
            .find(type_)
            .filter(|known| known.status.as_deref() == Some(status));
        let since = known.and_then(|known| known.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: Some(type_.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        self.remove(type_);
        self.list.push(condition);
    }
}

fn sum(sets: &[Working], of: impl Fn(&ReplicaSetStatus) -> i32) -> i32 {
    sets.iter()
        .filter_map(|working| working.original.status.as_ref())
        .map(of)
        .sum()
}

impl Step<'_> {
    pub(super) fn has_deadline(&self) -> bool {
        self.deadline().is_some()
    }

    /// `progressDeadlineSeconds`; the largest number means none, as in Kubernetes.
    fn deadline(&self) -> Option<SignedDuration> {
        let seconds = self.deployment.spec.progress_deadline_seconds?;
        (seconds != i32::MAX).then(|| SignedDuration::from_secs(seconds.into()))
    }

    /// A paused Deployment makes no progress and must not get the condition that its deadline is exceeded.
    pub(super) fn note_pause(&mut self) {
        if !self.has_deadline() {
            return;
        }
        let paused = self.deployment.spec.paused.unwrap_or(false);
        let reason = self
            .conditions
            .progressing()
            .and_then(|condition| condition.reason.as_deref());
        match (paused, reason) {
            (_, Some(TIMED_OUT)) => {}
            (true, Some(PAUSED)) => {}
            (true, _) => {
                self.conditions.set_progressing(
                    "Unknown",
                    ConditionReason::DeploymentPaused,
                    "Deployment is paused".to_owned(),
                );
            }
            (false, Some(PAUSED)) => {
                let message = "Deployment is resumed".to_owned();
                self.conditions.set_progressing(
                    "Unknown",
                    ConditionReason::DeploymentResumed,
                    message,
                );
            }
            (false, _) => {}
        }
    }

    fn counted(&mut self, new: Option<usize>) -> DeploymentStatus {
        let available = sum(&self.sets, |status| status.available_replicas.unwrap_or(0));
        let min_available = self.replicas - self.bounds.unavailable;
        if available >= min_available {
            let message = "Deployment has minimum availability.".to_owned();
            let reason = ConditionReason::MinimumReplicasAvailable.as_str();
            self.conditions.set(AVAILABLE, "True", reason, message);
        } else {
            let message = "Deployment does not have minimum availability.".to_owned();
            let reason = ConditionReason::MinimumReplicasUnavailable.as_str();
            self.conditions.set(AVAILABLE, "False", reason, message);
        }
        let new_status = new.and_then(|new| self.sets[new].original.status.as_ref());
        let old = self.deployment.status.as_ref();
        let count = |count: i32| (count != 0).then_some(count);
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: count(sum(&self.sets, |status| status.replicas)),
            updated_replicas: count(new_status.map_or(0, |status| status.replicas)),
            ready_replicas: count(sum(&self.sets, |status| status.ready_replicas.unwrap_or(0))),
            available_replicas: count(available),
            unavailable_replicas: count((self.total_replicas() - available).max(0)),
            terminating_replicas: Some(sum(&self.sets, |status| {
                status.terminating_replicas.unwrap_or(0)
            })),
            collision_count: old.and_then(|status| status.collision_count),
            conditions: None,
        }
    }

    fn keep(&mut self, status: DeploymentStatus) {
        let list = std::mem::take(&mut self.conditions.list);
        let status = DeploymentStatus {
            conditions: (!list.is_empty()).then_some(list),
            ..status
        };
        let old = self.deployment.status.clone().unwrap_or_default();
        if !same_status(&old, &status) {
            self.status = Some(status);
        }
    }

    /// The status where no rollout is looked at: counters and availability.
    pub(super) fn plan_status_only(&mut self, new: Option<usize>) {
        let status = self.counted(new);
        self.keep(status);
    }

    /// True when every pod is new and available, as the sets' status has it.
    pub(super) fn is_complete(&self, new: Option<usize>) -> bool {
        let updated = new
            .and_then(|new| self.sets[new].original.status.as_ref())
            .map_or(0, |status| status.replicas);
        let available = sum(&self.sets, |status| status.available_replicas.unwrap_or(0));
        updated == self.replicas
            && sum(&self.sets, |status| status.replicas) == self.replicas
            && available == self.replicas
    }

    /// The status of a rollout: whether it is complete, gets on, or has had its time.
    pub(super) fn plan_rollout_status(&mut self, new: Option<usize>) {
        let status = self.counted(new);
        let subject = match new {
            Some(new) => format!("ReplicaSet {:?}", self.sets[new].name()),
            None => format!(
                "Deployment {:?}",
                self.deployment.metadata.name.as_deref().unwrap_or("")
            ),
        };
        let is_complete = self.is_complete(new);
        match self.deadline() {
            None => self.conditions.remove(PROGRESSING),
            Some(deadline) => {
                let reason = self.conditions.progressing().and_then(|c| c.reason.clone());
                let was_complete = reason.as_deref() == Some(NEW_SET_AVAILABLE)
                    && status.replicas == status.updated_replicas;
                if !was_complete {
                    if is_complete {
                        let message = format!("{subject} has successfully progressed.");
                        self.conditions.set_progressing(
                            "True",
                            ConditionReason::NewReplicaSetAvailable,
                            message,
                        );
                    } else if self.gets_on(&status) {
                        let message = format!("{subject} is progressing.");
                        let reason = ConditionReason::ReplicaSetUpdated.as_str();
                        self.conditions
                            .replace(PROGRESSING, "True", reason, message);
                    } else if self.is_timed_out(deadline) {
                        let message = format!("{subject} has timed out progressing.");
                        let reason = ConditionReason::ProgressDeadlineExceeded;
                        self.conditions.set_progressing("False", reason, message);
                    }
                }
                self.again_after = self.until_deadline(deadline, is_complete);
            }
        }
        let failure = self.replica_failure(new);
        match failure {
            Some((reason, message)) => {
                self.conditions
                    .set(REPLICA_FAILURE, "True", &reason, message)
            }
            None => self.conditions.remove(REPLICA_FAILURE),
        }
        self.keep(status);
    }

    fn gets_on(&self, status: &DeploymentStatus) -> bool {
        let old = self.deployment.status.clone().unwrap_or_default();
        let number = |count: Option<i32>| count.unwrap_or(0);
        let outdated =
            |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
        number(status.updated_replicas) > number(old.updated_replicas)
            || outdated(status) < outdated(&old)
            || number(status.ready_replicas) > number(old.ready_replicas)
            || number(status.available_replicas) > number(old.available_replicas)
    }

    fn deadline_at(&self, deadline: SignedDuration) -> Option<Timestamp> {
        let condition = self.conditions.progressing()?;
        let from = condition
            .last_update_time
            .as_ref()
            .or(condition.last_transition_time.as_ref())?;
        from.0.saturating_add(deadline).ok()
    }

    fn is_timed_out(&self, deadline: SignedDuration) -> bool {
        match self
            .conditions
            .progressing()
            .and_then(|condition| condition.reason.as_deref())
        {
            None | Some(NEW_SET_AVAILABLE | PAUSED) => false,
            Some(TIMED_OUT) => true,
            Some(_) => self.deadline_at(deadline).is_some_and(|end| end < self.now),
        }
    }

    fn until_deadline(&self, deadline: SignedDuration, is_complete: bool) -> Option<Duration> {
        let reason = self.conditions.progressing()?.reason.as_deref();
        if is_complete || matches!(reason, Some(TIMED_OUT | NEW_SET_AVAILABLE)) {
            return None;
        }
        let left = self.deadline_at(deadline)?.duration_since(self.now);
        // One second more, because stored times are whole seconds.
        Some(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
    }

    fn replica_failure(&self, new: Option<usize>) -> Option<(String, String)> {
        let of = |set: &ReplicaSet| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            let failure = conditions
                .iter()
                .find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))?;
            Some((
                failure.reason.clone()?,
                failure.message.clone().unwrap_or_default(),
            ))
        };
        let newest = new.and_then(|new| of(&self.sets[new].set));
        newest.or_else(|| self.old(new).find_map(|index| of(&self.sets[index].set)))
    }
}

/// Absent counters and zeros mean the same, and so does another order of conditions.
fn same_status(a: &DeploymentStatus, b: &DeploymentStatus) -> bool {
    let plain = |status: &DeploymentStatus| {
        let count = |count: Option<i32>| Some(count.unwrap_or(0));
        let mut conditions = status.conditions.clone().unwrap_or_default();
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        DeploymentStatus {
            replicas: count(status.replicas),
            updated_replicas: count(status.updated_replicas),
            ready_replicas: count(status.ready_replicas),
            available_replicas: count(status.available_replicas),
            unavailable_replicas: count(status.unavailable_replicas),
            terminating_replicas: count(status.terminating_replicas),
            collision_count: count(status.collision_count),
            conditions: Some(conditions),
            observed_generation: status.observed_generation,
        }
    };
    plain(a) == plain(b)
}
