// SPDX-License-Identifier: Apache-2.0
//! Tests of decoding.

use serde_json::json;

use super::*;

fn decode(group: &str, kind: &str, text: &str) -> Result<Decoded, DecodeError> {
    Schemas::builtin()
        .kind(group, "v1", kind)
        .unwrap()
        .decode(text.as_bytes())
}

fn message(group: &str, kind: &str, text: &str) -> String {
    decode(group, kind, text).unwrap_err().to_string()
}

#[test]
fn a_whole_object_comes_through_unchanged() {
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "annotations": {"a/b": "{}"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"containers": [{"name": "c", "image": "i",
                    "resources": {"requests": {"cpu": "100m"}},
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}]}]},
            },
        },
    });
    let decoded = decode("apps", "Deployment", &deployment.to_string()).unwrap();
    assert_eq!(
        decoded,
        Decoded {
            value: deployment,
            unknown: vec![],
            duplicate: vec![]
        }
    );
}

#[test]
fn unknown_fields_are_left_out_and_named_with_their_path() {
    let decoded = decode("", "Pod", r#"{"spec": {"containers": [{"name": "c"}, {"name": "d", "imag": "x"}], "foo": 1}, "bar": {}}"#).unwrap();
    assert_eq!(
        decoded.unknown,
        [
            "unknown field \"spec.containers[1].imag\"",
            "unknown field \"spec.foo\"",
            "unknown field \"bar\"",
        ]
    );
    assert_eq!(
        decoded.value,
        json!({"spec": {"containers": [{"name": "c"}, {"name": "d"}]}})
    );
}

#[test]
fn of_duplicate_fields_the_last_counts() {
    let decoded = decode(
        "apps",
        "Deployment",
        r#"{"spec": {"replicas": 1, "replicas": 2}}"#,
    )
    .unwrap();
    assert_eq!(decoded.duplicate, ["duplicate field \"spec.replicas\""]);
    assert_eq!(decoded.value, json!({"spec": {"replicas": 2}}));
}

#[test]
fn wrong_types_are_refused_with_struct_and_path() {
    assert_eq!(
        message("apps", "Deployment", r#"{"spec": {"replicas": "three"}}"#),
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    );
    assert_eq!(
        message("", "Pod", r#"{"spec": {"containers": [{"name": 5}]}}"#),
        "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string"
    );
    assert_eq!(
        message("", "Pod", r#"{"spec": {"containers": {}}}"#),
        "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        message("", "Pod", "[]"),
        "json: cannot unmarshal array into Go value of type v1.Pod"
    );
    assert_eq!(
        message("", "Pod", r#"{"metadata": {"labels": {"a": true}}}"#),
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string"
    );
}

#[test]
fn numbers_have_a_range() {
    assert!(
        message(
            "apps",
            "Deployment",
            r#"{"spec": {"replicas": 3000000000}}"#
        )
        .contains("number 3000000000")
    );
    assert!(message("apps", "Deployment", r#"{"spec": {"replicas": 1.5}}"#).contains("number 1.5"));
    assert!(decode("apps", "Deployment", r#"{"spec": {"replicas": -1}}"#).is_ok());
}

#[test]
fn quantities_may_be_numbers_and_become_strings() {
    let decoded = decode(
        "",
        "Pod",
        r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": 2, "memory": "1Gi"}}}]}}"#,
    )
    .unwrap();
    let limits = &decoded.value["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"cpu": "2", "memory": "1Gi"}));
    assert!(
        message(
            "",
            "Pod",
            r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": "2 cores"}}}]}}"#
        )
        .starts_with("quantities must match")
    );
}

#[test]
fn nulls_are_left_out() {
    let decoded = decode(
        "",
        "Pod",
        r#"{"metadata": {"creationTimestamp": null, "name": "p"}, "spec": null}"#,
    )
    .unwrap();
    assert_eq!(decoded.value, json!({"metadata": {"name": "p"}}));
}

#[test]
fn forms_are_checked() {
    assert_eq!(
        message("", "Secret", r#"{"data": {"a": "!"}}"#),
        "illegal base64 data at input byte 0"
    );
    assert!(decode("", "Secret", r#"{"data": {"a": "aGk="}}"#).is_ok());
    assert!(
        message(
            "",
            "Pod",
            r#"{"metadata": {"creationTimestamp": "yesterday"}}"#
        )
        .starts_with("parsing time")
    );
}

#[test]
fn broken_json_is_a_syntax_error() {
    for text in ["", "{", "{\"spec\": }", "{} x", &"[".repeat(10_000)] {
        assert!(decode("", "ConfigMap", text).is_err(), "{text:.20}");
    }
    assert!(matches!(
        decode("", "Pod", "{"),
        Err(DecodeError::Syntax { .. })
    ));
}

#[test]
fn every_served_kind_has_a_schema() {
    for (group, version, kind) in [
        ("", "v1", "Namespace"),
        ("", "v1", "Node"),
        ("", "v1", "Pod"),
        ("", "v1", "Binding"),
        ("", "v1", "Service"),
        ("", "v1", "Endpoints"),
        ("", "v1", "ConfigMap"),
        ("", "v1", "Secret"),
        ("", "v1", "ServiceAccount"),
        ("", "v1", "Event"),
        ("events.k8s.io", "v1", "Event"),
        ("coordination.k8s.io", "v1", "Lease"),
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("apps", "v1", "Deployment"),
        ("apps", "v1", "ReplicaSet"),
        ("autoscaling", "v1", "Scale"),
        ("", "v1", "DeleteOptions"),
        ("policy", "v1", "Eviction"),
        ("", "v1", "Status"),
    ] {
        assert!(
            Schemas::builtin().kind(group, version, kind).is_some(),
            "{group} {kind}"
        );
    }
    assert!(Schemas::builtin().kind("", "v2", "Pod").is_none());
}

#[test]
fn quantities_times_and_base64_come_back_as_kubernetes_writes_them() {
    let decoded = decode(
        "",
        "Pod",
        r#"{"metadata": {"creationTimestamp": "2026-01-01T02:00:00.5+02:00"}, "spec": {"containers": [{
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi", "a": 0.5, "b": 1000}}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.value,
        json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": "1", "memory": "1Gi", "a": "500m", "b": "1k"}}}]},
        })
    );
    let lease = decode(
        "coordination.k8s.io",
        "Lease",
        r#"{"spec": {"renewTime": "2026-01-01T00:00:00.123Z"}}"#,
    );
    assert_eq!(
        lease.unwrap().value,
        json!({"spec": {"renewTime": "2026-01-01T00:00:00.123000Z"}})
    );
}

#[test]
fn types_that_read_themselves_have_messages_of_their_own() {
    for (kind, text, wanted) in [
        (
            "Pod",
            r#"{"spec": {"containers": [{"resources": {"limits": {"cpu": true}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "Pod",
            r#"{"spec": {"containers": [{"resources": {"limits": "1"}}]}}"#,
            "json: cannot unmarshal string into Go struct field ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
        ),
        (
            "Service",
            r#"{"spec": {"ports": [{"targetPort": true}]}}"#,
            "json: cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (
            "Service",
            r#"{"spec": {"ports": [{"targetPort": 1.5}]}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field ServicePort.spec.ports.targetPort of type int32",
        ),
        (
            "Pod",
            r#"{"metadata": {"creationTimestamp": 5}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
    ] {
        assert_eq!(message("", kind, text), wanted);
    }
}

#[test]
fn empty_lists_and_maps_are_left_out_unless_the_field_is_required() {
    let decoded = decode(
        "",
        "Pod",
        r#"{"metadata": {"annotations": {}, "finalizers": []},
            "spec": {"containers": [], "tolerations": [], "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}]}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.value,
        json!({"metadata": {}, "spec": {"containers": [], "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}]}})
    );
}

#[test]
fn a_null_in_a_map_or_list_is_the_zero_value() {
    let decoded = decode(
        "",
        "Pod",
        r#"{"metadata": {"labels": {"a": null}, "finalizers": [null, "x"]}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.value,
        json!({"metadata": {"labels": {"a": ""}, "finalizers": ["", "x"]}})
    );
}

#[test]
fn a_key_that_stands_twice_in_a_map_is_told_once() {
    let decoded = decode(
        "",
        "ConfigMap",
        r#"{"data": {"a": "1", "a": "2", "a": "3"}, "metadata": {"name": null, "name": "c"}}"#,
    )
    .unwrap();
    assert_eq!(
        decoded.duplicate,
        [
            "duplicate field \"data.a\"",
            "duplicate field \"metadata.name\""
        ]
    );
    assert_eq!(
        decoded.value,
        json!({"data": {"a": "3"}, "metadata": {"name": "c"}})
    );
}

#[test]
fn no_more_than_a_hundred_problems_are_listed() {
    let fields: Vec<String> = (0..1000).map(|n| format!("\"x{n}\": 1")).collect();
    let text = format!("{{{}}}", fields.join(","));
    assert_eq!(decode("", "Pod", &text).unwrap().unknown.len(), 100);
}

#[test]
fn broken_json_comes_before_wrong_types() {
    let text = r#"{"spec": {"replicas": "three"}, "metadata": {"#;
    assert_eq!(
        message("apps", "Deployment", text),
        "unexpected end of JSON input"
    );
    let error = decode("apps", "Deployment", r#"{"spec": {"replicas": "three"}}"#);
    assert!(matches!(error, Err(DecodeError::Type { path, .. }) if path == "spec.replicas"));
}

#[test]
fn a_tree_is_checked_as_its_bytes_are() {
    let text =
        json!({"kind": "Pod", "spec": {"containers": [{"name": "c", "imag": "x"}], "foo": 1}});
    let schema = Schemas::builtin().kind("", "v1", "Pod").unwrap();
    let of_bytes = schema.decode(text.to_string().as_bytes()).unwrap();
    assert_eq!(schema.decode_value(text).unwrap(), of_bytes);
    assert_eq!(of_bytes.unknown.len(), 2);
    let wrong = json!({"spec": {"nodeName": {"a": 1}}});
    assert_eq!(
        schema.decode_value(wrong.clone()),
        schema.decode(wrong.to_string().as_bytes())
    );
}

#[test]
fn deep_json_is_refused_and_does_not_end_the_program() {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(5000), "}".repeat(5000));
    let text = format!(r#"{{"metadata": {{"managedFields": [{{"fieldsV1": {deep}}}]}}}}"#);
    assert!(matches!(
        decode("", "Pod", &text),
        Err(DecodeError::Syntax { .. })
    ));
}

#[test]
fn what_go_cannot_tell_from_absent_is_not_kept() {
    let pod = json!({
        "metadata": {"name": "p", "generateName": "", "generation": 0},
        "spec": {
            "hostNetwork": false, "hostPID": false, "hostIPC": false, "nodeName": "", "hostname": "",
            // Pointers.
            "enableServiceLinks": false, "shareProcessNamespace": false, "priority": 0,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsUser": 0, "runAsNonRoot": false},
            "containers": [{
                "name": "", "image": "", "stdin": false, "stdinOnce": false, "tty": false, "workingDir": "",
                "env": [{"name": "A", "value": ""}],
                "ports": [{"containerPort": 0, "hostPort": 0, "hostIP": "", "name": ""}],
                "volumeMounts": [{"name": "v", "mountPath": "", "readOnly": false, "subPath": ""}],
                "livenessProbe": {"initialDelaySeconds": 0, "httpGet": {"port": 0, "path": ""}},
                "securityContext": {"privileged": false, "runAsGroup": 0},
            }],
            "volumes": [{"name": "v", "secret": {"secretName": "", "optional": false}}],
            "tolerations": [{"key": "", "operator": "Exists", "tolerationSeconds": 0}],
        },
    });
    let decoded = decode("", "Pod", &pod.to_string()).unwrap();
    assert_eq!(
        decoded.value,
        json!({
            "metadata": {"name": "p"},
            "spec": {
                "enableServiceLinks": false, "shareProcessNamespace": false, "priority": 0,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsUser": 0, "runAsNonRoot": false},
                "containers": [{
                    "name": "",
                    "env": [{"name": "A"}],
                    "ports": [{"containerPort": 0}],
                    "volumeMounts": [{"name": "v", "mountPath": ""}],
                    "livenessProbe": {"httpGet": {"port": 0}},
                    "securityContext": {"privileged": false, "runAsGroup": 0},
                }],
                "volumes": [{"name": "v", "secret": {"optional": false}}],
                "tolerations": [{"operator": "Exists", "tolerationSeconds": 0}],
            },
        })
    );
    for (group, kind, spec, kept) in [
        (
            "",
            "Node",
            json!({"unschedulable": false, "podCIDR": ""}),
            json!({}),
        ),
        (
            "",
            "Service",
            json!({"publishNotReadyAddresses": false, "clusterIP": "", "healthCheckNodePort": 0,
                "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80, "nodePort": 0}]}),
            json!({"allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
        ),
        (
            "apps",
            "Deployment",
            json!({"replicas": 0, "minReadySeconds": 0, "paused": false, "revisionHistoryLimit": 0}),
            json!({"replicas": 0, "revisionHistoryLimit": 0}),
        ),
    ] {
        let sent = json!({"metadata": {"name": "a"}, "spec": spec}).to_string();
        let decoded = decode(group, kind, &sent).unwrap().value;
        assert_eq!(decoded["spec"], kept, "{kind}");
    }
}
