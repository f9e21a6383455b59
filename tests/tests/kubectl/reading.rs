// SPDX-License-Identifier: Apache-2.0
//! get, list, watch, selectors, tables, describe: what is there is what is shown.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use knarr_tests::{Cluster, eventually, manifests};
use serde_json::{Value, json};

/// Secrets whose versions together are more than the history of one resource may hold (8 MiB, the API server's
/// `WINDOW_BYTES_MAX`): eight with this many base64 digits each, which is below Kubernetes' 1 MiB of data.
const LARGE_COUNT: usize = 8;
const LARGE_DIGITS: usize = 1_200_000;

fn configs(cluster: &Cluster, count: usize) {
    let all = (0..count)
        .map(|number| {
            json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("c{number:03}"), "labels": {"number": number.to_string(), "parity": if number % 2 == 0 { "even" } else { "odd" }}},
                "data": {"number": number.to_string()},
            })
        })
        .collect();
    cluster.kubectl.apply(&manifests::list(all));
}

fn names(cluster: &Cluster, args: &[&str]) -> Vec<String> {
    cluster
        .kubectl
        .items(args)
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned))
        .filter(|name| name != "kube-root-ca.crt")
        .collect()
}

#[test]
fn selectors_by_label_and_field_choose() {
    let cluster = Cluster::namespace("selectors");
    configs(&cluster, 6);
    for (selector, wanted) in [
        ("parity=even", vec!["c000", "c002", "c004"]),
        ("parity!=even,number", vec!["c001", "c003", "c005"]),
        ("number in (1,2)", vec!["c001", "c002"]),
        ("number notin (0,1,2,3),number", vec!["c004", "c005"]),
        ("!number", vec![]),
    ] {
        assert_eq!(
            names(&cluster, &["get", "configmaps", "--selector", selector]),
            wanted,
            "{selector}"
        );
    }
    assert_eq!(
        names(
            &cluster,
            &[
                "get",
                "configmaps",
                "--field-selector",
                "metadata.name=c003"
            ]
        ),
        ["c003"]
    );
    let refused = cluster.kubectl.refused(
        &["get", "configmaps", "--field-selector", "data.number=3"],
        "",
    );
    assert!(
        refused.contains(r#""data.number" is not a known field selector"#),
        "{refused}"
    );
    let refused = cluster
        .kubectl
        .refused(&["get", "configmaps", "--selector", "=="], "");
    assert!(refused.contains("found"), "{refused}");
}

#[test]
fn long_lists_come_in_pages_that_fit_together() {
    let cluster = Cluster::namespace("pages");
    configs(&cluster, 25);
    let whole = names(&cluster, &["get", "configmaps"]);
    assert_eq!(whole.len(), 25);
    assert_eq!(
        names(&cluster, &["get", "configmaps", "--chunk-size=4"]),
        whole
    );
    let path = format!(
        "/api/v1/namespaces/{}/configmaps?limit=10",
        cluster.namespace
    );
    let mut page = cluster.kubectl.raw(&path);
    let revision = page["metadata"]["resourceVersion"].clone();
    let mut seen = page["items"].as_array().map_or(0, Vec::len);
    // What is written in between is not in the later pages: they show the moment of the first.
    cluster.kubectl.ok(&["create", "configmap", "c999"]);
    while let Some(next) = page["metadata"]["continue"]
        .as_str()
        .filter(|next| !next.is_empty())
        .map(str::to_owned)
    {
        page = cluster.kubectl.raw(&format!("{path}&continue={next}"));
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        seen += page["items"].as_array().map_or(0, Vec::len);
    }
    assert!(
        (25..=26).contains(&seen),
        "{seen} objects, one of which may be the CA's"
    );
    assert!(!page["items"].to_string().contains("c999"));
    let refused = cluster
        .kubectl
        .refused(&["get", "--raw", &format!("{path}&continue=nonsense")], "");
    assert!(refused.contains("continue"), "{refused}");
}

#[test]
fn a_watch_shows_each_change_in_order() {
    let cluster = Cluster::namespace("watch");
    configs(&cluster, 1);
    let mut watch = cluster.kubectl.start(&[
        "get",
        "configmaps",
        "--selector",
        "number",
        "--watch",
        "--output-watch-events",
        "--output",
        "jsonpath={.type} {.object.metadata.name} {.object.data.number}{\"\\n\"}",
    ]);
    let mut lines = BufReader::new(watch.stdout.take().expect("it was asked for"))
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("ADDED c000 0"));
    cluster.kubectl.ok(&[
        "patch",
        "configmap",
        "c000",
        "--type=merge",
        "--patch",
        r#"{"data":{"number":"7"}}"#,
    ]);
    assert_eq!(lines.next().as_deref(), Some("MODIFIED c000 7"));
    cluster.kubectl.ok(&["create", "configmap", "unlabelled"]);
    // It leaves the selection and comes back: for the watcher a deletion and an addition.
    cluster
        .kubectl
        .ok(&["label", "configmap", "c000", "number-"]);
    assert_eq!(lines.next().as_deref(), Some("DELETED c000 7"));
    cluster
        .kubectl
        .ok(&["label", "configmap", "c000", "number=0"]);
    assert_eq!(lines.next().as_deref(), Some("ADDED c000 7"));
    cluster.kubectl.ok(&["delete", "configmap", "c000"]);
    assert_eq!(lines.next().as_deref(), Some("DELETED c000 7"));
    watch.kill().expect("it runs");
    watch.wait().expect("it is ours");
}

