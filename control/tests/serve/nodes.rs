// SPDX-License-Identifier: Apache-2.0
//! What a node may not do: take another's name, say what is not its own to say; and what keeps it out.

use std::time::Duration;

use http::StatusCode;
use knarr_api::feed::change;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Identity};

const EVENTS: &str = "/api/v1/namespaces/default/events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_start_a_token_waits_for_the_node_that_was_alive_before_it() {
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let session = cluster.connect("node-1", &node).await;
    drop(session);
    cluster.restart().await;
    let refused = cluster.join("node-1", &token).await.unwrap_err();
    // On this code the agent asks again by itself.
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    for what_to_do in [
        "s left to connect again",
        "--node-name",
        "kubectl delete node node-1",
    ] {
        assert!(refused.message().contains(what_to_do), "{refused}");
    }
    cluster.join("node-2", &token).await.unwrap();
    cluster.delete("/api/v1/nodes/node-1").await;
    cluster.join("node-1", &token).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_node_takes_its_certificates_back_for_good() {
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let first = cluster.join("node-1", &token).await.unwrap();
    let other = cluster.join("node-2", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &first).await;
    let renewed = cluster.renew("node-1", &first).await.unwrap();
    let mut bystander = cluster.connect("node-2", &other).await;
    bystander.snapshot().await;
    cluster.delete("/api/v1/nodes/node-1").await;
    let ended = session.until_ended().await;
    assert_eq!(ended.code(), tonic::Code::PermissionDenied, "{ended}");
    assert!(ended.message().contains("was deleted"), "{ended}");
    refused(&cluster, &[&first, &renewed]).await;
    assert_eq!(cluster.list("/api/v1/nodes").await, ["node-2"]);

    // Neither a start of the control plane nor a Node of the same name brings them back.
    drop((session, bystander));
    cluster.restart().await;
    refused(&cluster, &[&first, &renewed]).await;
    let by_hand = json!({"metadata": {"name": "node-1"}});
    cluster.post("/api/v1/nodes", by_hand).await;
    refused(&cluster, &[&first, &renewed]).await;

    // A token does, for the machine that has it and for no certificate of before.
    let again = cluster.join("node-1", &token).await.unwrap();
    let session = cluster.connect("node-1", &again).await;
    refused(&cluster, &[&first, &renewed]).await;
    drop((session, cluster.connect("node-2", &other).await));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_machine_shuts_out_no_successor_and_sends_no_large_renewal() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let denied = cluster.join("node-1", &token).await.unwrap();
    cluster.control(&["node", "deny", "node-1"]).await;
    let successor = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &successor).await;
    session.snapshot().await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let socket = tokio::net::TcpStream::connect(cluster.address)
            .await
            .unwrap();
        let tls = cluster.tls(&denied, "h2");
        held.push(tls.connect("localhost".try_into().unwrap(), socket).await);
    }
    let pod = cluster.create_pod("beside", "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    session
        .until(|change| matches!(change, knarr_api::feed::change::Change::PodSet(set) if set.uid == uid))
        .await;
    drop(held);
    for identity in [&denied, &successor] {
        let large = "x".repeat(20 * 1024);
        let refused = cluster.renew_with(identity, large).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_node_is_cut_off_and_comes_back_with_a_token() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    cluster.control(&["node", "deny", "node-1"]).await;
    let ended = session.until_ended().await;
    assert_eq!(ended.code(), tonic::Code::PermissionDenied, "{ended}");
    assert!(ended.message().contains("taken back"), "{ended}");
    refused(&cluster, &[&node]).await;
    // Its Node is there still, for those who look after its pods.
    assert_eq!(cluster.list("/api/v1/nodes").await, ["node-1"]);
    let again = cluster.join("node-1", &token).await.unwrap();
    let renewed = cluster.renew("node-1", &again).await.unwrap();
    drop(cluster.connect("node-1", &renewed).await);
    cluster.stop().await;
}

/// No call of a node is answered to these certificates.
async fn refused(cluster: &Cluster, certificates: &[&Identity]) {
    for certificate in certificates {
        let refusals = [
            cluster.renew("node-1", certificate).await.unwrap_err(),
            cluster
                .try_connect("node-1", certificate)
                .await
                .unwrap_err(),
        ];
        for refusal in refusals {
            assert_eq!(refusal.code(), tonic::Code::PermissionDenied, "{refusal}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_replaces_its_own_events_and_nobody_elses() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let one = cluster.join("node-1", &token).await.unwrap();
    let two = cluster.join("node-2", &token).await.unwrap();
    let first = cluster.connect("node-1", &one).await;
    let second = cluster.connect("node-2", &two).await;
    let event = |name: &str, node: &str, reason: &str| {
        json!({
            "metadata": {
                "namespace": "default", "name": name,
                "labels": {"a": "b"}, "finalizers": ["example.com/keep"],
            },
            "involvedObject": {"kind": "Node", "name": node, "uid": node},
            "reason": reason,
            "type": "Normal",
            "source": {"component": "kubelet", "host": "somewhere"},
        })
    };
    let mut of_admin = event("precious", "node-1", "Kept");
    of_admin["metadata"]["finalizers"] = json!([]);
    cluster.post(EVENTS, of_admin).await;
    second.report_event(event("second", "node-2", "Kept")).await;
    until_reason(&cluster, "second", "Kept").await;
    first
        .report_event(event("precious", "node-1", "Stolen"))
        .await;
    first
        .report_event(event("second", "node-1", "Stolen"))
        .await;
    first.report_event(event("own", "node-1", "Once")).await;
    first.report_event(event("own", "node-1", "Twice")).await;
    // Events of different names are written side by side, each behind some of these: then all of them have been.
    for number in 0..40 {
        let name = format!("later-{number}");
        first.report_event(event(&name, "node-1", "Later")).await;
    }
    for number in 0..40 {
        until_reason(&cluster, &format!("later-{number}"), "Later").await;
    }
    let own = until_reason(&cluster, "own", "Twice").await;
    assert_eq!(
        own["source"],
        json!({"component": "kubelet", "host": "node-1"})
    );
    assert_eq!(own["reportingInstance"], "node-1");
    for dropped in ["labels", "finalizers"] {
        assert!(own["metadata"].get(dropped).is_none(), "{own}");
    }
    for kept in ["precious", "second"] {
        until_reason(&cluster, kept, "Kept").await;
    }
    cluster.stop().await;
}

async fn until_reason(cluster: &Cluster, name: &str, reason: &str) -> Value {
    let path = format!("{EVENTS}/{name}");
    let seen = async {
        loop {
            let (status, event) = cluster.get(&Identity::Admin, &path).await;
            if status == StatusCode::OK && event["reason"] == reason {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .unwrap_or_else(|_| panic!("{name} is not {reason}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gives_itself_no_role_and_keeps_those_it_was_given() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    cluster
        .post(
            "/api/v1/nodes",
            json!({"metadata": {"name": "node-1", "labels": {"node-role.kubernetes.io/worker": ""}}}),
        )
        .await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let metadata = json!({
        "name": "node-1",
        "labels": {
            "kubernetes.io/hostname": "node-2",
            "node-role.kubernetes.io/control-plane": "",
            "example.com/disk": "ssd",
        },
        "annotations": {"a": "b", "knarr.io/certificates-since": "2000-01-01T00:00:00Z"},
        "finalizers": ["example.com/keep"],
    });
    let session = cluster.connect_as(&node, metadata).await.unwrap();
    let (_, found) = cluster.get(&Identity::Admin, "/api/v1/nodes/node-1").await;
    assert_eq!(
        found["metadata"]["labels"],
        json!({
            "node-role.kubernetes.io/worker": "",
            "example.com/disk": "ssd",
            "kubernetes.io/hostname": "node-1",
        })
    );
    let annotations = found["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.len(), 1, "{found}");
    assert_ne!(
        annotations["knarr.io/certificates-since"],
        "2000-01-01T00:00:00Z"
    );
    assert!(found["metadata"].get("finalizers").is_none(), "{found}");
    drop(session);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_node_is_told_of_may_be_unreadable_and_what_it_is_told_of_may_not() {
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    cluster
        .spoil("/registry/apps/deployments/default/spoilt")
        .await;
    drop(cluster.connect("node-1", &node).await);
    cluster.spoil("/registry/pods/default/spoilt").await;
    let refused = cluster.try_connect("node-1", &node).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("cannot be read"), "{refused}");
    cluster.stop().await;
}

/// Waits until as many events about Nodes have been written, and returns message and uid of each.
async fn until_node_events(cluster: &Cluster, wanted: usize) -> Vec<(String, String)> {
    let path = format!("{EVENTS}?fieldSelector=involvedObject.kind=Node,source=node-controller");
    let seen = async {
        loop {
            let (_, list) = cluster.get(&Identity::Admin, &path).await;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            if items.len() >= wanted {
                return items;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .unwrap_or_else(|_| panic!("there are no {wanted} events"));
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let mut told: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event["count"], 1, "{event}");
            (
                text(event, "message"),
                text(&event["involvedObject"], "uid"),
            )
        })
        .collect();
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_are_told_of_once_and_not_by_a_start() {
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let uid_of = async |cluster: &Cluster, name: &str| {
        let path = format!("/api/v1/nodes/{name}");
        let (_, node) = cluster.get(&Identity::Admin, &path).await;
        node["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let came = |name: &str, uid: &str| {
        let text = format!("Node {name} event: Registered Node {name} in Controller");
        (text, uid.to_owned())
    };
    cluster.join("node-1", &token).await.unwrap();
    let first = uid_of(&cluster, "node-1").await;
    let told = until_node_events(&cluster, 1).await;
    assert_eq!(told, [came("node-1", &first)]);
    cluster.restart().await;
    cluster.join("node-2", &token).await.unwrap();
    let second = uid_of(&cluster, "node-2").await;
    let told = until_node_events(&cluster, 2).await;
    assert_eq!(told, [came("node-1", &first), came("node-2", &second)]);
    cluster.delete("/api/v1/nodes/node-1").await;
    let went = "Node node-1 event: Removing Node node-1 from Controller".to_owned();
    let told = until_node_events(&cluster, 3).await;
    let mut wanted = [
        came("node-1", &first),
        came("node-2", &second),
        (went, first),
    ];
    wanted.sort();
    assert_eq!(told, wanted);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_told_that_it_was_cordoned() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let identity = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &identity).await;
    session.snapshot().await;
    cordon(&cluster, true).await;
    session
        .until(|change| matches!(change, change::Change::NodeSet(set) if set.unschedulable))
        .await;
    drop(session);
    let mut session = cluster.connect("node-1", &identity).await;
    let snapshot = session.snapshot().await;
    let said = snapshot.iter().any(
        |change| matches!(&change.change, Some(change::Change::NodeSet(set)) if set.unschedulable),
    );
    assert!(said, "{snapshot:?}");
    cordon(&cluster, false).await;
    session
        .until(|change| matches!(change, change::Change::NodeSet(set) if !set.unschedulable))
        .await;
    cluster.stop().await;
}

/// Sets `spec.unschedulable` of node-1.
async fn cordon(cluster: &Cluster, unschedulable: bool) {
    let patch = json!({"spec": {"unschedulable": unschedulable}});
    cluster.patch("/api/v1/nodes/node-1", patch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_shown_in_the_conditions_of_the_node_without_a_write_and_only_while_they_come()
 {
    const NODE: &str = "/api/v1/nodes/node-1";
    const STATUS: &str = "/api/v1/nodes/node-1/status";
    let old = "2026-01-01T00:00:00Z";
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let identity = cluster.join("node-1", &token).await.unwrap();
    drop(cluster.connect("node-1", &identity).await);
    let patch = json!({"status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": old}]}});
    let aged = cluster.patch(STATUS, patch).await;
    assert_eq!(shown(&aged), old, "{aged}");
    // Neither a start nor a connection is a heartbeat that is shown.
    cluster.restart().await;
    let session = cluster.connect("node-1", &identity).await;
    let (_, node) = cluster.get(&Identity::Admin, NODE).await;
    assert_eq!(shown(&node), old, "{node}");
    // What the connection makes the control plane write is written; the first heartbeat reserves versions.
    session.heartbeat().await;
    let refreshed = until_shown_after(&cluster, old).await;
    let aged = cluster
        .patch(
            STATUS,
            json!({"status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": old}]}}),
        )
        .await;
    assert_eq!(shown(&aged), old);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = cluster.metric("knarr_store_commits_total").await;
    let (_, node) = cluster.get(&Identity::Admin, NODE).await;
    session.heartbeat().await;
    let again = until_shown_after(&cluster, old).await;
    assert!(shown(&again) >= shown(&refreshed), "{again}");
    assert_eq!(cluster.metric("knarr_store_commits_total").await, before);
    // Lists and watches see it as reads do.
    let (_, list) = cluster.get(&Identity::Admin, "/api/v1/nodes").await;
    assert_eq!(shown(&list["items"][0]), shown(&again));
    let version = node["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = format!("/api/v1/nodes?watch=true&timeoutSeconds=1&resourceVersion={version}");
    let (_, told) = cluster.get_text(&Identity::Admin, &watch).await;
    assert_eq!(told.matches("\"type\":\"MODIFIED\"").count(), 1, "{told}");
    assert!(told.contains(shown(&again)), "{told}");
    cluster.stop().await;
}

/// The heartbeat time of the `Ready` condition.
fn shown(node: &Value) -> &str {
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready");
    ready.unwrap()["lastHeartbeatTime"].as_str().unwrap()
}

async fn until_shown_after(cluster: &Cluster, old: &str) -> Value {
    let seen = async {
        loop {
            let (_, node) = cluster.get(&Identity::Admin, "/api/v1/nodes/node-1").await;
            if shown(&node) != old {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .expect("the heartbeat is shown")
}
