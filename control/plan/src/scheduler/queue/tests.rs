// SPDX-License-Identifier: Apache-2.0
//! In which order pods are tried.

use knarr_api::k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::*;

fn pod(uid: &str, priority: i32, created: &str) -> PodInfo {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "default", "uid": uid, "creationTimestamp": created},
        "spec": {"priority": priority, "containers": []},
    }))
    .unwrap();
    PodInfo::of(&pod)
}

fn popped(queue: &mut SchedulingQueue) -> Vec<String> {
    std::iter::from_fn(|| queue.pop())
        .map(|uid| uid.to_string())
        .collect()
}

const EARLY: &str = "2026-01-02T03:04:05Z";
const LATE: &str = "2026-01-02T03:04:06Z";

#[test]
fn pods_are_tried_by_priority_then_by_age() {
    let mut queue = SchedulingQueue::default();
    for info in [
        pod("d", 0, LATE),
        pod("c", 0, EARLY),
        pod("b", 7, LATE),
        pod("a", 0, LATE),
    ] {
        queue.add(&info);
        queue.add(&info);
    }
    assert_eq!(popped(&mut queue), ["b", "c", "a", "d"]);
    assert_eq!(queue, SchedulingQueue::default());
}

#[test]
fn an_unschedulable_pod_waits_until_all_are_activated_or_it_is_added_again() {
    let mut queue = SchedulingQueue::default();
    let (first, second) = (pod("a", 0, EARLY), pod("b", 0, LATE));
    queue.add(&first);
    queue.add_unschedulable(&first);
    queue.add_unschedulable(&second);
    assert_eq!((queue.active_len(), queue.unschedulable_len()), (0, 2));
    assert_eq!(queue.pop(), None);
    queue.add(&second);
    assert!(queue.is_unschedulable("a") && !queue.is_unschedulable("b"));
    assert_eq!(popped(&mut queue), ["b"]);
    queue.activate_all();
    assert_eq!(popped(&mut queue), ["a"]);
}

#[test]
fn a_pod_that_needs_no_node_is_not_tried() {
    let mut queue = SchedulingQueue::default();
    let (active, waiting) = (pod("a", 0, EARLY), pod("b", 0, LATE));
    queue.add(&active);
    queue.add_unschedulable(&waiting);
    queue.remove(&active);
    queue.remove(&waiting);
    queue.activate_all();
    assert_eq!(queue, SchedulingQueue::default());
}
