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
        "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type string"
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
        assert!(
            decode("", "ConfigMap", text).is_err(),
            "{text:.20}"
        );
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
