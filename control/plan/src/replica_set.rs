// SPDX-License-Identifier: Apache-2.0
//! What a ReplicaSet needs: pods to adopt, to let go, to create and to delete, and its status.
//!
//! The ReplicaSet loop calls [`plan`] with a picture that is known to hold every write of its own, so that
//! it never creates a pod twice; then it applies the plan and calls [`plan_status`]. Behaviour follows
//! kube-controller-manager's `replicaset` controller (v1.37).

use std::collections::HashMap;
use std::time::Duration;

use knarr_api::k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use knarr_api::k8s_openapi::api::core::v1::Pod;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::labels::{Selector, SelectorError};
use knarr_api::names::NamespacedName;

use crate::owners::new_controller_ref;
use crate::pods::PodView;
use crate::reason::ConditionReason;

mod rank;

pub use rank::rank_for_deletion;

/// Most pods created or deleted by one pass (Kubernetes' `BurstReplicas`); the rest waits for the next, so
/// that one huge set cannot keep all others waiting.
pub const BURST_REPLICAS: usize = 500;
/// Size of the first batch of creations; each batch that succeeds doubles the next
/// (Kubernetes' `SlowStartInitialBatchSize`). A set whose pods are all refused makes few requests.
pub const SLOW_START_BATCH: usize = 1;

/// One pod, named so that another of the same name cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `metadata.uid`
    pub uid: String,
}

impl PodRef {
    fn of(pod: &PodView) -> Self {
        Self {
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
        }
    }
}

/// What has to be done for a ReplicaSet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Orphans that the selector matches: they get the set as their controller.
    pub adopt: Vec<PodRef>,
    /// Own pods that the selector matches no longer: the reference to the set is taken off.
    pub release: Vec<PodRef>,
    /// How many pods to create.
    pub create: usize,
    /// Pods to delete.
    pub delete: Vec<PodRef>,
    /// Uids of the pods that are the set's after adoption and release; [`plan_status`] counts them.
    pub members: Vec<Box<str>>,
}

/// What there is when a ReplicaSet is looked at.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The set.
    pub set: &'a ReplicaSet,
    /// Every pod of its namespace that it controls or its selector matches; more do no harm.
    pub pods: &'a [&'a PodView],
    /// Active pods on each node that belong to the same owner as the set (all sets of one Deployment).
    pub related_on: &'a HashMap<Box<str>, usize>,
}

fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// The set's selector.
pub fn selector_of(set: &ReplicaSet) -> Result<Selector, SelectorError> {
    Selector::from_object(Some(&set.spec.selector))
}

/// How many pods the set wants; the API's default is one.
pub fn replicas_of(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Decides what to do for one ReplicaSet.
pub fn plan(view: View<'_>, now: Timestamp) -> Result<Plan, SelectorError> {
    let View {
        set,
        pods,
        related_on,
    } = view;
    let selector = selector_of(set)?;
    let is_deleted = set.metadata.deletion_timestamp.is_some();
    let mut plan = Plan::default();
    let mut active: Vec<&PodView> = Vec::new();
    for pod in pods {
        let matches = selector.matches(&*pod.labels) && !is_everything(&selector);
        match &pod.controller {
            Some(owner) if &*owner.uid != uid(&set.metadata) => continue,
            Some(_) if matches => {}
            // A pod that is on its way out needs no release: it goes with its reference.
            Some(_) => {
                if !is_deleted && pod.deleted_at.is_none() {
                    plan.release.push(PodRef::of(pod));
                }
                continue;
            }
            None if matches && !is_deleted && pod.is_active() => plan.adopt.push(PodRef::of(pod)),
            None => continue,
        }
        plan.members.push(pod.uid.clone());
        if pod.is_active() {
            active.push(pod);
        }
    }
    if is_deleted {
        return Ok(plan);
    }
    let wanted = usize::try_from(replicas_of(set)).unwrap_or(0);
    if active.len() < wanted {
        plan.create = (wanted - active.len()).min(BURST_REPLICAS);
    } else if active.len() > wanted {
        let surplus = (active.len() - wanted).min(BURST_REPLICAS);
        rank_for_deletion(&mut active, related_on, now);
        plan.delete = active.into_iter().take(surplus).map(PodRef::of).collect();
    }
    Ok(plan)
}

/// The API refuses an empty selector; a stored one must not take every pod of the namespace.
fn is_everything(selector: &Selector) -> bool {
    selector.is_everything()
}

/// Sizes of the batches in which `count` creations are tried: 1, 2, 4, ...
pub fn slow_start_batches(count: usize) -> impl Iterator<Item = usize> {
    let (mut left, mut size) = (count, SLOW_START_BATCH);
    std::iter::from_fn(move || {
        let batch = left.min(size);
        left -= batch;
        size *= 2;
        (batch > 0).then_some(batch)
    })
}

/// A new pod of the set.
pub fn new_pod(set: &ReplicaSet) -> Pod {
    let template = set.spec.template.as_ref();
    let meta = template.and_then(|template| template.metadata.as_ref());
    let name = set.metadata.name.as_deref().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: set.metadata.namespace.clone(),
            labels: meta.and_then(|meta| meta.labels.clone()),
            annotations: meta.and_then(|meta| meta.annotations.clone()),
            finalizers: meta.and_then(|meta| meta.finalizers.clone()),
            owner_references: Some(vec![new_controller_ref(
                "apps/v1",
                "ReplicaSet",
                &set.metadata,
            )]),
            ..ObjectMeta::default()
        },
        spec: template.and_then(|template| template.spec.clone()),
        status: None,
    }
}

