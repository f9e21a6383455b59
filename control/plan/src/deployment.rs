// SPDX-License-Identifier: Apache-2.0
//! What a Deployment needs: ReplicaSets to create, scale and clean up, and its status.
//!
//! The Deployment loop calls [`plan`] with every ReplicaSet of the namespace that the Deployment controls or
//! could adopt, applies the actions in order, and is woken by what they change. One call plans one step of
//! a rollout. Behaviour, annotations, conditions and messages follow kube-controller-manager's
//! `deployment` controller (v1.37), because `kubectl rollout` reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::labels::{Selector, SelectorError};

use crate::owners::controller_ref;
use crate::reason::EventReason;

mod revision;
mod rolling;
mod scale;
mod status;
mod strategy;
mod template;

pub use revision::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, REVISION_HISTORY};
pub use strategy::{Bounds, bounds};
pub use template::{POD_TEMPLATE_HASH, template_hash};

/// What there is when a Deployment is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// ReplicaSets of its namespace that it controls, and those without a controller that its selector matches.
    pub sets: &'a [ReplicaSet],
    /// Uids of sets that still have a pod which has not ended, terminating ones included.
    pub sets_with_pods: &'a [String],
}

/// One thing to do, in the order planned.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Make the Deployment the controller of this set.
    Adopt(SetRef),
    /// Take the Deployment's reference off this set.
    Release(SetRef),
    /// Create a set; its name may be taken ([`name_taken`] says what then).
    CreateSet(Box<ReplicaSet>),
    /// Replace a set, if it has not changed since.
    UpdateSet(Box<ReplicaSet>),
    /// Delete a set that is no longer needed for a rollback.
    DeleteSet(SetRef),
    /// Set these annotations of the Deployment.
    Annotate(BTreeMap<String, String>),
    /// Replace the Deployment's status.
    Status(Box<DeploymentStatus>),
    /// Write an Event. It comes after the action that it is about.
    Event {
        /// Why.
        reason: EventReason,
        /// The text.
        message: String,
    },
}

/// One ReplicaSet, named so that another of the same name cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRef {
    /// Name, in the Deployment's namespace.
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

impl SetRef {
    fn of(set: &ReplicaSet) -> Self {
        Self {
            name: set.metadata.name.clone().unwrap_or_default(),
            uid: set.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// What has to be done for a Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Look again after this time: the progress deadline will have passed.
    pub again_after: Option<Duration>,
}

/// Decides the next step of one Deployment.
pub fn plan(view: View<'_>, now: Timestamp) -> Result<Plan, SelectorError> {
    let deployment = view.deployment;
    let spec = &deployment.spec;
    let selector = Selector::from_object(Some(&spec.selector))?;
    let mut step = Step::new(view, now);
    if selector.is_everything() {
        // The API refuses it; a stored one must not take every ReplicaSet of the namespace.
        return Ok(step.finish());
    }
    step.claim(view.sets, &selector);
    if step.adopts() {
        // Planned now, the rest would not count the sets that are being adopted, and would make another one beside them.
        // Adopting wakes the loop again.
        return Ok(step.finish());
    }
    if deployment.metadata.deletion_timestamp.is_some() {
        let new = step.find_new();
        step.plan_status_only(new);
        return Ok(step.finish());
    }
    step.note_pause();
    if spec.paused.unwrap_or(false) || step.is_scaled() {
        let new = step.sync_existing_new_set();
        step.scale(new);
        if spec.paused.unwrap_or(false) {
            step.clean_up(new);
        }
        step.plan_status_only(new);
    } else if step.is_recreate() {
        step.roll_by_recreation(view.sets_with_pods);
    } else {
        step.roll();
    }
    Ok(step.finish())
}

/// What to do when [`Action::CreateSet`] finds its name taken by `existing`.
pub fn name_taken(deployment: &Deployment, existing: &ReplicaSet) -> NameTaken {
    let uid = deployment.metadata.uid.as_deref();
    let is_own =
        controller_ref(&existing.metadata).is_some_and(|owner| Some(owner.uid.as_str()) == uid);
    if is_own && template::is_template_of(deployment, existing) {
        return NameTaken::IsOurs;
    }
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    NameTaken::Collision(Box::new(status))
}

/// Outcome of [`name_taken`].
#[derive(Debug, Clone, PartialEq)]
pub enum NameTaken {
    /// It is the very set that was to be created; go on.
    IsOurs,
    /// Another set has the name: this status makes the next hash another one.
    Collision(Box<DeploymentStatus>),
}

/// A ReplicaSet while a step is planned.
#[derive(Debug, Clone)]
struct Working {
    original: ReplicaSet,
    set: ReplicaSet,
}

impl Working {
    fn replicas(&self) -> i32 {
        crate::replica_set::replicas_of(&self.set)
    }

    /// Available pods that stay when the set has got the size that its spec has now.
    fn available(&self) -> i32 {
        let status = self.set.status.as_ref();
        let available = status
            .and_then(|status| status.available_replicas)
            .unwrap_or(0);
        available.min(self.replicas())
    }

    fn is_active(&self) -> bool {
        self.replicas() > 0
    }

    fn name(&self) -> &str {
        self.set.metadata.name.as_deref().unwrap_or_default()
    }
}

/// One planning of one Deployment.
struct Step<'a> {
    deployment: &'a Deployment,
    now: Timestamp,
    replicas: i32,
    bounds: Bounds,
    /// Own sets, oldest first.
    sets: Vec<Working>,
    first: Vec<Action>,
    creations: Vec<Action>,
    deletions: Vec<Action>,
    events: Vec<Action>,
    annotations: BTreeMap<String, String>,
    /// Conditions as they will be; the rest of the status is counted at the end.
    conditions: status::Conditions,
    status: Option<DeploymentStatus>,
    again_after: Option<Duration>,
}

impl<'a> Step<'a> {
    fn new(view: View<'a>, now: Timestamp) -> Self {
        let deployment = view.deployment;
        let old = deployment.status.as_ref();
        Self {
            deployment,
            now,
            replicas: strategy::replicas(deployment),
            bounds: bounds(deployment),
            sets: Vec::new(),
            first: Vec::new(),
            creations: Vec::new(),
            deletions: Vec::new(),
            events: Vec::new(),
            annotations: BTreeMap::new(),
            conditions: status::Conditions::of(old, now),
            status: None,
            again_after: None,
        }
    }

