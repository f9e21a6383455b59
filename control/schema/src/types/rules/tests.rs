// SPDX-License-Identifier: Apache-2.0
//! Defaults and minimums that upstream's markers give.

use serde_json::{Value, json};

use crate::{Schemas, TooSmall};

fn filled(kind: &str, mut object: Value) -> Value {
    let schema = Schemas::builtin().kind("", "v1", kind);
    schema.expect("a built-in kind").fill_defaults(&mut object);
    object
}

#[test]
fn a_port_is_tcp_wherever_it_is() {
    let ports =
        json!([{"containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}, {"protocol": ""}]);
    let expected = json!([
        {"containerPort": 80, "protocol": "TCP"},
        {"containerPort": 53, "protocol": "UDP"},
        {"protocol": "TCP"},
    ]);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let pod = json!({"spec": {list: [{"name": "c", "ports": ports}]}});
        let filled = filled("Pod", pod);
        assert_eq!(filled["spec"][list][0]["ports"], expected, "{list}");
    }
    let service = filled("Service", json!({"spec": {"ports": [{"port": 80}]}}));
    assert_eq!(service["spec"]["ports"][0]["protocol"], "TCP");
    let schema = Schemas::builtin().kind("apps", "v1", "Deployment");
    let template = json!({"spec": {"containers": [{"ports": [{"containerPort": 1}]}]}});
    let mut deployment = json!({"spec": {"template": template}});
    schema
        .expect("a built-in kind")
        .fill_defaults(&mut deployment);
    let ports = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0]["protocol"], "TCP");
}

#[test]
fn a_pointer_is_told_from_its_zero() {
    let probe = |grpc: Value| json!({"spec": {"containers": [{"livenessProbe": {"grpc": grpc}}]}});
    // The default is "", and in a pointer that is something.
    assert_eq!(
        filled("Pod", probe(json!({"port": 1}))),
        probe(json!({"port": 1, "service": ""}))
    );
    let disk = |disk: Value| json!({"spec": {"volumes": [{"azureDisk": disk}]}});
    assert_eq!(
        filled("Pod", disk(json!({"fsType": "", "readOnly": true}))),
        disk(json!({"fsType": "", "readOnly": true, "cachingMode": "ReadWrite", "kind": "Shared"}))
    );
}

#[test]
fn nothing_is_made_to_hold_a_default_and_zeros_are_no_defaults() {
    for kind in ["Pod", "Service", "ConfigMap"] {
        assert_eq!(filled(kind, json!({})), json!({}));
        assert_eq!(filled(kind, json!({"spec": null})), json!({"spec": null}));
    }
    // `LocalObjectReference.name` has the default "", which Go does not write.
    let pod = json!({"spec": {"imagePullSecrets": [{}]}});
    assert_eq!(filled("Pod", pod.clone()), pod);
}

#[test]
fn filling_twice_changes_nothing() {
    let pod = json!({"spec": {"containers": [{"ports": [{}]}], "volumes": [{"iscsi": {}}, {"rbd": {}}, {"scaleIO": {}}]}});
    let once = filled("Pod", pod);
    assert_eq!(
        once["spec"]["volumes"][0]["iscsi"]["iscsiInterface"],
        "default"
    );
    assert_eq!(
        once["spec"]["volumes"][1]["rbd"]["keyring"],
        "/etc/ceph/keyring"
    );
    assert_eq!(once["spec"]["volumes"][2]["scaleIO"]["fsType"], "xfs");
    assert_eq!(filled("Pod", once.clone()), once);
}

#[test]
fn a_number_below_its_minimum_is_found_with_its_place() {
    let schema = Schemas::builtin().kind("autoscaling", "v1", "Scale");
    let schema = schema.expect("a built-in kind");
    assert_eq!(
        schema.too_small(&json!({"spec": {"replicas": -2}})),
        [TooSmall {
            path: "spec.replicas".to_owned(),
            value: -2,
            minimum: 0,
        }]
    );
    for fine in [
        json!({"spec": {"replicas": 0}}),
        json!({"spec": {}}),
        json!({}),
    ] {
        assert_eq!(schema.too_small(&fine), [], "{fine}");
    }
}
