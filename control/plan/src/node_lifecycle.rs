// SPDX-License-Identifier: Apache-2.0
//! What happens to a node that sends no heartbeat any more, and to the pods on it.
//!
//! Four questions, asked by the node lifecycle loop: which conditions a node without heartbeat gets ([`plan_health`]),
//! which taints a node has to have ([`plan_taints`]), which pods can no longer count as ready and which do
//! again ([`plan_unready`], [`plan_found`]), and which have to leave and when ([`plan_evictions`]). Follows
//! kube-controller-manager's `node-lifecycle` and `taint-eviction` controllers (v1.37), with one zone.

use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::{Node, NodeCondition, PodCondition, PodStatus, Taint};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::node_events::NodeNews;
use crate::pods::{NODE_LOST, PodView};
use crate::reason::ConditionReason;
use crate::replica_set::PodRef;
use crate::scheduler::{TaintView, TolerationView};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that only the node can know.
pub(crate) const OF_NODE: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Conditions that keep new pods away while they are `True`.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];
/// Keys that belong to node lifecycle; every other taint belongs to others.
const OWN_KEYS: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/network-unavailable",
];

/// What a node's `Ready` condition says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// `True`
    Ready,
    /// `False`: the node says so itself.
    NotReady,
    /// `Unknown`: the node sends no heartbeat.
    Unknown,
    /// The condition is absent: the node never reported.
    Never,
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Reads a node's `Ready` condition.
pub fn readiness(node: &Node) -> Readiness {
    match condition(node, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        Some(_) => Readiness::Unknown,
        None => Readiness::Never,
    }
}

/// What a node's silence means.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HealthPlan {
    /// All conditions of the node as they have to be; `None` when nothing changes.
    pub conditions: Option<Vec<NodeCondition>>,
    /// The Event about that. A node that was not ready before gets no Event (as upstream).
    pub news: Option<NodeNews>,
    /// Look again after this time; `None` when only a report of the node can change anything.
    pub again_after: Option<Duration>,
}

