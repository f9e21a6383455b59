// SPDX-License-Identifier: Apache-2.0
//! Tests of what nodes may say of themselves.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_node_gives_itself_the_labels_that_a_kubelet_may() {
    for key in [
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "node.kubernetes.io/anything",
        "kubelet.kubernetes.io/x",
        "sub.node.kubernetes.io/x",
        "example.com/disk",
        "disk",
        "notkubernetes.io/x",
        "mykubelet.example/x",
    ] {
        assert!(may_label(key), "{key}");
    }
    for key in [
        "kubernetes.io/role",
        "node-role.kubernetes.io/control-plane",
        "node-restriction.kubernetes.io/pool",
        "sub.node-restriction.kubernetes.io/pool",
        "topology.kubernetes.io/rack",
        "k8s.io/x",
        "sub.k8s.io/x",
        "mynode.kubernetes.io/x",
    ] {
        assert!(!may_label(key), "{key}");
    }
}

#[test]
fn of_a_reported_node_only_name_labels_and_status_are_taken() {
    let reported = parse(json!({
        "metadata": {
            "name": "node-1",
            "uid": "u",
            "labels": {
                "kubernetes.io/hostname": "node-2",
                "node-role.kubernetes.io/control-plane": "",
                "disk": "ssd",
            },
            "annotations": {"a": "b"},
            "finalizers": ["example.com/keep"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "x", "uid": "x"}],
        },
        "spec": {"unschedulable": false, "taints": []},
        "status": {"phase": "Running"},
    }));
    let own = own_node("node-1", reported);
    assert_eq!(
        own.node,
        parse(json!({
            "metadata": {
                "name": "node-1",
                "labels": {"kubernetes.io/hostname": "node-1", "disk": "ssd"},
            },
            "status": {"phase": "Running"},
        }))
    );
    assert_eq!(
        own.refused_labels,
        [
            "kubernetes.io/hostname",
            "node-role.kubernetes.io/control-plane"
        ]
    );
}

fn event(host: &str, uid: &str, reason: &str) -> Event {
    parse(json!({
        "metadata": {"namespace": "default", "name": "web.1"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid},
        "reason": reason,
        "source": {"component": "kubelet", "host": host},
        "reportingInstance": host,
    }))
}

#[test]
fn an_event_is_from_its_node_and_keeps_nothing_else_in_its_metadata() {
    let mut reported = event("node-2", "u1", "Started");
    reported.metadata.finalizers = Some(vec!["example.com/keep".to_owned()]);
    reported.metadata.labels = Some(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    reported.event_time = Some(parse(json!("2026-01-01T00:00:00.000000Z")));
    assert_eq!(
        own_event("node-1", reported),
        event("node-1", "u1", "Started")
    );
}

#[test]
fn an_event_counts_up_what_the_same_node_said_of_the_same_object() {
    let mut existing = event("node-1", "u1", "Pulled");
    existing.metadata.uid = Some("e1".to_owned());
    existing.first_timestamp = Some(parse(json!("2026-01-01T00:00:00Z")));
    let planned = plan_event(&existing, &event("node-1", "u1", "Started")).unwrap();
    assert_eq!(planned.metadata, existing.metadata);
    assert_eq!(planned.first_timestamp, existing.first_timestamp);
    assert_eq!(planned.reason.as_deref(), Some("Started"));
}

#[test]
fn an_event_of_others_is_not_replaced() {
    let reported = event("node-1", "u1", "Started");
    let mut elsewhere = event("node-1", "u1", "Started");
    elsewhere.involved_object.kind = Some("Node".to_owned());
    let mut nobodys = event("", "u1", "Scheduled");
    nobodys.source = None;
    for existing in [
        event("node-2", "u1", "Started"),
        event("node-1", "u2", "Started"),
        elsewhere,
        nobodys,
    ] {
        assert_eq!(plan_event(&existing, &reported), None, "{existing:?}");
    }
}
