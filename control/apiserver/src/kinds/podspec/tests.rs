// SPDX-License-Identifier: Apache-2.0
//! Defaults and refusals of pod specs.

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{is_latest, validate};
use crate::field::FieldErrors;
use crate::schema::{self, SchemaKind};

/// Fills a spec as a write does: the schema's defaults first.
fn default(spec: &mut Value) {
    let mut pod = json!({"spec": spec.take()});
    schema::fill_defaults(&SchemaKind::builtin("", "v1", "Pod"), &mut pod);
    *spec = pod["spec"].take();
    super::default(spec);
}

fn errors(spec: Value) -> String {
    let mut spec = spec;
    default(&mut spec);
    let mut errors = FieldErrors::default();
    let spec = PodSpec::deserialize(&spec).expect("a pod spec");
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
    let asked =
        |get: Value| with(json!({"name": "a", "image": "x", "livenessProbe": {"httpGet": get}}));
    assert_eq!(
        asked(
            json!({"port": 80, "scheme": "HTTPS", "httpHeaders": [{"name": "X-Token", "value": "t"}]})
        ),
        ""
    );
    assert_eq!(
        asked(json!({"port": 80, "scheme": "https"})),
        r#"spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "https": supported values: "HTTP", "HTTPS""#
    );
    assert_eq!(
        asked(json!({"port": 80, "httpHeaders": [{"name": "X Token", "value": "t"}]})),
        r#"spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: "X Token": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"#
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

#[test]
fn numbers_of_a_probe_that_are_zero_are_as_good_as_absent() {
    let zero = json!({
        "tcpSocket": {"port": 80},
        "initialDelaySeconds": 0, "timeoutSeconds": 0, "periodSeconds": 0,
        "successThreshold": 0, "failureThreshold": 0,
    });
    let mut spec = json!({"containers": [{"name": "a", "image": "x", "livenessProbe": zero}]});
    default(&mut spec);
    assert_eq!(
        spec["containers"][0]["livenessProbe"],
        json!({
            "tcpSocket": {"port": 80},
            "initialDelaySeconds": 0, "timeoutSeconds": 1, "periodSeconds": 10,
            "successThreshold": 1, "failureThreshold": 3,
        })
    );
}

#[test]
fn node_affinity_that_means_nothing_is_refused() {
    let with = |expression: Value| {
        let required = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
        errors(json!({
            "containers": [{"name": "a", "image": "x"}],
            "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": required,
            }},
        }))
    };
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0]";
    for (operator, values, wanted) in [
        (
            "In",
            json!([]),
            ".values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            "NotIn",
            json!([]),
            ".values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            "Exists",
            json!(["a"]),
            ".values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            "DoesNotExist",
            json!(["a"]),
            ".values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            "Gt",
            json!([]),
            ".values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        (
            "Lt",
            json!(["1", "2"]),
            ".values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        (
            "Like",
            json!(["a"]),
            ".operator: Invalid value: \"Like\": not a valid selector operator",
        ),
    ] {
        let said = with(json!({"key": "zone", "operator": operator, "values": values}));
        assert_eq!(said, format!("{at}{wanted}"));
    }
    for (operator, values) in [
        ("In", json!(["a"])),
        ("Exists", json!([])),
        ("Gt", json!(["4"])),
    ] {
        let said = with(json!({"key": "zone", "operator": operator, "values": values}));
        assert_eq!(said, "");
    }
    let none = json!({
        "containers": [{"name": "a", "image": "x"}],
        "affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []},
        }},
    });
    assert!(errors(none).ends_with("Required value: must have at least one node selector term"));
}

