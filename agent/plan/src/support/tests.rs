// SPDX-License-Identifier: Apache-2.0
//! Each refused field is named by its path.
use serde_json::json;

use super::*;

fn refused(spec: serde_json::Value) -> Option<String> {
    let spec: PodSpec = serde_json::from_value(spec).expect("spec");
    let container = spec.containers.last().expect("container").clone();
    check(&spec, &container, SeLinux::Off)
        .err()
        .map(|e| e.to_string())
}

#[test]
fn se_linux_labels_mean_nothing_without_se_linux_and_are_refused_with_it() {
    let labels = json!({"level": "s0:c1,c5"});
    for (spec, path) in [
        (
            json!({"containers": [{"name": "a"}], "securityContext": {"seLinuxOptions": labels}}),
            "spec.securityContext.seLinuxOptions: ",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"seLinuxOptions": labels}}]}),
            "spec.containers[0].securityContext.seLinuxOptions: ",
        ),
    ] {
        assert_eq!(refused(spec.clone()), None);
        let spec: PodSpec = serde_json::from_value(spec).expect("spec");
        let error = check(&spec, &spec.containers[0], SeLinux::On).expect_err("refused");
        assert!(error.to_string().starts_with(path), "{error}");
    }
    let none = json!({"containers": [{"name": "a"}], "securityContext": {"seLinuxOptions": {}}});
    let none: PodSpec = serde_json::from_value(none).expect("spec");
    assert_eq!(check(&none, &none.containers[0], SeLinux::On), Ok(()));
}

#[test]
fn unsupported_fields_are_refused_by_path() {
    let container = |extra: serde_json::Value| {
        let mut c = json!({"name": "b", "image": "i"});
        for (key, value) in extra.as_object().expect("object") {
            c[key] = value.clone();
        }
        json!({"containers": [{"name": "a"}, c]})
    };
    for (spec, path) in [
        (container(json!({"tty": true})), "spec.containers[1].tty"),
        (
            container(json!({"readinessProbe": {"grpc": {"port": 1}}})),
            "spec.containers[1].readinessProbe.grpc",
        ),
        (
            container(json!({"livenessProbe": {"httpGet": {"port": "none"}}})),
            "spec.containers[1].livenessProbe.httpGet.port",
        ),
        (
            container(json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}})),
            "spec.containers[1].lifecycle.postStart",
        ),
        (
            container(json!({"lifecycle": {"preStop": {"exec": {"command": ["x"]}}}})),
            "spec.containers[1].lifecycle.preStop.exec",
        ),
        (
            container(json!({"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}})),
            "spec.containers[1].securityContext.seccompProfile",
        ),
        (
            container(json!({"ports": [{"containerPort": 80, "hostPort": 80}]})),
            "spec.containers[1].ports[0].hostPort",
        ),
        (
            json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}),
            "spec.volumes[0].nfs",
        ),
        (
            json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}}]}}]}),
            "spec.volumes[0].projected.sources[0].serviceAccountToken",
        ),
        (
            json!({"containers": [{"name": "a"}], "volumes": [
                {"name": "v", "emptyDir": {"medium": "HugePages"}}]}),
            "spec.volumes[0].emptyDir.medium",
        ),
        (
            json!({"containers": [{"name": "a"}],
                "securityContext": {"supplementalGroupsPolicy": "Other"}}),
            "spec.securityContext.supplementalGroupsPolicy",
        ),
        (
            json!({"containers": [{"name": "a"}], "securityContext": {"fsGroupChangePolicy": "Other"}}),
            "spec.securityContext.fsGroupChangePolicy",
        ),
        (
            container(json!({"volumeMounts": [
                {"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]})),
            "spec.containers[1].volumeMounts[0].mountPropagation",
        ),
        (
            json!({"containers": [{"name": "a"}], "runtimeClassName": "x"}),
            "spec.runtimeClassName",
        ),
    ] {
        let text = refused(spec).unwrap_or_else(|| panic!("{path} is accepted"));
        assert!(text.starts_with(&format!("{path}: ")), "{text}");
    }
}

#[test]
fn an_ordinary_pod_is_accepted() {
    let spec = json!({
        "volumes": [{"name": "e", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "h", "hostPath": {"path": "/x"}}],
        "securityContext": {"fsGroup": 1, "supplementalGroupsPolicy": "Strict", "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "Unconfined"}},
        "containers": [{"name": "a", "ports": [{"containerPort": 80}],
            "readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": {"tcpSocket": {"port": 80}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]});
    assert_eq!(refused(spec), None);
}