    /// Sorts out which sets are the Deployment's.
    fn claim(&mut self, sets: &[ReplicaSet], selector: &Selector) {
        let uid = self.deployment.metadata.uid.as_deref().unwrap_or_default();
        let is_deleted = self.deployment.metadata.deletion_timestamp.is_some();
        for set in sets {
            let matches = selector.matches(&set.metadata.labels);
            match controller_ref(&set.metadata) {
                Some(owner) if owner.uid != uid => continue,
                Some(_) if matches => {}
                Some(_) => {
                    if !is_deleted && set.metadata.deletion_timestamp.is_none() {
                        self.first.push(Action::Release(SetRef::of(set)));
                    }
                    continue;
                }
                None if matches && !is_deleted && set.metadata.deletion_timestamp.is_none() => {
                    self.first.push(Action::Adopt(SetRef::of(set)));
                    continue;
                }
                None => continue,
            }
            self.sets.push(Working {
                original: set.clone(),
                set: set.clone(),
            });
        }
        let age = |set: &ReplicaSet| {
            (
                set.metadata.creation_timestamp.clone(),
                set.metadata.name.clone(),
            )
        };
        self.sets.sort_by_key(|working| age(&working.set));
    }

    fn adopts(&self) -> bool {
        let is_adoption = |action: &Action| matches!(action, Action::Adopt(_));
        self.first.iter().any(is_adoption)
    }

    fn is_recreate(&self) -> bool {
        strategy::is_recreate(self.deployment)
    }

    /// Position of the set with the Deployment's template: the oldest, should there be several.
    fn find_new(&self) -> Option<usize> {
        self.sets
            .iter()
            .position(|working| template::is_template_of(self.deployment, &working.set))
    }

    fn old(&self, new: Option<usize>) -> impl Iterator<Item = usize> + use<> {
        (0..self.sets.len()).filter(move |index| Some(*index) != new)
    }

    fn total_replicas(&self) -> i32 {
        self.sets.iter().map(Working::replicas).sum()
    }

    fn scale_set(&mut self, index: usize, size: i32) {
        let (desired, max) = (self.replicas, self.replicas + self.bounds.surge);
        let working = &mut self.sets[index];
        let from = working.replicas();
        revision::set_replica_annotations(&mut working.set, desired, max);
        if from == size {
            return;
        }
        working.set.spec.replicas = Some(size);
        let direction = if size > from { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} replica set {} from {from} to {size}",
            self.sets[index].name()
        );
        self.events.push(Action::Event {
            reason: EventReason::ScalingReplicaSet,
            message,
        });
    }

    fn finish(self) -> Plan {
        let mut actions = self.first;
        actions.extend(self.creations);
        for Working { original, set } in self.sets {
            if set != original {
                actions.push(Action::UpdateSet(Box::new(set)));
            }
        }
        actions.extend(self.events);
        actions.extend(self.deletions);
        if !self.annotations.is_empty() {
            actions.push(Action::Annotate(self.annotations));
        }
        if let Some(status) = self.status {
            actions.push(Action::Status(Box::new(status)));
        }
        Plan {
            actions,
            again_after: self.again_after,
        }
    }
}

#[cfg(test)]
mod tests;
