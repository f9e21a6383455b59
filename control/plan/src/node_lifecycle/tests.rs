// SPDX-License-Identifier: Apache-2.0
//! A node stops sending heartbeats and sends them again, and what its pods get.

use knarr_api::names::NamespacedName;
use serde_json::{Value, json};

use super::*;
use crate::pods::{Phase, Ready};

const GRACE: Duration = Duration::from_secs(40);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn node(ready: &str, spec: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "node-1", "creationTimestamp": at(-1000).to_string()},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "KubeletReady"},
            {"type": "MemoryPressure", "status": "False"}]},
    }))
    .unwrap()
}

fn taints(node: &Node, disruption: Disruption) -> Option<Vec<(String, String)>> {
    plan_taints(node, disruption, at(0)).map(|taints| {
        taints
            .into_iter()
            .map(|t| (t.key.replace("node.kubernetes.io/", ""), t.effect))
            .collect()
    })
}

fn pod(tolerations: Value) -> PodView {
    PodView {
        name: NamespacedName::new("default", "p"),
        uid: "u".into(),
        phase: Phase::Running,
        ready: Some(Ready {
            is_true: true,
            since: None,
            is_lost: false,
        }),
        execute_tolerations: serde_json::from_value::<Vec<_>>(tolerations)
            .unwrap()
            .into(),
        ..PodView::default()
    }
}

#[test]
fn a_node_is_unknown_only_after_its_grace_and_is_told_once() {
    let mut node = node("True", json!({}));
    let plan = plan_health(&node, Duration::from_secs(39), GRACE, at(39));
    assert_eq!(
        plan,
        HealthPlan {
            again_after: Some(Duration::from_secs(1)),
            ..HealthPlan::default()
        }
    );
    let plan = plan_health(&node, Duration::from_secs(40), GRACE, at(40));
    assert_eq!(plan.news, Some(NodeNews::NotReady));
    let conditions = plan.conditions.unwrap();
    let told: Vec<_> = conditions
        .iter()
        .map(|c| {
            (
                c.type_.as_str(),
                c.status.as_str(),
                c.reason.as_deref().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("Ready", "Unknown", "NodeStatusUnknown"),
            ("MemoryPressure", "Unknown", "NodeStatusUnknown"),
            ("DiskPressure", "Unknown", "NodeStatusNeverUpdated"),
            ("PIDPressure", "Unknown", "NodeStatusNeverUpdated"),
        ]
    );
    node.status.as_mut().unwrap().conditions = Some(conditions);
    assert_eq!(readiness(&node), Readiness::Unknown);
    assert_eq!(
        plan_health(&node, Duration::from_secs(500), GRACE, at(500)),
        HealthPlan::default()
    );
}

#[test]
fn of_a_silent_node_that_was_not_ready_before_nothing_is_told() {
    let mut of_name_only = node("False", json!({}));
    of_name_only.status = None;
    for node in [node("False", json!({})), of_name_only] {
        let plan = plan_health(&node, GRACE, GRACE, at(40));
        assert!(plan.conditions.is_some());
        assert_eq!(plan.news, None);
    }
}

#[test]
fn a_new_node_has_its_grace_from_its_creation() {
    let mut node = node("True", json!({}));
    node.metadata.creation_timestamp = Some(Time(at(100)));
    let plan = plan_health(&node, Duration::from_secs(120), GRACE, at(120));
    assert_eq!(
        plan,
        HealthPlan {
            again_after: Some(Duration::from_secs(20)),
            ..HealthPlan::default()
        }
    );
}

#[test]
fn a_clock_that_is_set_neither_kills_a_node_nor_hides_a_dead_one() {
    let mut node = node("True", json!({}));
    node.metadata.creation_timestamp = Some(Time(at(100)));
    let a_moment = Duration::from_secs(1);
    let forward = plan_health(&node, a_moment, GRACE, at(1_000_000));
    assert_eq!(forward.conditions, None);
    let back = plan_health(&node, GRACE, GRACE, at(0));
    assert!(back.conditions.is_some());
}

#[test]
fn taints_follow_conditions_and_those_of_others_stay() {
    let own = |key: &str, effect: &str| (key.to_owned(), effect.to_owned());
    assert_eq!(taints(&node("True", json!({})), Disruption::Partial), None);
    assert_eq!(
        taints(&node("False", json!({})), Disruption::Partial),
        Some(vec![
            own("not-ready", "NoSchedule"),
            own("not-ready", "NoExecute")
        ])
    );
    assert_eq!(
        taints(&node("Unknown", json!({})), Disruption::Partial),
        Some(vec![
            own("unreachable", "NoSchedule"),
            own("unreachable", "NoExecute")
        ])
    );
    assert_eq!(
        taints(&node("Unknown", json!({})), Disruption::Full),
        Some(vec![own("unreachable", "NoSchedule")])
    );
    let with = json!({"unschedulable": true, "taints": [
        {"key": "mine", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]});
    assert_eq!(
        taints(&node("True", with), Disruption::Partial),
        Some(vec![
            own("mine", "NoSchedule"),
            own("unschedulable", "NoSchedule")
        ])
    );
    let mut pressed = node("True", json!({}));
    pressed
        .status
        .as_mut()
        .unwrap()
        .conditions
        .as_mut()
        .unwrap()[1]
        .status = "True".into();
    assert_eq!(
        taints(&pressed, Disruption::Partial),
        Some(vec![own("memory-pressure", "NoSchedule")])
    );
}

#[test]
fn a_taint_keeps_the_time_it_was_added() {
    let mut node = node("Unknown", json!({}));
    let taints = plan_taints(&node, Disruption::Partial, at(5)).unwrap();
    node.spec.as_mut().unwrap().taints = Some(taints);
    assert_eq!(plan_taints(&node, Disruption::Partial, at(50)), None);
}

#[test]
fn pods_leave_when_their_toleration_ends() {
    let node = node(
        "Unknown",
        json!({"taints": [{"key": "node.kubernetes.io/unreachable",
        "effect": "NoExecute", "timeAdded": at(0).to_string()}]}),
    );
    let unreachable = |seconds: Value| {
        json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds}])
    };
    let cases = [
        (json!([]), 1, 0),
        (unreachable(json!(300)), 0, 290),
        (unreachable(json!(10)), 1, 0),
        (unreachable(json!(0)), 1, 0),
        (unreachable(Value::Null), 0, 0),
        (json!([{"operator": "Exists"}]), 0, 0),
        (
            json!([{"operator": "Exists"}, {"operator": "Exists", "tolerationSeconds": 20}]),
            0,
            10,
        ),
        (json!([{"key": "other", "operator": "Exists"}]), 1, 0),
    ];
    for (tolerations, gone, left) in cases {
        let pod = pod(tolerations.clone());
        let evictions = plan_evictions(&node, &[&pod], at(10));
        assert_eq!(evictions.now.len(), gone, "{tolerations}");
        let left = (left > 0).then(|| Duration::from_secs(left));
        assert_eq!(evictions.again_after, left, "{tolerations}");
    }
    let mut leaving = pod(json!([]));
    leaving.deleted_at = Some(at(1));
    assert_eq!(
        plan_evictions(&node, &[&leaving], at(10)),
        Evictions::default()
    );
}

