// SPDX-License-Identifier: Apache-2.0
//! What a pod's view keeps.

use serde_json::json;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn pod(status: serde_json::Value) -> PodView {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web-1", "namespace": "default", "uid": "u1", "labels": {"app": "web"},
            "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "o1"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "o2", "controller": true},
            ],
        },
        "spec": {
            "nodeName": "node-1",
            "containers": [{"name": "c", "ports": [
                {"name": "http", "containerPort": 8080}, {"containerPort": 9090},
            ]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "gone", "containerPort": 1}]},
                {"name": "side", "restartPolicy": "Always", "ports": [
                    {"name": "side", "containerPort": 2, "protocol": "UDP"}]},
            ],
            "tolerations": [
                {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}, {"operator": "Exists"},
            ],
        },
        "status": status,
    }))
    .unwrap();
    PodView::of(&pod)
}

#[test]
fn the_controlling_owner_and_the_named_ports_of_lasting_containers_are_kept() {
    let view = pod(json!({"phase": "Running", "podIP": "10.0.0.1"}));
    assert!(view.is_controlled_by("o2") && !view.is_controlled_by("o1"));
    let ports: Vec<_> = view
        .named_ports
        .iter()
        .map(|p| (&*p.name, p.port, &*p.protocol))
        .collect();
    assert_eq!(ports, [("http", 8080, "TCP"), ("side", 2, "UDP")]);
    assert_eq!(view.execute_tolerations.len(), 2);
    assert_eq!(view.deletion_cost, -5);
    assert_eq!(&*view.ips, [Box::from("10.0.0.1")]);
}

#[test]
fn a_pod_is_available_only_after_its_minimum_ready_time() {
    let since = at(0).to_string();
    let view = pod(json!({"conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": since}]}));
    assert!(view.is_ready());
    assert!(view.is_available(0, at(0)));
    assert!(!view.is_available(10, at(9)));
    assert_eq!(view.becomes_available_at(10, at(9)), Some(at(10)));
    assert!(view.is_available(10, at(10)));
    assert_eq!(view.becomes_available_at(10, at(10)), None);
    let unready = pod(json!({"conditions": [{"type": "Ready", "status": "False"}]}));
    assert!(!unready.is_available(0, at(100)));
}