/// Judges a node whose last heartbeat, or the beginning of the wait for its first, is `silence` ago.
/// `silence` is measured by a clock that cannot be set; `now` is only for what is written.
pub fn plan_health(node: &Node, silence: Duration, grace: Duration, now: Timestamp) -> HealthPlan {
    let left = grace.saturating_sub(silence_of(node, silence, grace, now));
    if !left.is_zero() {
        return HealthPlan {
            again_after: Some(left),
            ..HealthPlan::default()
        };
    }
    let old = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = old.cloned().unwrap_or_default();
    let mut changed = false;
    for type_ in OF_NODE {
        let known = conditions
            .iter_mut()
            .find(|condition| condition.type_ == type_);
        match known {
            Some(known) if known.status == "Unknown" => continue,
            Some(known) => {
                known.status = "Unknown".to_owned();
                known.reason = Some(ConditionReason::NodeStatusUnknown.as_str().to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: type_.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(ConditionReason::NodeStatusNeverUpdated.as_str().to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
        changed = true;
    }
    let was_ready = readiness(node) == Readiness::Ready;
    HealthPlan {
        conditions: changed.then_some(conditions),
        news: was_ready.then_some(NodeNews::NotReady),
        again_after: None,
    }
}

/// A node cannot be without heartbeat for longer than it exists: one that was created again under an old name has its whole
/// grace. A creation further in the future than the grace says that the clock was set back, and nothing else.
fn silence_of(node: &Node, silence: Duration, grace: Duration, now: Timestamp) -> Duration {
    let Some(created) = &node.metadata.creation_timestamp else {
        return silence;
    };
    let age = now.duration_since(created.0);
    if age.is_negative() && age.unsigned_abs() > grace {
        return silence;
    }
    silence.min(Duration::try_from(age).unwrap_or_default())
}

/// How many nodes of the cluster send heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disruption {
    /// At least one node is ready.
    Partial,
    /// No node is ready: more likely it is the control plane that is cut off, so nothing is evicted.
    Full,
}

/// The taints that a node has to have; `None` when it has exactly them. Those of others stay.
pub fn plan_taints(node: &Node, disruption: Disruption, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let old = spec
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let readiness = readiness(node);
    match readiness {
        Readiness::Ready => {}
        Readiness::NotReady | Readiness::Never => wanted.push((NOT_READY, "NoSchedule")),
        Readiness::Unknown => wanted.push((UNREACHABLE, "NoSchedule")),
    }
    if disruption == Disruption::Partial {
        match readiness {
            Readiness::NotReady => wanted.push((NOT_READY, "NoExecute")),
            Readiness::Unknown => wanted.push((UNREACHABLE, "NoExecute")),
            Readiness::Ready | Readiness::Never => {}
        }
    }
    for (type_, key) in PRESSURES {
        if condition(node, type_).is_some_and(|condition| condition.status == "True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_own = |taint: &Taint| OWN_KEYS.contains(&taint.key.as_str());
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = old
        .iter()
        .filter(|taint| !is_own(taint) || is_wanted(taint))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != old).then_some(taints)
}

/// Pods that still count as ready on a node without heartbeat. Their state is not known, so they must leave the
/// Services.
pub fn plan_unready(node: &Node, pods: &[&PodView]) -> Vec<PodRef> {
    if readiness(node) != Readiness::Unknown {
        return Vec::new();
    }
    let counted = pods
        .iter()
        .filter(|pod| pod.is_ready() && !pod.phase.is_terminal());
    counted
        .map(|pod| PodRef {
            name: pod.name.clone(),
            uid: pod.uid.to_string(),
        })
        .collect()
}

/// The status of a pod whose node sends no heartbeat: not ready. `None` when it says so already.
pub fn unready_status(status: &PodStatus, now: Timestamp) -> Option<PodStatus> {
    let mut status = status.clone();
    let conditions = status.conditions.as_mut()?;
    let ready = conditions
        .iter_mut()
        .find(|condition| condition.type_ == "Ready")?;
    if ready.status == "False" {
        return None;
    }
    ready.status = "False".to_owned();
    ready.reason = Some(NODE_LOST.to_owned());
    ready.last_transition_time = Some(Time(now));
    Some(status)
}

/// Pods that are not ready only because their node sent no heartbeat, now that it sends them again.
pub fn plan_found(node: &Node, pods: &[&PodView]) -> Vec<PodRef> {
    if readiness(node) != Readiness::Ready {
        return Vec::new();
    }
    let lost = pods
        .iter()
        .filter(|pod| pod.ready.is_some_and(|ready| ready.is_lost));
    lost.map(|pod| PodRef {
        name: pod.name.clone(),
        uid: pod.uid.to_string(),
    })
    .collect()
}

/// The status of a pod whose node sends heartbeats again: as ready as its containers were in the node's last report.
/// `None` when the pod is not one of [`plan_found`].
pub fn found_status(status: &PodStatus, now: Timestamp) -> Option<PodStatus> {
    let mut status = status.clone();
    let conditions = status.conditions.as_mut()?;
    let of_containers = conditions
        .iter()
        .find(|condition| condition.type_ == "ContainersReady");
    let ready_again = of_containers.is_none_or(|condition| condition.status == "True");
    let ready = conditions
        .iter_mut()
        .find(|condition| condition.type_ == "Ready")?;
    if ready.reason.as_deref() != Some(NODE_LOST) {
        return None;
    }
    ready.reason = None;
    if ready_again {
        ready.status = "True".to_owned();
        ready.last_transition_time = Some(Time(now));
    }
    Some(status)
}

/// Adds the condition that says why a pod is evicted, as `kubectl describe` shows it.
pub fn disrupted_status(
    status: &PodStatus,
    reason: ConditionReason,
    message: &str,
    now: Timestamp,
) -> PodStatus {
    let mut status = status.clone();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.as_str().to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    });
    status
}

/// Pods that have to leave a node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evictions {
    /// Delete these now.
    pub now: Vec<PodRef>,
    /// The next one has to leave after this time.
    pub again_after: Option<Duration>,
}

/// Decides which pods of a node its `NoExecute` taints drive away, and when: a toleration with
/// `tolerationSeconds` lets a pod stay that long after the taint was added.
pub fn plan_evictions(node: &Node, pods: &[&PodView], now: Timestamp) -> Evictions {
    let taints: Vec<&Taint> = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten())
        .filter(|taint| taint.effect == "NoExecute")
        .collect();
    let mut evictions = Evictions::default();
    for pod in pods {
        if taints.is_empty() || pod.deleted_at.is_some() || pod.phase.is_terminal() {
            continue;
        }
        let Some(leaves_at) = taints
            .iter()
            .filter_map(|taint| leaves_at(taint, pod, now))
            .min()
        else {
            continue;
        };
        let left = leaves_at.duration_since(now);
        if left <= SignedDuration::ZERO {
            evictions.now.push(PodRef {
                name: pod.name.clone(),
                uid: pod.uid.to_string(),
            });
        } else {
            let left = left.unsigned_abs();
            evictions.again_after =
                Some(evictions.again_after.map_or(left, |other| other.min(left)));
        }
    }
    evictions
}

/// When a taint drives a pod away; `None`: never.
fn leaves_at(taint: &Taint, pod: &PodView, now: Timestamp) -> Option<Timestamp> {
    let view = TaintView::of(taint);
    let matching = pod
        .execute_tolerations
        .iter()
        .filter(|toleration| TolerationView::of(toleration).tolerates(&view));
    let mut tolerated = false;
    let mut least: Option<i64> = None;
    for toleration in matching {
        tolerated = true;
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = seconds.max(0);
            least = Some(least.map_or(seconds, |other| other.min(seconds)));
        }
    }
    if !tolerated {
        return Some(now);
    }
    let since = taint.time_added.as_ref().map_or(now, |time| time.0);
    least.map(|seconds| {
        since
            .saturating_add(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX)
    })
}

#[cfg(test)]
mod tests;