#[test]
fn pods_of_a_silent_node_stop_being_ready() {
    let ready = pod(json!([]));
    let mut unready = pod(json!([]));
    unready.ready = Some(Ready {
        is_true: false,
        since: None,
        is_lost: false,
    });
    let silent = node("Unknown", json!({}));
    assert_eq!(plan_unready(&silent, &[&ready, &unready]).len(), 1);
    assert_eq!(plan_unready(&node("False", json!({})), &[&ready]), []);
    let status: PodStatus = serde_json::from_value(json!({"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}))
    .unwrap();
    let changed = unready_status(&status, at(3)).unwrap();
    let conditions = changed.conditions.as_ref().unwrap();
    assert_eq!(
        (conditions[0].status.as_str(), conditions[1].status.as_str()),
        ("False", "True")
    );
    assert_eq!(unready_status(&changed, at(4)), None);
}

#[test]
fn pods_of_a_node_that_is_heard_again_are_as_ready_as_their_containers() {
    let status = |containers: &str| -> PodStatus {
        serde_json::from_value(json!({"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": containers}]}))
        .unwrap()
    };
    for (containers, wanted) in [("True", "True"), ("False", "False")] {
        let lost = unready_status(&status(containers), at(1)).unwrap();
        let found = found_status(&lost, at(2)).unwrap();
        let ready = &found.conditions.as_ref().unwrap()[0];
        assert_eq!(
            (ready.status.as_str(), ready.reason.as_deref()),
            (wanted, None)
        );
        assert_eq!(found_status(&found, at(3)), None);
    }
    let mut lost = pod(json!([]));
    lost.ready = Some(Ready {
        is_true: false,
        since: None,
        is_lost: true,
    });
    let unready = pod(json!([]));
    assert_eq!(
        plan_found(&node("True", json!({})), &[&lost, &unready]).len(),
        1
    );
    assert_eq!(plan_found(&node("Unknown", json!({})), &[&lost]), []);
}