#[test]
fn a_watch_from_the_past_replays_it_and_one_from_before_the_history_is_gone() {
    let cluster = Cluster::namespace("old-watch");
    let kubectl = &cluster.kubectl;
    // Secrets, because tests beside this one watch ConfigMaps, whose history is another.
    kubectl.ok(&["create", "secret", "generic", "before"]);
    let version = kubectl.json(&["get", "secret", "before"])["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    let secrets = format!("/api/v1/namespaces/{}/secrets", cluster.namespace);
    let watch = format!("{secrets}?watch=1&resourceVersion={version}&timeoutSeconds=2");
    kubectl.ok(&["create", "secret", "generic", "replayed"]);
    let events: Vec<(String, String)> = kubectl
        .ok(&["get", "--raw", &watch])
        .lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).expect("an event a line");
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (
                text(&event["type"]),
                text(&event["object"]["metadata"]["name"]),
            )
        })
        .collect();
    assert_eq!(events, [("ADDED".to_owned(), "replayed".to_owned())]);

    // The history is bounded; what pushes that version out makes the same watch impossible.
    let digits = "QUFB".repeat(LARGE_DIGITS / 4);
    for number in 0..LARGE_COUNT {
        let large = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("large-{number}")},
            "data": {"a": digits},
        });
        kubectl.ok_with(
            &["create", "--raw", &secrets, "--filename", "-"],
            &large.to_string(),
        );
    }
    // A watch that cannot begin is answered with one event, as kube-apiserver does: informers list again when they see it.
    let answer = kubectl.ok(&["get", "--raw", &watch]);
    let event: Value = serde_json::from_str(&answer).expect("one event");
    assert_eq!(event["type"], "ERROR", "{answer}");
    assert_eq!(event["object"]["code"], 410, "{answer}");
    assert_eq!(event["object"]["reason"], "Expired", "{answer}");
    let message = event["object"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with(&format!("too old resource version: {version} (")),
        "{answer}"
    );
    let refused = kubectl.refused(
        &[
            "get",
            "--raw",
            &format!("{secrets}?watch=1&resourceVersion=nonsense"),
        ],
        "",
    );
    assert!(
        refused.contains(
            "Error from server (BadRequest): resourceVersion: Invalid value: \"nonsense\""
        ),
        "{refused}"
    );
}

#[test]
fn tables_have_kubernetes_columns() {
    let cluster = Cluster::namespace("tables");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 1),
        manifests::echo_service("web"),
    ]));
    cluster.kubectl.rolled_out("web");
    for (args, wanted) in [
        (&["pods"][..], "NAME READY STATUS RESTARTS AGE"),
        (
            &["pods", "--output", "wide"][..],
            "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES",
        ),
        (&["deployments"][..], "NAME READY UP-TO-DATE AVAILABLE AGE"),
        (&["replicasets"][..], "NAME DESIRED CURRENT READY AGE"),
        (
            &["services"][..],
            "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE",
        ),
        (
            &["endpointslices"][..],
            "NAME ADDRESSTYPE PORTS ENDPOINTS AGE",
        ),
        (&["endpoints"][..], "NAME ENDPOINTS AGE"),
        (&["nodes"][..], "NAME STATUS ROLES AGE VERSION"),
        (
            &["nodes", "--output", "wide"][..],
            "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME",
        ),
        (&["namespaces"][..], "NAME STATUS AGE"),
        (&["serviceaccounts"][..], "NAME AGE"),
        (&["configmaps"][..], "NAME DATA AGE"),
        (&["events"][..], "LAST SEEN TYPE REASON OBJECT MESSAGE"),
        (
            &["leases", "--namespace", "kube-node-lease"][..],
            "NAME HOLDER AGE",
        ),
    ] {
        let mut all = vec!["get"];
        all.extend_from_slice(args);
        let text = cluster.kubectl.ok(&all);
        let head = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(head, wanted, "{args:?}");
    }
    let pods = cluster.kubectl.ok(&["get", "pods", "--no-headers"]);
    assert!(pods.contains("1/1") && pods.contains("Running"), "{pods}");
    let services = cluster.kubectl.ok(&["get", "services", "--no-headers"]);
    assert!(
        services.contains("NodePort") && services.contains("82:3") && services.contains("/UDP"),
        "{services}"
    );
    // More than one kind at once, and the word for the usual ones.
    let all = cluster.kubectl.ok(&["get", "all"]);
    for part in [
        "pod/web-",
        "service/web",
        "deployment.apps/web",
        "replicaset.apps/web-",
    ] {
        assert!(all.contains(part), "{part} in {all}");
    }
    assert!(
        cluster
            .kubectl
            .ok(&[
                "get",
                "pods",
                "--sort-by=.metadata.name",
                "--output",
                "custom-columns=A:.metadata.name"
            ])
            .starts_with('A')
    );
    assert!(
        cluster
            .kubectl
            .ok(&["get", "pods", "--show-labels", "--no-headers"])
            .contains("app=web")
    );
    assert!(
        cluster
            .kubectl
            .run(&["get", "secrets"])
            .stderr
            .contains("No resources found")
    );
}