/// What went wrong while a plan was applied; it becomes the set's `ReplicaFailure` condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// [`ConditionReason::FailedCreate`] or [`ConditionReason::FailedDelete`].
    pub reason: ConditionReason,
    /// The API's refusal.
    pub message: String,
}

/// The set's status and when it will change by time alone.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StatusPlan {
    /// The new status; `None` when the stored one says the same.
    pub status: Option<ReplicaSetStatus>,
    /// A ready pod will count as available after this time.
    pub again_after: Option<Duration>,
}

/// Counts the set's pods. `failure` is what applying the plan met, `None` for all well.
pub fn plan_status(
    set: &ReplicaSet,
    members: &[&PodView],
    failure: Option<&Failure>,
    now: Timestamp,
) -> StatusPlan {
    let spec = &set.spec;
    let min_ready_s = spec.min_ready_seconds.unwrap_or(0);
    let template = spec.template.as_ref();
    let template_labels = template.and_then(|template| template.metadata.as_ref());
    let template_labels = template_labels
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    let template_selector = Selector::from_map(&template_labels);
    let old = set.status.clone().unwrap_or_default();
    let active: Vec<_> = members.iter().filter(|pod| pod.is_active()).collect();
    let count = |holds: &dyn Fn(&PodView) -> bool| {
        i32::try_from(active.iter().filter(|pod| holds(pod)).count()).unwrap_or(i32::MAX)
    };
    let terminating = members
        .iter()
        .filter(|pod| pod.deleted_at.is_some() && !pod.phase.is_terminal());
    let status = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&|pod| template_selector.matches(&*pod.labels))),
        ready_replicas: Some(count(&PodView::is_ready)),
        available_replicas: Some(count(&|pod| pod.is_available(min_ready_s, now))),
        terminating_replicas: Some(i32::try_from(terminating.count()).unwrap_or(i32::MAX)),
        observed_generation: set.metadata.generation,
        conditions: conditions(&old, failure, now),
    };
    let next = active
        .iter()
        .filter_map(|pod| pod.becomes_available_at(min_ready_s, now))
        .min();
    StatusPlan {
        status: (!same_status(&old, &status)).then_some(status),
        again_after: next.map(|moment| moment.duration_since(now).unsigned_abs()),
    }
}

/// Absent counters and zeros mean the same and must not cause a write.
fn same_status(a: &ReplicaSetStatus, b: &ReplicaSetStatus) -> bool {
    let plain = |status: &ReplicaSetStatus| ReplicaSetStatus {
        fully_labeled_replicas: Some(status.fully_labeled_replicas.unwrap_or(0)),
        ready_replicas: Some(status.ready_replicas.unwrap_or(0)),
        available_replicas: Some(status.available_replicas.unwrap_or(0)),
        terminating_replicas: Some(status.terminating_replicas.unwrap_or(0)),
        conditions: status
            .conditions
            .clone()
            .filter(|conditions| !conditions.is_empty()),
        ..status.clone()
    };
    plain(a) == plain(b)
}

fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let is_failure =
        |condition: &&ReplicaSetCondition| condition.type_.as_deref() == Some("ReplicaFailure");
    let known = old.conditions.iter().flatten().find(is_failure);
    let mut conditions: Vec<_> = old
        .conditions
        .iter()
        .flatten()
        .filter(|c| !is_failure(c))
        .cloned()
        .collect();
    if let Some(Failure { reason, message }) = failure {
        match known {
            // A failure keeps its first message, so that retries do not write.
            Some(known) if known.reason.as_deref() == Some(reason.as_str()) => {
                conditions.push(known.clone())
            }
            _ => conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(reason.as_str().to_owned()),
                message: Some(message.clone()),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

#[cfg(test)]
mod tests;