#[test]
fn topology_spread_is_checked_constraint_by_constraint() {
    let with = |constraints: Value| {
        errors(json!({
            "containers": [{"name": "a", "image": "x"}],
            "topologySpreadConstraints": constraints,
        }))
    };
    let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    assert_eq!(with(json!([good])), "");
    let at = "spec.topologySpreadConstraints";
    assert_eq!(
        with(json!([good, good])),
        format!(
            "{at}[1].{{topologyKey, whenUnsatisfiable}}: Duplicate value: \"{{zone, DoNotSchedule}}\""
        )
    );
    for (field, bad, wanted) in [
        (
            "maxSkew",
            json!(0),
            "Invalid value: 0: must be greater than zero",
        ),
        ("topologyKey", json!(""), "Required value: can not be empty"),
        (
            "whenUnsatisfiable",
            json!("Never"),
            "Unsupported value: \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ),
    ] {
        let mut constraint = good.clone();
        constraint[field] = bad;
        assert_eq!(
            with(json!([constraint])),
            format!("{at}[0].{field}: {wanted}")
        );
    }
}

#[test]
fn tolerations_compare_only_as_the_scheduler_does() {
    let said = errors(json!({
        "containers": [{"name": "a", "image": "x"}],
        "tolerations": [{"key": "size", "operator": "Gt", "value": "5"}],
    }));
    assert_eq!(
        said,
        r#"spec.tolerations[0].operator: Unsupported value: "Gt": supported values: "Equal", "Exists""#
    );
}

#[test]
fn a_stop_signal_is_one_of_the_pods_system() {
    let with = |os: Value, signal: &str| {
        let container = json!({"name": "a", "image": "x", "lifecycle": {"stopSignal": signal}});
        errors(json!({"containers": [container], "os": os}))
    };
    let linux = json!({"name": "linux"});
    for signal in [
        "SIGTERM",
        "SIGCLD",
        "SIGRTMIN",
        "SIGRTMIN+15",
        "SIGRTMAX-14",
        "SIGRTMAX",
    ] {
        assert_eq!(with(linux.clone(), signal), "", "{signal}");
    }
    let at = "spec.containers[0].lifecycle.stopSignal";
    for signal in ["TERM", "15", "sigterm", "SIGRTMIN+16", "SIGRTMAX-15", ""] {
        let said = with(linux.clone(), signal);
        let start = format!(
            "{at}: Unsupported value: {signal:?}: supported values: \"SIGABRT\", \"SIGALRM\", "
        );
        assert!(said.starts_with(&start), "{said}");
        assert!(said.ends_with("\"SIGXCPU\", \"SIGXFSZ\""), "{said}");
        assert_eq!(said.split("\", \"").count(), 65, "{said}");
    }
    assert_eq!(
        with(json!({"name": "windows"}), "SIGHUP"),
        format!("{at}: Unsupported value: \"SIGHUP\": supported values: \"SIGKILL\", \"SIGTERM\"")
    );
    assert_eq!(
        with(Value::Null, "SIGTERM"),
        format!("{at}: Forbidden: may not be set for containers with empty `spec.os.name`")
    );
    assert_eq!(
        with(json!({"name": "plan9"}), "SIGTERM"),
        "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""
    );
}

#[test]
fn sysctls_have_a_form_once_and_none_that_is_shared_with_the_node() {
    let with = |mut spec: Value, names: &[&str]| {
        let sysctls: Vec<Value> = names
            .iter()
            .map(|name| json!({"name": name, "value": "1"}))
            .collect();
        spec["containers"] = json!([{"name": "a", "image": "x"}]);
        spec["securityContext"] = json!({"sysctls": sysctls});
        errors(spec)
    };
    let field = "spec.securityContext.sysctls";
    assert_eq!(
        with(json!({}), &["net.ipv4.tcp_syncookies", "kernel/shmmax"]),
        ""
    );
    assert_eq!(
        with(json!({}), &[""]),
        format!("{field}[0].name: Required value")
    );
    assert_eq!(
        with(json!({}), &["Net.x"]),
        format!(
            r#"{field}[0].name: Invalid value: "Net.x": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#
        )
    );
    assert_eq!(
        with(json!({}), &["net.a", "net.a"]),
        format!(r#"{field}[1].name: Duplicate value: "net.a""#)
    );
    assert_eq!(
        with(json!({"hostNetwork": true}), &["net.a", "kernel.shmmax"]),
        format!(
            r#"{field}[0].name: Invalid value: "net.a": may not be specified when 'hostNetwork' is true"#
        )
    );
    assert_eq!(
        with(json!({"hostIPC": true}), &["net.a", "kernel.shmmax"]),
        format!(
            r#"{field}[1].name: Invalid value: "kernel.shmmax": may not be specified when 'hostIPC' is true"#
        )
    );
}

#[test]
fn only_a_privileged_container_mounts_on_the_node() {
    let with = |propagation: &str, privileged: bool| {
        errors(json!({
            "volumes": [{"name": "v", "hostPath": {"path": "/x"}}],
            "containers": [{
                "name": "a", "image": "x", "securityContext": {"privileged": privileged},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": propagation}],
            }],
        }))
    };
    let field = "spec.containers[0].volumeMounts[0].mountPropagation";
    assert_eq!(with("HostToContainer", false), "");
    assert_eq!(with("Bidirectional", true), "");
    assert_eq!(
        with("Bidirectional", false),
        format!(
            "{field}: Forbidden: Bidirectional mount propagation is available only to privileged containers"
        )
    );
    assert_eq!(
        with("Both", true),
        format!(
            r#"{field}: Unsupported value: "Both": supported values: "Bidirectional", "HostToContainer", "None""#
        )
    );
}

#[test]
fn a_volume_has_one_source_and_kubernetes_order_says_which_is_too_many() {
    let spec = json!({
        "containers": [{"name": "a", "image": "x"}],
        "volumes": [{"name": "v", "configMap": {"name": "m"}, "emptyDir": {}}],
    });
    assert_eq!(
        errors(spec),
        "spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type"
    );
}

#[test]
fn an_ephemeral_container_is_refused_and_checked_like_any_other() {
    let spec = json!({
        "containers": [{"name": "a", "image": "x"}],
        "ephemeralContainers": [{"name": "a", "stdin": true}],
    });
    assert_eq!(
        errors(spec),
        r#"[spec.ephemeralContainers: Forbidden: cannot be set on create, spec.ephemeralContainers[0].name: Duplicate value: "a", spec.ephemeralContainers[0].image: Required value]"#
    );
}

#[test]
fn a_handler_has_one_action() {
    let with = |probe: Value| {
        errors(json!({"containers": [{"name": "a", "image": "x", "livenessProbe": probe}]}))
    };
    assert_eq!(with(json!({"grpc": {"port": 1}})), "");
    assert_eq!(
        with(json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": "A"}})),
        "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"
    );
    assert_eq!(
        with(json!({"exec": {}})),
        "spec.containers[0].livenessProbe.exec.command: Required value"
    );
    assert_eq!(
        with(json!({"tcpSocket": {}})),
        "spec.containers[0].livenessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive"
    );
}