#[test]
fn describe_tells_the_story_with_events() {
    let cluster = Cluster::namespace("describe");
    cluster.kubectl.apply(&manifests::list(vec![
        manifests::echo_deployment("web", 1),
        manifests::echo_service("web"),
    ]));
    cluster.kubectl.rolled_out("web");
    let pod = cluster.kubectl.ok(&["get", "pods", "--output", "name"]);
    eventually("events are listed", Duration::from_secs(20), || {
        let text = cluster.kubectl.ok(&["describe", pod.trim()]);
        let told = ["Scheduled", "Created", "Started"]
            .iter()
            .all(|word| text.contains(word));
        if told { Ok(()) } else { Err(text) }
    });
    let deployment = cluster.kubectl.ok(&["describe", "deployment", "web"]);
    assert!(
        deployment.contains("ScalingReplicaSet") && deployment.contains("Available"),
        "{deployment}"
    );
    eventually(
        "the Service has its endpoint",
        Duration::from_secs(20),
        || {
            let service = cluster.kubectl.ok(&["describe", "service", "web"]);
            if service.contains("Endpoints:") && service.contains("10.244.") {
                Ok(())
            } else {
                Err(service)
            }
        },
    );
    let node = cluster.kubectl.ok(&["describe", "node", "node-1"]);
    assert!(
        node.contains("PodCIDR") && node.contains("Allocatable") && node.contains("KubeletReady"),
        "{node}"
    );
    assert!(
        cluster
            .kubectl
            .ok(&["events", "--for", pod.trim()])
            .contains("Started")
    );
}

#[test]
fn wait_and_rollout_status_end_when_it_is_so() {
    let cluster = Cluster::namespace("wait");
    cluster.kubectl.apply(&manifests::echo_deployment("web", 2));
    cluster.kubectl.ok(&[
        "wait",
        "--for=condition=Available",
        "deployment/web",
        "--timeout=60s",
    ]);
    cluster.kubectl.ok(&[
        "wait",
        "--for=jsonpath={.status.readyReplicas}=2",
        "deployment/web",
        "--timeout=60s",
    ]);
    cluster.kubectl.ok(&[
        "wait",
        "--for=condition=Ready",
        "pod",
        "--selector",
        "app=web",
        "--timeout=60s",
    ]);
    let late = cluster.kubectl.refused(
        &[
            "wait",
            "--for=condition=Never",
            "deployment/web",
            "--timeout=1s",
        ],
        "",
    );
    assert!(late.contains("timed out"), "{late}");
}

#[test]
fn objects_of_all_namespaces_are_listed_together() {
    let (one, two) = (Cluster::namespace("all-one"), Cluster::namespace("all-two"));
    for cluster in [&one, &two] {
        cluster
            .kubectl
            .ok(&["create", "configmap", "here", "--from-literal=x=y"]);
    }
    let everywhere: Vec<Value> = one.kubectl.items(&[
        "get",
        "configmaps",
        "--all-namespaces",
        "--field-selector",
        "metadata.name=here",
    ]);
    let namespaces: Vec<&str> = everywhere
        .iter()
        .filter_map(|item| item["metadata"]["namespace"].as_str())
        .collect();
    assert!(
        namespaces.contains(&one.namespace.as_str())
            && namespaces.contains(&two.namespace.as_str()),
        "{namespaces:?}"
    );
}
