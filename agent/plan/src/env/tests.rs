// SPDX-License-Identifier: Apache-2.0
//! Environments, source by source.
use serde_json::json;

use super::*;

fn pod(container: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1",
                     "labels": {"app": "web"}, "annotations": {"a/b": "c"}},
        "spec": {"serviceAccountName": "robot", "containers": [container]},
    }))
    .expect("pod")
}

fn around() -> Surroundings {
    let config: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "conf"}, "data": {"mode": "fast", "level": "3"}}))
    .expect("config map");
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "keys"}, "data": {"password": "aHVudGVyMg==", "raw": "/w=="}}))
    .expect("secret");
    let mut objects = Objects::default();
    objects.config_maps.insert("conf".into(), Arc::new(config));
    objects.secrets.insert("keys".into(), Arc::new(secret));
    Surroundings {
        node_name: "node-1".into(),
        host_ips: vec!["192.0.2.1".into()],
        pod_ips: vec!["10.244.0.9".into()],
        node_cpu_milli: 2000,
        node_memory_bytes: 1 << 30,
        objects,
        services: vec![],
    }
}

fn env(container: serde_json::Value) -> Result<Vec<(String, String)>, EnvError> {
    let pod = pod(container);
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    environment(&pod, container, &around())
}

fn value(list: &[(String, String)], name: &str) -> Option<String> {
    let found = list.iter().find(|(k, _)| k == name);
    found.map(|(_, v)| v.clone())
}

#[test]
fn references_are_expanded_and_the_unknown_stays_as_written() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    for (input, output) in [
        ("x$(A)y", "x1y"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $ $(A", "$A $ $(A"),
        ("", ""),
    ] {
        assert_eq!(expand(input, lookup), output, "{input}");
    }
}

#[test]
fn a_variable_sees_those_before_it() {
    let list = env(json!({"name": "c", "env": [
        {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$(C)"}, {"name": "C", "value": "2"}]}))
    .expect("env");
    assert_eq!(value(&list, "B").as_deref(), Some("1$(C)"));
}

#[test]
fn env_wins_over_env_from_and_env_from_over_service_variables() {
    let mut around = around();
    around.services.push(ServiceVars {
        name: "my-db".into(),
        cluster_ip: "10.96.0.7".into(),
        ports: vec![("pg".into(), "tcp", 5432)],
    });
    let pod = pod(json!({"name": "c",
        "envFrom": [{"configMapRef": {"name": "conf"}}, {"prefix": "P_", "secretRef": {"name": "keys", "optional": true}},
                    {"configMapRef": {"name": "none", "optional": true}}],
        "env": [{"name": "mode", "value": "slow"}, {"name": "URL", "value": "$(MY_DB_SERVICE_HOST):$(MY_DB_SERVICE_PORT)"}]}));
    let container = &pod.spec.as_ref().expect("spec").containers[0];
    let error = environment(&pod, container, &around).expect_err("raw is no text");
    assert!(matches!(error, EnvError::NotText { .. }), "{error}");
    let keys = Secret {
        data: None,
        ..Secret::default()
    };
    around.objects.secrets.insert("keys".into(), Arc::new(keys));
    let list = environment(&pod, container, &around).expect("env");
    assert_eq!(value(&list, "mode").as_deref(), Some("slow"));
    assert_eq!(value(&list, "level").as_deref(), Some("3"));
    assert_eq!(value(&list, "URL").as_deref(), Some("10.96.0.7:5432"));
    assert_eq!(
        value(&list, "MY_DB_PORT").as_deref(),
        Some("tcp://10.96.0.7:5432")
    );
    assert_eq!(
        value(&list, "MY_DB_PORT_5432_TCP_ADDR").as_deref(),
        Some("10.96.0.7")
    );
    assert_eq!(
        value(&list, "MY_DB_SERVICE_PORT_PG").as_deref(),
        Some("5432")
    );
}

#[test]
fn service_links_can_be_switched_off_except_for_the_api_itself() {
    let mut around = around();
    let service = |name: &str| ServiceVars {
        name: name.into(),
        cluster_ip: "10.96.0.1".into(),
        ports: vec![("https".into(), "tcp", 443)],
    };
    around.services = vec![service("db"), service("kubernetes")];
    let mut pod = pod(json!({"name": "c"}));
    let spec = pod.spec.as_mut().expect("spec");
    spec.enable_service_links = Some(false);
    let container = spec.containers[0].clone();
    let list = environment(&pod, &container, &around).expect("env");
    assert_eq!(value(&list, "DB_SERVICE_HOST"), None);
    assert_eq!(
        value(&list, "KUBERNETES_SERVICE_HOST").as_deref(),
        Some("10.96.0.1")
    );
}

#[test]
fn fields_of_the_pod_and_its_node_can_be_read() {
    for (path, expect) in [
        ("metadata.name", "web-1"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['a/b']", "c"),
        ("metadata.labels['none']", ""),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "robot"),
        ("status.hostIP", "192.0.2.1"),
        ("status.podIP", "10.244.0.9"),
    ] {
        let list = env(json!({"name": "c", "env": [
            {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}]}))
        .expect("env");
        assert_eq!(value(&list, "X").as_deref(), Some(expect), "{path}");
    }
    let error = env(json!({"name": "c", "env": [
        {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}))
    .expect_err("unknown");
    assert_eq!(error.to_string(), "unsupported fieldPath: spec.nope");
}

#[test]
fn resources_are_rounded_up_to_their_divisor_and_default_to_the_node() {
    for (resource, divisor, expect) in [
        ("limits.cpu", "1", "1"),
        ("limits.cpu", "1m", "250"),
        ("requests.memory", "1Mi", "65"),
        ("limits.memory", "1", "1073741824"),
    ] {
        let list = env(json!({"name": "c",
            "resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "64.5Mi"}},
            "env": [{"name": "X", "valueFrom": {"resourceFieldRef":
                {"resource": resource, "divisor": divisor}}}]}))
        .expect("env");
        assert_eq!(
            value(&list, "X").as_deref(),
            Some(expect),
            "{resource}/{divisor}"
        );
    }
}

#[test]
fn missing_sources_are_errors_in_kubernetes_words_unless_optional() {
    let from = |source: serde_json::Value| {
        env(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}))
    };
    for (source, message) in [
        (
            json!({"configMapKeyRef": {"name": "no", "key": "k"}}),
            "configmap \"no\" not found",
        ),
        (
            json!({"secretKeyRef": {"name": "no", "key": "k"}}),
            "secret \"no\" not found",
        ),
        (
            json!({"configMapKeyRef": {"name": "conf", "key": "k"}}),
            "couldn't find key k in ConfigMap shop/conf",
        ),
        (
            json!({"secretKeyRef": {"name": "keys", "key": "k"}}),
            "couldn't find key k in Secret shop/keys",
        ),
    ] {
        assert_eq!(from(source).expect_err("missing").to_string(), message);
    }
    let list =
        from(json!({"secretKeyRef": {"name": "no", "key": "k", "optional": true}})).expect("env");
    assert_eq!(value(&list, "X"), None);
    let list = from(json!({"secretKeyRef": {"name": "keys", "key": "password"}})).expect("env");
    assert_eq!(value(&list, "X").as_deref(), Some("hunter2"));
}

#[test]
fn objects_are_printed_by_name_only() {
    let text = format!("{:?}", around());
    assert!(text.contains("conf") && text.contains("keys"), "{text}");
    // As text, and as a list of bytes.
    for secret in ["hunter2", "104, 117", "aHVudGVyMg"] {
        assert!(!text.contains(secret), "{text}");
    }
}
