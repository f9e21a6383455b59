// SPDX-License-Identifier: Apache-2.0
//! Tests of what a node's reports may change.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn status(phase: &str, conditions: &[(&str, &str)]) -> PodStatus {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status)| json!({"type": type_, "status": status}))
        .collect();
    parse(json!({"phase": phase, "conditions": conditions}))
}

#[test]
fn a_report_keeps_the_conditions_of_others() {
    let current = status("Pending", &[("PodScheduled", "True"), ("Ready", "False")]);
    let planned = plan_pod_status(&current, &status("Running", &[("Ready", "True")])).unwrap();
    assert_eq!(planned.phase.as_deref(), Some("Running"));
    let conditions: Vec<(String, String)> = planned
        .conditions
        .unwrap()
        .into_iter()
        .map(|c| (c.type_, c.status))
        .collect();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        conditions,
        [pair("PodScheduled", "True"), pair("Ready", "True")]
    );
}

#[test]
fn a_report_that_says_nothing_new_writes_nothing() {
    let current = status("Running", &[("Ready", "True"), ("PodScheduled", "True")]);
    let reported = status("Running", &[("Ready", "True")]);
    assert_eq!(plan_pod_status(&current, &reported), None);
}

#[test]
fn a_pod_that_has_ended_does_not_run_again() {
    for ended in ["Succeeded", "Failed"] {
        assert_eq!(
            plan_pod_status(&status(ended, &[]), &status("Running", &[])),
            None
        );
    }
    let current = status("Failed", &[]);
    assert!(plan_pod_status(&current, &status("Failed", &[("Ready", "False")])).is_some());
}

fn node(labels: Value, status: Value) -> Node {
    parse(json!({"metadata": {"name": "node-1", "labels": labels}, "status": status}))
}

fn ready(status: &str, transition: &str, heartbeat: &str) -> Value {
    json!({"conditions": [{"type": "Ready", "status": status,
        "lastTransitionTime": transition, "lastHeartbeatTime": heartbeat}]})
}

#[test]
fn a_heartbeat_time_alone_is_no_change() {
    let current = node(
        json!({"a": "b"}),
        ready("True", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    );
    let reported = node(
        json!({"a": "b"}),
        ready("True", "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"),
    );
    assert_eq!(plan_node(&current, &reported), NodeWrites::default());
}

#[test]
fn a_node_that_comes_back_is_ready_again() {
    let current = node(
        json!({}),
        ready("Unknown", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    );
    let reported = node(
        json!({}),
        ready("True", "2026-02-01T00:00:00Z", "2026-02-01T00:00:00Z"),
    );
    let writes = plan_node(&current, &reported);
    let conditions = writes.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].status, "True");
    assert_eq!(
        conditions[0].last_transition_time,
        reported.status.unwrap().conditions.unwrap()[0].last_transition_time
    );
    assert_eq!(writes.metadata, None);
}

#[test]
fn labels_of_people_and_conditions_of_controllers_stay() {
    let current = node(
        json!({"disk": "ssd"}),
        json!({"conditions": [{"type": "NetworkUnavailable", "status": "False"}]}),
    );
    let reported = node(
        json!({"kubernetes.io/hostname": "node-1"}),
        ready("True", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
    );
    let writes = plan_node(&current, &reported);
    let labels = writes.metadata.unwrap().metadata.labels.unwrap();
    assert_eq!(labels.len(), 2);
    assert_eq!(writes.status.unwrap().conditions.unwrap().len(), 2);
}
