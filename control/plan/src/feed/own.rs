// SPDX-License-Identifier: Apache-2.0
//! What of a node's report is the node's own to say: of its Node, and of its events.
//!
//! What the rest of a report changes is planned in `reports`. Called by the feed when a report arrives.

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Labels in Kubernetes' domains that a node may give itself, as `NodeRestriction` of Kubernetes v1.37 has them.
const LABELS: [&str; 12] = [
    HOSTNAME,
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];
/// Whole domains, with everything below them, that are free for nodes.
const DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// What keeps nodes apart from each other is never theirs to say.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// A reported Node without what is not the node's to say.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnNode {
    /// Name, labels and status.
    pub node: Node,
    /// Keys of the labels that were taken out, for the log.
    pub refused_labels: Vec<String>,
}

/// Takes what a node may say from its report. What it may be used for (its spec: taints, unschedulable) and what
/// others keep in the metadata (annotations, finalizers, owners, roles) is not.
pub fn own_node(name: &str, reported: Node) -> OwnNode {
    let Node {
        metadata, status, ..
    } = reported;
    let mut refused_labels = Vec::new();
    let mut labels = BTreeMap::new();
    for (key, value) in metadata.labels.unwrap_or_default() {
        if key == HOSTNAME && value != name {
            // Pods are bound by it, so it says what the certificate says.
            labels.insert(key.clone(), name.to_owned());
            refused_labels.push(key);
        } else if may_label(&key) {
            labels.insert(key, value);
        } else {
            refused_labels.push(key);
        }
    }
    let node = Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: (!labels.is_empty()).then_some(labels),
            ..ObjectMeta::default()
        },
        spec: None,
        status,
    };
    OwnNode {
        node,
        refused_labels,
    }
}

fn may_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let is_in = |parent: &str| {
        domain
            .strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is_in(RESTRICTED) {
        return false;
    }
    let is_kubernetes = is_in("kubernetes.io") || is_in("k8s.io");
    !is_kubernetes || LABELS.contains(&key) || DOMAINS.iter().any(|free| is_in(free))
}

/// Takes what a node may say from an event that it reported: it is from this node, and is in the namespace of what it
/// is about. (One that has an `eventTime` could be in another, and the node's agent sends none.)
pub fn own_event(node: &str, reported: Event) -> Event {
    let component = reported.source.and_then(|source| source.component);
    Event {
        metadata: ObjectMeta {
            name: reported.metadata.name,
            namespace: reported.metadata.namespace,
            ..ObjectMeta::default()
        },
        source: Some(EventSource {
            component,
            host: Some(node.to_owned()),
        }),
        reporting_instance: Some(node.to_owned()),
        event_time: None,
        series: None,
        ..reported
    }
}

/// What becomes of an event whose name is there already: it is counted up. `None` where the one that is there is about
/// something else or from another client. `reported` comes from [`own_event`].
pub fn plan_event(existing: &Event, reported: &Event) -> Option<Event> {
    let is_same = about(&existing.involved_object) == about(&reported.involved_object)
        && host(existing) == host(reported);
    is_same.then(|| Event {
        metadata: existing.metadata.clone(),
        first_timestamp: existing
            .first_timestamp
            .clone()
            .or_else(|| reported.first_timestamp.clone()),
        ..reported.clone()
    })
}

fn about(object: &ObjectReference) -> [&str; 4] {
    [&object.kind, &object.namespace, &object.name, &object.uid]
        .map(|part| part.as_deref().unwrap_or_default())
}

fn host(event: &Event) -> &str {
    let source = event
        .source
        .as_ref()
        .and_then(|source| source.host.as_deref());
    source
        .or(event.reporting_instance.as_deref())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
