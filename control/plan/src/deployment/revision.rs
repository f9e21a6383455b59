// SPDX-License-Identifier: Apache-2.0
//! Revisions and the other annotations by which `kubectl rollout` finds its way.

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::apps::v1::ReplicaSet;

use super::{Action, SetRef, Step};
use crate::reason::{ConditionReason, EventReason};

/// Number of the rollout that a ReplicaSet or Deployment is at.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that was rolled back to, separated by commas.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's size when the set was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// That size with the surge.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations that belong to one object alone and are not carried from a Deployment to its sets.
const NOT_CARRIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
];
/// Length of the history annotation in bytes (Kubernetes' `maxRevHistoryLengthInChars`).
const HISTORY_MAX: usize = 2000;

fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The revision of a set; 0 where it has none.
pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// An annotation that holds a number of pods.
pub(super) fn replicas_in(set: &ReplicaSet, key: &str) -> Option<i32> {
    annotation(set, key)?.parse().ok()
}

/// Notes the Deployment's size on a set.
pub(super) fn set_replica_annotations(set: &mut ReplicaSet, desired: i32, max: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), max.to_string());
}

/// Carries the Deployment's annotations over and gives the set its revision.
fn annotate_new(set: &mut ReplicaSet, from: Option<&BTreeMap<String, String>>, revision: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in from.into_iter().flatten() {
        if !NOT_CARRIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(REVISION).cloned();
    let old_revision = old
        .as_deref()
        .and_then(|text| text.parse::<i64>().ok())
        .unwrap_or(0);
    if old_revision >= revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), revision.to_string());
    if let Some(old) = old.filter(|_| old_revision > 0) {
        let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
        let mut earlier: Vec<&str> = history.split(',').filter(|part| !part.is_empty()).collect();
        earlier.push(&old);
        while earlier.join(",").len() > HISTORY_MAX {
            earlier.remove(0);
        }
        *history = earlier.join(",");
    }
}

impl Step<'_> {
    fn next_revision(&self, new: Option<usize>) -> i64 {
        let newest = self
            .old(new)
            .map(|index| revision_of(&self.sets[index].set))
            .max();
        newest.unwrap_or(0) + 1
    }

    /// Finds the set with the Deployment's template and brings its annotations up to date.
    pub(super) fn sync_existing_new_set(&mut self) -> Option<usize> {
        let new = self.find_new()?;
        let revision = self.next_revision(Some(new));
        let min_ready = self.deployment.spec.min_ready_seconds;
        let set = &mut self.sets[new].set;
        annotate_new(set, self.deployment.metadata.annotations.as_ref(), revision);
        if set.spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            set.spec.min_ready_seconds = min_ready;
        }
        let set = &self.sets[new].set;
        let (name, revision) = (
            set.metadata.name.clone().unwrap_or_default(),
            revision_of(set).to_string(),
        );
        self.note_revision(revision);
        if self.has_deadline() && self.conditions.progressing().is_none() {
            let message = format!("Found new replica set {name:?}");
            self.conditions
                .set_progressing("True", ConditionReason::FoundNewReplicaSet, message);
        }
        Some(new)
    }

    /// The set with the Deployment's template, which is created if there is none yet.
    pub(super) fn sync_new_set(&mut self) -> Option<usize> {
        if let Some(new) = self.sync_existing_new_set() {
            return Some(new);
        }
        let revision = self.next_revision(None);
        let mut set = super::template::new_set(self.deployment);
        annotate_new(
            &mut set,
            self.deployment.metadata.annotations.as_ref(),
            revision,
        );
        set_replica_annotations(&mut set, self.replicas, self.replicas + self.bounds.surge);
        let size = self.new_set_size(0);
        set.spec.replicas = Some(size);
        let name = set.metadata.name.clone().unwrap_or_default();
        self.creations.push(Action::CreateSet(Box::new(set)));
        if size > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {size}");
            self.events.push(Action::Event {
                reason: EventReason::ScalingReplicaSet,
                message,
            });
        }
        self.note_revision(revision.to_string());
        if self.has_deadline() {
            let message = format!("Created new replica set {name:?}");
            self.conditions
                .set_progressing("True", ConditionReason::NewReplicaSetCreated, message);
        }
        None
    }

    fn note_revision(&mut self, revision: String) {
        let known = self.deployment.metadata.annotations.as_ref();
        if known.and_then(|annotations| annotations.get(REVISION)) != Some(&revision) {
            self.annotations.insert(REVISION.to_owned(), revision);
        }
    }

    /// Deletes the oldest sets beyond `revisionHistoryLimit` that are empty and known to be.
    pub(super) fn clean_up(&mut self, new: Option<usize>) {
        let limit = self.deployment.spec.revision_history_limit;
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return;
        };
        let mut old: Vec<usize> = self
            .old(new)
            .filter(|index| self.sets[*index].set.metadata.deletion_timestamp.is_none())
            .collect();
        let Some(surplus) = old.len().checked_sub(limit) else {
            return;
        };
        old.sort_by_key(|index| revision_of(&self.sets[*index].set));
        for index in old.into_iter().take(surplus) {
            let working = &self.sets[index];
            let status = working.set.status.as_ref();
            let has_pods = status.is_some_and(|status| status.replicas != 0);
            let seen = status
                .and_then(|status| status.observed_generation)
                .unwrap_or(0);
            let is_seen = working.set.metadata.generation.unwrap_or(0) <= seen;
            if has_pods || working.is_active() || !is_seen {
                continue;
            }
            self.deletions
                .push(Action::DeleteSet(SetRef::of(&working.set)));
        }
    }
}
