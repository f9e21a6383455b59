// SPDX-License-Identifier: Apache-2.0
//! What becomes of a node's reports: which part of a pod's or Node's status they may change.

use knarr_api::k8s_openapi::api::core::v1::{
    Node, NodeCondition, NodeStatus, PodCondition, PodStatus,
};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::node_lifecycle::OF_NODE;

/// How old the heartbeat time of a node's conditions becomes while its heartbeats arrive. kubelet writes its status every
/// five minutes where nothing changes (`nodeStatusReportFrequency`, v1.37). A heartbeat that comes just before this
/// age is not shown, so it is less than that by more than the time between two heartbeats.
const SHOWN_HEARTBEAT_AGE_MAX: SignedDuration = SignedDuration::from_mins(4);

/// Pod conditions that a node speaks for; others belong to the control plane or to other controllers.
const POD_CONDITIONS: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodResizePending",
    "PodResizeInProgress",
];

/// True for a condition that the pod's node speaks for.
pub(super) fn is_of_node(condition: &PodCondition) -> bool {
    POD_CONDITIONS.contains(&condition.type_.as_str())
}

/// True for a phase that a pod never leaves.
fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// A pod's status after its node reported; `None` when the report changes nothing or would take the pod
/// back out of a terminal phase.
pub fn plan_pod_status(current: &PodStatus, reported: &PodStatus) -> Option<PodStatus> {
    let (was, is) = (current.phase.as_deref(), reported.phase.as_deref());
    if is_terminal(was) && was != is {
        return None;
    }
    let kept = current.conditions.iter().flatten();
    let kept = kept.filter(|condition| !is_of_node(condition));
    let mut conditions: Vec<PodCondition> = kept.cloned().collect();
    conditions.extend(
        reported
            .conditions
            .iter()
            .flatten()
            .filter(|condition| is_of_node(condition))
            .cloned(),
    );
    let planned = PodStatus {
        conditions: (!conditions.is_empty()).then_some(conditions),
        // Given when the pod was admitted or evicted; a node that does not know them must not erase them.
        nominated_node_name: current.nominated_node_name.clone(),
        qos_class: reported.qos_class.clone().or(current.qos_class.clone()),
        start_time: current.start_time.clone().or(reported.start_time.clone()),
        observed_generation: reported.observed_generation.or(current.observed_generation),
        ..reported.clone()
    };
    let same = PodStatus {
        conditions: sorted(&current.conditions),
        ..current.clone()
    } == PodStatus {
        conditions: sorted(&planned.conditions),
        ..planned.clone()
    };
    (!same).then_some(planned)
}

fn sorted(conditions: &Option<Vec<PodCondition>>) -> Option<Vec<PodCondition>> {
    let mut conditions = conditions.clone().unwrap_or_default();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    (!conditions.is_empty()).then_some(conditions)
}

/// What a Node object needs after the node reported.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeWrites {
    /// The Node with the labels and annotations it reported, where they differ.
    pub metadata: Option<Node>,
    /// The Node's new status, where it differs by more than the time of a heartbeat.
    pub status: Option<NodeStatus>,
}

/// Whether a heartbeat that arrives at `now` has to be shown in the Node's conditions: the last that they show is too
/// old, or, because the clock was set, too far in the future. A node that counts as silent gets its whole last report
/// back instead.
pub fn must_show_heartbeat(node: &Node, now: Timestamp) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut own =
        conditions.filter(|condition| shows_heartbeats(&condition.type_, &condition.status));
    own.any(|condition| {
        let shown = condition.last_heartbeat_time.as_ref();
        shown.is_none_or(|shown| now.duration_since(shown.0).abs() >= SHOWN_HEARTBEAT_AGE_MAX)
    })
}

/// Shows a heartbeat that arrived at `now` in the JSON of a Node.
pub fn show_heartbeat(node: &mut Value, now: Timestamp) {
    let conditions = node.pointer_mut("/status/conditions");
    for condition in conditions
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        if shows_heartbeats(text("type"), text("status")) {
            condition["lastHeartbeatTime"] = json!(Time(now));
        }
    }
}

/// True for a condition that the node itself speaks for and has not fallen silent about.
fn shows_heartbeats(type_: &str, status: &str) -> bool {
    OF_NODE.contains(&type_) && status != "Unknown"
}

/// Compares a Node with what the node itself reported, and said at `now` if not before. Labels that others set stay.
pub fn plan_node(current: &Node, reported: &Node, now: Timestamp) -> NodeWrites {
    let mut node = current.clone();
    let labels = node.metadata.labels.get_or_insert_default();
    for (key, value) in reported.metadata.labels.iter().flatten() {
        labels.insert(key.clone(), value.clone());
    }
    let changed = node.metadata.labels != current.metadata.labels
        && !(current.metadata.labels.is_none()
            && node.metadata.labels.as_ref().is_some_and(|l| l.is_empty()));
    let was = current.status.clone().unwrap_or_default();
    let planned = plan_node_status(&was, &reported.status.clone().unwrap_or_default(), now);
    NodeWrites {
        metadata: changed.then_some(node),
        status: (!same_status(&was, &planned)).then_some(planned),
    }
}

fn plan_node_status(was: &NodeStatus, reported: &NodeStatus, now: Timestamp) -> NodeStatus {
    let mut conditions: Vec<NodeCondition> = Vec::new();
    for condition in reported.conditions.iter().flatten() {
        let mut condition = condition.clone();
        // The node says when each condition began, and with every report that it holds now.
        condition.last_heartbeat_time = Some(Time(now));
        let old = was
            .conditions
            .iter()
            .flatten()
            .find(|old| old.type_ == condition.type_);
        // The moment of the last change is this cluster's to tell: a restarted node would reset it.
        if let Some(old) = old.filter(|old| old.status == condition.status) {
            condition.last_transition_time = old.last_transition_time.clone();
        }
        conditions.push(condition);
    }
    let others = was.conditions.iter().flatten().filter(|old| {
        let reported = reported.conditions.iter().flatten();
        !reported
            .map(|new| &new.type_)
            .any(|type_| *type_ == old.type_)
    });
    conditions.extend(others.cloned());
    NodeStatus {
        conditions: (!conditions.is_empty()).then_some(conditions),
        ..reported.clone()
    }
}

fn same_status(a: &NodeStatus, b: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(a) == timeless(b)
}

#[cfg(test)]
mod tests;
