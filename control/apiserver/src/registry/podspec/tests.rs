// SPDX-License-Identifier: Apache-2.0
//! Defaults and refusals of pod specs.

use serde_json::{Value, json};

use super::{default, is_latest, validate};
use crate::field::FieldErrors;

fn errors(spec: Value) -> String {
    let mut spec = spec;
    default(&mut spec);
    let mut errors = FieldErrors::default();
    validate(&spec, "spec", &mut errors);
    if errors.is_empty() {
        String::new()
    } else {
        errors.aggregate()
    }
}

#[test]
fn a_minimal_spec_gets_what_kubernetes_would_fill_in() {
    let mut spec = json!({
        "containers": [{
            "name": "a",
            "image": "nginx",
            "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
            "readinessProbe": {"httpGet": {"port": 80}},
        }],
        "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
    });
    default(&mut spec);
    assert_eq!(
        spec,
        json!({
            "containers": [{
                "name": "a",
                "image": "nginx",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "readinessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
                "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }],
            "volumes": [
                {"name": "v", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "x", "defaultMode": 420}},
            ],
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        })
    );
    let once = spec.clone();
    default(&mut spec);
    assert_eq!(spec, once, "defaults of a full spec change nothing");
}

#[test]
fn only_a_missing_tag_and_latest_are_always_pulled() {
    for (image, latest) in [
        ("nginx", true),
        ("nginx:latest", true),
        ("host:5000/nginx", true),
        ("nginx:1", false),
        ("host:5000/nginx:1", false),
        ("nginx@sha256:00", false),
    ] {
        assert_eq!(is_latest(image), latest, "{image}");
    }
}

#[test]
fn refusals_name_the_field_and_the_rule() {
    let with = |container: Value| errors(json!({"containers": [container]}));
    assert_eq!(errors(json!({})), "spec.containers: Required value");
    assert_eq!(
        with(json!({"name": "a"})),
        "spec.containers[0].image: Required value"
    );
    assert_eq!(
        with(json!({"name": "a", "image": "x", "ports": [{"containerPort": 70000}]})),
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
    );
    assert_eq!(
        with(
            json!({"name": "a", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/x"}]})
        ),
        r#"spec.containers[0].volumeMounts[0].name: Not found: "v""#
    );
    assert_eq!(
        with(
            json!({"name": "a", "image": "x", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})
        ),
        r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#
    );
    assert_eq!(
        with(json!({"name": "a", "image": "x", "livenessProbe": {}})),
        "spec.containers[0].livenessProbe: Required value: must specify a handler type"
    );
    assert_eq!(
        errors(json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "x"}]})),
        r#"spec.containers[1].name: Duplicate value: "a""#
    );
    assert_eq!(
        errors(json!({"containers": [{"name": "a", "image": "x"}], "restartPolicy": "Sometimes"})),
        r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "Never", "OnFailure""#
    );
    assert!(
        with(json!({"name": "A", "image": "x"})).starts_with(
            r#"spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label"#
        )
    );
}
