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

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
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
    assert_eq!(
        plan_node(&current, &reported, at("2026-03-01T00:00:00Z")),
        NodeWrites::default()
    );
}

#[test]
fn a_report_shows_when_it_came_and_never_an_older_heartbeat() {
    let shown = "2026-02-01T00:00:00Z";
    let current = node(json!({}), ready("True", shown, shown));
    // An agent says when the condition began.
    let mut status = ready("True", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z");
    status["images"] = json!([{"names": ["new"]}]);
    let now = at("2026-03-01T00:00:00Z");
    let writes = plan_node(&current, &node(json!({}), status), now);
    let conditions = writes.status.unwrap().conditions.unwrap();
    assert_eq!(conditions[0].last_heartbeat_time, Some(Time(now)));
    assert_eq!(conditions[0].last_transition_time, Some(Time(at(shown))));
}

#[test]
fn a_heartbeat_is_shown_at_least_every_five_minutes_and_not_each_time() {
    let shown = "2026-01-01T00:10:00Z";
    let current = node(json!({}), ready("True", shown, shown));
    let longest = SignedDuration::from_secs(20);
    assert!(SHOWN_HEARTBEAT_AGE_MAX + longest < SignedDuration::from_mins(5));
    for (now, wanted) in [
        ("2026-01-01T00:10:10Z", false),
        ("2026-01-01T00:13:59Z", false),
        ("2026-01-01T00:14:00Z", true),
        // The clock was set.
        ("2026-01-01T00:09:00Z", false),
        ("2026-01-01T00:05:00Z", true),
    ] {
        assert_eq!(must_show_heartbeat(&current, at(now)), wanted, "{now}");
    }
    let silent = node(json!({}), ready("Unknown", shown, shown));
    assert!(!must_show_heartbeat(&silent, at("2026-01-01T01:00:00Z")));
    assert!(!must_show_heartbeat(
        &node(json!({}), json!({})),
        at("2026-01-01T01:00:00Z")
    ));
}

#[test]
fn a_shown_heartbeat_changes_the_times_of_the_nodes_own_conditions_alone() {
    let old = "2026-01-01T00:00:00Z";
    let mut object = json!({"metadata": {"name": "node-1"}, "status": {"images": [], "conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": old, "lastHeartbeatTime": old},
        {"type": "PIDPressure", "status": "Unknown", "lastHeartbeatTime": old},
        {"type": "NetworkUnavailable", "status": "False", "lastHeartbeatTime": old},
        {"type": "DiskPressure", "status": "False"},
    ]}});
    let mut wanted = object.clone();
    let new = "2026-01-01T00:20:00Z";
    wanted["status"]["conditions"][0]["lastHeartbeatTime"] = json!(new);
    wanted["status"]["conditions"][3]["lastHeartbeatTime"] = json!(new);
    show_heartbeat(&mut object, at(new));
    assert_eq!(object, wanted);
    let mut empty = json!({"metadata": {"name": "node-1"}});
    show_heartbeat(&mut empty, at(new));
    assert_eq!(empty, json!({"metadata": {"name": "node-1"}}));
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
    let writes = plan_node(&current, &reported, at("2026-03-01T00:00:00Z"));
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
    let writes = plan_node(&current, &reported, at("2026-03-01T00:00:00Z"));
    let labels = writes.metadata.unwrap().metadata.labels.unwrap();
    assert_eq!(labels.len(), 2);
    assert_eq!(writes.status.unwrap().conditions.unwrap().len(), 2);
}
