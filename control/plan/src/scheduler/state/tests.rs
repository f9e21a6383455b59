// SPDX-License-Identifier: Apache-2.0
//! What the scheduler decides after each change.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::scheduler::NOTIFY_EVERY;

fn node(name: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"size": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

fn pod(name: &str, uid: &str, size: &str, cpu: &str) -> Pod {
    pod_with(
        name,
        uid,
        json!({"nodeSelector": {"size": size}, "containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}),
    )
}

fn pod_with(name: &str, uid: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid},
        "spec": spec,
    }))
    .unwrap()
}

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn bind(pod: &str, uid: &str, node: &str) -> Option<Decision> {
    Some(Decision::Bind(Binding {
        uid: uid.into(),
        pod: name(pod),
        node: node.into(),
    }))
}

fn unschedulable(uid: &str) -> Option<Decision> {
    Some(Decision::Unschedulable(uid.into()))
}

fn scheduler(nodes: &[&str]) -> Scheduler {
    let mut scheduler = Scheduler::default();
    for name in nodes {
        scheduler.set_node(&node(name));
    }
    scheduler
}

#[test]
fn a_pod_that_fits_is_bound_once() {
    let mut scheduler = scheduler(&["small"]);
    scheduler.set_pod(&pod("web", "1", "small", "3"));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("web", "1", "small")
    );
    // A change of it that arrives before its binding is seen.
    scheduler.set_pod(&pod("web", "1", "small", "3"));
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
    assert_eq!(
        scheduler.cluster().node_of("1").map(|node| &**node),
        Some("small")
    );
}

#[test]
fn a_pod_that_was_created_again_is_decided_for_itself() {
    let mut scheduler = scheduler(&["small", "large"]);
    scheduler.set_pod(&pod("web", "1", "small", "1"));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("web", "1", "small")
    );
    // No event showed the end of the first.
    scheduler.set_pod(&pod("web", "2", "large", "1"));
    scheduler.binding_failed("1");
    assert_eq!(scheduler.cluster().node_of("1"), None);
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("web", "2", "large")
    );
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
}

#[test]
fn a_pod_whose_binding_failed_is_tried_again_and_gives_its_room_back() {
    let mut scheduler = scheduler(&["small"]);
    scheduler.set_pod(&pod("first", "1", "small", "3"));
    scheduler.set_pod(&pod("second", "2", "small", "3"));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("first", "1", "small")
    );
    assert_eq!(scheduler.schedule_one(Instant::now()), unschedulable("2"));
    scheduler.binding_failed("1");
    scheduler.remove_pod(&name("first"));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("second", "2", "small")
    );
}

#[test]
fn the_room_of_a_binding_in_flight_is_kept_over_a_new_list() {
    let mut scheduler = scheduler(&["small"]);
    let first = pod("first", "1", "small", "3");
    scheduler.set_pod(&first);
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("first", "1", "small")
    );
    // The list is older than the binding.
    scheduler.retain_pods(|pod| pod.name == "first");
    scheduler.retain_nodes(|node| node == "small");
    scheduler.set_node(&node("small"));
    scheduler.set_pod(&first);
    scheduler.set_pod(&pod("second", "2", "small", "3"));
    assert_eq!(scheduler.schedule_one(Instant::now()), unschedulable("2"));
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
}

#[test]
fn what_a_new_list_does_not_have_is_gone() {
    let mut scheduler = scheduler(&["small", "large"]);
    scheduler.set_pod(&pod("stays", "1", "small", "3"));
    scheduler.set_pod(&pod("gone", "2", "large", "1"));
    let service: Service =
        serde_json::from_value(json!({"spec": {"selector": {"a": "b"}}})).unwrap();
    scheduler.set_service(&name("stays"), &service);
    scheduler.set_service(&name("gone"), &service);
    scheduler.retain_pods(|pod| pod.name == "stays");
    scheduler.retain_nodes(|node| node == "small");
    scheduler.retain_services(|service| service.name == "stays");
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("stays", "1", "small")
    );
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
    let nodes: Vec<_> = scheduler
        .cluster()
        .node_names()
        .map(|name| &**name)
        .collect();
    assert_eq!(nodes, ["small"]);
    let services: Vec<_> = scheduler.cluster().service_names().collect();
    assert_eq!(services, [name("stays")]);
}

#[test]
fn a_change_that_makes_room_activates_unschedulable_pods_and_others_do_not() {
    let mut scheduler = scheduler(&["small"]);
    scheduler.set_pod(&pod("web", "1", "large", "1"));
    assert_eq!(scheduler.schedule_one(Instant::now()), unschedulable("1"));
    scheduler.set_pod(&pod("web", "1", "large", "1"));
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
    scheduler.set_node(&node("large"));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("web", "1", "large")
    );
}

#[test]
fn an_unschedulable_pod_that_asks_for_something_else_is_tried_at_once() {
    let mut scheduler = scheduler(&["small"]);
    let gated = json!({"schedulingGates": [{"name": "g"}], "containers": [{"name": "c"}]});
    scheduler.set_pod(&pod_with("web", "1", gated));
    assert_eq!(scheduler.schedule_one(Instant::now()), None);
    scheduler.set_pod(&pod_with(
        "web",
        "1",
        json!({"containers": [{"name": "c"}]}),
    ));
    assert_eq!(
        scheduler.schedule_one(Instant::now()),
        bind("web", "1", "small")
    );
}

#[test]
fn an_unschedulable_pod_gets_its_reason_and_a_pod_that_is_gone_gets_none() {
    let now = Instant::now();
    let mut scheduler = scheduler(&["small"]);
    scheduler.set_pod(&pod("gone", "1", "large", "1"));
    scheduler.set_pod(&pod("web", "2", "large", "1"));
    assert_eq!(scheduler.schedule_one(now), unschedulable("1"));
    assert_eq!(scheduler.schedule_one(now), unschedulable("2"));
    scheduler.remove_pod(&name("gone"));
    let (pod, notification) = scheduler.next_notification().unwrap();
    assert_eq!((pod, &*notification.uid), (name("web"), "2"));
    assert!(
        notification.message.contains("0/1 nodes are available"),
        "{notification:?}"
    );
    assert_eq!(scheduler.next_notification(), None);
    scheduler.not_notified(&"2".into(), now);
    assert_eq!(scheduler.retry_at(), Some(now + NOTIFY_EVERY));
    scheduler.retry_notifications(now + NOTIFY_EVERY + Duration::from_secs(1));
    let again = scheduler.next_notification().unwrap();
    assert_eq!(again, (name("web"), notification));
    scheduler.notified("2");
    assert_eq!(scheduler.next_notification(), None);
}
