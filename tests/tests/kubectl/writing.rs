// SPDX-License-Identifier: Apache-2.0
//! create, apply, patch, replace, scale, label, delete: what is written is what is there.

use std::time::Duration;

use knarr_tests::{Cluster, manifests};
use serde_json::json;

fn config(name: &str, value: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

#[test]
fn apply_creates_changes_and_leaves_alone() {
    let cluster = Cluster::namespace("apply");
    let kubectl = &cluster.kubectl;
    assert!(kubectl.apply(&config("a", "1")).contains("created"));
    assert!(kubectl.apply(&config("a", "1")).contains("unchanged"));
    let before = kubectl.json(&["get", "configmap", "a"]);
    assert!(kubectl.apply(&config("a", "2")).contains("configured"));
    let after = kubectl.json(&["get", "configmap", "a"]);
    assert_eq!(after["data"]["key"], "2");
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_ne!(
        after["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    // A field that is no longer written is removed, one that another client wrote is not.
    kubectl.ok(&[
        "patch",
        "configmap",
        "a",
        "--type=merge",
        "--patch",
        r#"{"data":{"other":"x"}}"#,
    ]);
    let mut without = config("a", "2");
    without["data"] = json!({});
    kubectl.apply(&without);
    assert_eq!(
        kubectl.json(&["get", "configmap", "a"])["data"],
        json!({"other": "x"})
    );
    // The same again differs in nothing; something else is shown, by exit code as well.
    assert!(
        kubectl
            .ok_with(&["diff", "--filename", "-"], &without.to_string())
            .is_empty()
    );
    let shown = kubectl.run_with(&["diff", "--filename", "-"], &config("a", "9").to_string());
    assert!(
        !shown.success && shown.stdout.contains("+  key: \"9\""),
        "{}",
        shown.stdout
    );
}

#[test]
fn all_three_patches_do_what_they_are_called() {
    let cluster = Cluster::namespace("patch");
    let kubectl = &cluster.kubectl;
    let mut deployment = manifests::echo_deployment("web", 0);
    deployment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "A", "value": "1"}]);
    kubectl.apply(&deployment);
    let containers = |kubectl: &knarr_tests::Kubectl| {
        kubectl.json(&["get", "deployment", "web"])["spec"]["template"]["spec"]["containers"]
            .clone()
    };

    // Strategic: lists merge by their key.
    kubectl.ok(&["patch", "deployment", "web", "--patch", r#"{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"B","value":"2"}]}]}}}}"#]);
    let now = containers(kubectl);
    assert_eq!(now.as_array().map(Vec::len), Some(1));
    let mut names: Vec<&str> = now[0]["env"]
        .as_array()
        .expect("env")
        .iter()
        .filter_map(|entry| entry["name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["A", "B"]);
    kubectl.ok(&["patch", "deployment", "web", "--patch", r#"{"spec":{"template":{"spec":{"containers":[{"name":"echo","env":[{"name":"A","$patch":"delete"}]}]}}}}"#]);
    assert_eq!(
        containers(kubectl)[0]["env"],
        json!([{"name": "B", "value": "2"}])
    );

    // JSON: exact places, with a test.
    kubectl.ok(&["patch", "deployment", "web", "--type=json", "--patch", r#"[{"op":"test","path":"/spec/replicas","value":0},{"op":"replace","path":"/spec/template/spec/containers/0/env/0/value","value":"3"}]"#]);
    assert_eq!(containers(kubectl)[0]["env"][0]["value"], "3");
    // One operation that fails takes those before and after it with it.
    let before = kubectl.json(&["get", "deployment", "web"]);
    let refused = kubectl.refused(&["patch", "deployment", "web", "--type=json", "--patch", r#"[{"op":"test","path":"/spec/replicas","value":9},{"op":"remove","path":"/spec/replicas"}]"#], "");
    assert_eq!(
        refused.trim_end(),
        "The request is invalid: the server rejected our request due to an error in our request: operation '/0' \
         failed at path '/spec/replicas': value did not match"
    );
    let refused = kubectl.refused(&["patch", "deployment", "web", "--type=json", "--patch", r#"[{"op":"replace","path":"/spec/replicas","value":1},{"op":"test","path":"/spec/nothing","value":9}]"#], "");
    assert_eq!(
        refused.trim_end(),
        "The request is invalid: the server rejected our request due to an error in our request: operation '/1' \
         failed at path '/spec/nothing': path is invalid"
    );
    let after = kubectl.json(&["get", "deployment", "web"]);
    assert_eq!(after["spec"]["replicas"], 0);
    assert_eq!(after["spec"], before["spec"]);

    // Merge: lists are replaced, null removes.
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "--patch",
        r#"{"metadata":{"labels":{"x":"y"},"annotations":null}}"#,
    ]);
    let metadata = kubectl.json(&["get", "deployment", "web"])["metadata"].clone();
    assert_eq!(metadata["labels"]["x"], "y");
    assert!(metadata["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].is_null());
}

#[test]
fn an_old_resource_version_conflicts() {
    let cluster = Cluster::namespace("conflict");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&config("a", "1"));
    let old = kubectl.json(&["get", "configmap", "a"]);
    kubectl.apply(&config("a", "2"));
    let mut stale = old.clone();
    stale["data"]["key"] = json!("3");
    let refused = kubectl.refused(&["replace", "--filename", "-"], &stale.to_string());
    assert!(refused.contains("(Conflict)") && refused.contains("the object has been modified; please apply your changes to the latest version and try again"), "{refused}");
    assert_eq!(kubectl.json(&["get", "configmap", "a"])["data"]["key"], "2");
}

#[test]
fn names_are_generated_and_labels_and_annotations_set() {
    let cluster = Cluster::namespace("names");
    let kubectl = &cluster.kubectl;
    let generated =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "made-"}});
    let first = kubectl.ok_with(
        &["create", "--filename", "-", "--output", "name"],
        &generated.to_string(),
    );
    let second = kubectl.ok_with(
        &["create", "--filename", "-", "--output", "name"],
        &generated.to_string(),
    );
    assert!(
        first.starts_with("configmap/made-") && first != second,
        "{first} {second}"
    );
    let name = first.trim();
    kubectl.ok(&["label", name, "color=red"]);
    assert!(
        kubectl
            .refused(&["label", name, "color=blue"], "")
            .contains("overwrite")
    );
    kubectl.ok(&["label", name, "color=blue", "--overwrite"]);
    kubectl.ok(&["annotate", name, "note=a b c"]);
    let metadata = kubectl.json(&["get", name])["metadata"].clone();
    assert_eq!(
        (
            metadata["labels"]["color"].as_str(),
            metadata["annotations"]["note"].as_str()
        ),
        (Some("blue"), Some("a b c"))
    );
    kubectl.ok(&["label", name, "color-"]);
    assert!(kubectl.json(&["get", name])["metadata"]["labels"]["color"].is_null());
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let cluster = Cluster::namespace("dry-run");
    let kubectl = &cluster.kubectl;
    let said = kubectl.ok_with(
        &[
            "create",
            "--dry-run=server",
            "--output",
            "json",
            "--filename",
            "-",
        ],
        &manifests::echo_service("web").to_string(),
    );
    let object: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(
        object["spec"]["clusterIP"]
            .as_str()
            .is_some_and(|ip| !ip.is_empty()),
        "defaults and addresses are shown: {said}"
    );
    assert!(
        kubectl
            .refused(&["get", "service", "web"], "")
            .contains("NotFound")
    );
    kubectl.refused(
        &["create", "--dry-run=server", "--filename", "-"],
        &config("Not_A_Name", "1").to_string(),
    );
}

#[test]
fn deleting_one_or_many_leaves_none() {
    let cluster = Cluster::namespace("delete");
    let kubectl = &cluster.kubectl;
    for number in 0..5 {
        kubectl.apply(&config(&format!("c{number}"), "1"));
        kubectl.ok(&[
            "label",
            &format!("configmap/c{number}"),
            &format!("odd={}", number % 2),
        ]);
    }
    kubectl.ok(&["delete", "configmap", "--selector", "odd=1"]);
    let left = kubectl.ok(&["get", "configmaps", "--selector", "odd", "--output", "name"]);
    assert_eq!(left.lines().count(), 3, "{left}");
    kubectl.ok(&["delete", "configmap", "--all"]);
    assert!(
        kubectl
            .items(&["get", "configmaps"])
            .iter()
            .all(|config| config["metadata"]["name"] == "kube-root-ca.crt")
    );
    // The collection itself, as client libraries delete it.
    kubectl.apply(&config("again", "1"));
    kubectl.ok(&[
        "delete",
        "--raw",
        &format!("/api/v1/namespaces/{}/configmaps", cluster.namespace),
    ]);
    assert!(
        kubectl
            .refused(&["get", "configmap", "again"], "")
            .contains("NotFound")
    );
    assert!(
        kubectl
            .refused(&["delete", "configmap", "never-was"], "")
            .contains("Error from server (NotFound): configmaps \"never-was\" not found")
    );
}

#[test]
fn finalizers_hold_an_object_until_they_are_removed() {
    let cluster = Cluster::namespace("finalizer");
    let kubectl = &cluster.kubectl;
    let mut held = config("held", "1");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    kubectl.apply(&held);
    kubectl.ok(&["delete", "configmap", "held", "--wait=false"]);
    assert!(
        !kubectl.json(&["get", "configmap", "held"])["metadata"]["deletionTimestamp"].is_null()
    );
    kubectl.let_go("configmap", "held");
    kubectl.ok(&["wait", "--for=delete", "configmap/held", "--timeout=20s"]);
}

#[test]
fn scale_and_status_are_subresources_of_their_own() {
    let cluster = Cluster::namespace("subresources");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment("web", 1));
    kubectl.rolled_out("web");
    let scale = kubectl.raw(&format!(
        "/apis/apps/v1/namespaces/{}/deployments/web/scale",
        cluster.namespace
    ));
    assert_eq!(
        (
            scale["kind"].as_str(),
            scale["spec"]["replicas"].as_u64(),
            scale["status"]["replicas"].as_u64()
        ),
        (Some("Scale"), Some(1), Some(1))
    );
    kubectl.ok(&[
        "scale",
        "deployment",
        "web",
        "--replicas=2",
        "--current-replicas=1",
    ]);
    kubectl.rolled_out("web");
    assert!(
        !kubectl
            .run(&[
                "scale",
                "deployment",
                "web",
                "--replicas=3",
                "--current-replicas=9"
            ])
            .success
    );
    // A status that is written beside the specification is not taken.
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--type=merge",
        "--patch",
        r#"{"status":{"replicas":99}}"#,
    ]);
    assert_eq!(
        kubectl.json(&["get", "deployment", "web"])["status"]["replicas"],
        2
    );
    // And the other way round.
    kubectl.ok(&[
        "patch",
        "deployment",
        "web",
        "--subresource=status",
        "--type=merge",
        "--patch",
        r#"{"spec":{"replicas":9}}"#,
    ]);
    assert_eq!(
        kubectl.json(&["get", "deployment", "web"])["spec"]["replicas"],
        2
    );
    kubectl.until(
        "deployment/web",
        "/status/readyReplicas",
        "2",
        Duration::from_secs(30),
    );
}

#[test]
fn generations_count_changes_of_the_specification_only() {
    let cluster = Cluster::namespace("generation");
    let kubectl = &cluster.kubectl;
    kubectl.apply(&manifests::echo_deployment("web", 0));
    let generation =
        || kubectl.json(&["get", "deployment", "web"])["metadata"]["generation"].as_u64();
    assert_eq!(generation(), Some(1));
    kubectl.ok(&["label", "deployment", "web", "x=y"]);
    assert_eq!(generation(), Some(1));
    kubectl.ok(&["scale", "deployment", "web", "--replicas=1"]);
    assert_eq!(generation(), Some(2));
    kubectl.until(
        "deployment/web",
        "/status/observedGeneration",
        "2",
        Duration::from_secs(20),
    );
}
