// SPDX-License-Identifier: Apache-2.0
//! The whole control plane in one process, over real TLS: who gets in, how machines become nodes, what
//! a node is told and what it may report.

mod attack;
mod cluster;
mod kill;
mod memory;
mod nodes;

use std::time::{Duration, Instant};

use http::StatusCode;
use knarr_api::feed::{ObjectSet, change};
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use cluster::{Cluster, Identity};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_may_ask_for_health_and_version_and_nothing_else() {
    let cluster = Cluster::start().await;
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        let (status, _) = cluster.get(&Identity::Nobody, path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
    }
    for path in ["/api", "/apis", "/api/v1/pods", "/metrics", "/openapi/v2"] {
        let (status, body) = cluster.get(&Identity::Nobody, path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: {body}");
    }
    let (status, body) = cluster
        .get(&Identity::Bearer("nonsense".to_owned()), "/api/v1/pods")
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_finds_the_namespaces_and_the_kubernetes_service() {
    let cluster = Cluster::start().await;
    let namespaces = cluster.list("/api/v1/namespaces").await;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(namespaces.contains(&name.to_owned()), "{namespaces:?}");
    }
    let (_, service) = cluster
        .get(
            &Identity::Admin,
            "/api/v1/namespaces/default/services/kubernetes",
        )
        .await;
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    let (_, endpoints) = cluster
        .get(
            &Identity::Admin,
            "/api/v1/namespaces/default/endpoints/kubernetes",
        )
        .await;
    assert_eq!(
        endpoints["subsets"][0]["addresses"][0]["ip"], "10.0.0.5",
        "{endpoints}"
    );
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let (_, slice) = cluster.get(&Identity::Admin, path).await;
    assert_eq!(slice["ports"][0]["port"], cluster.address.port(), "{slice}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_with_a_token_and_its_certificate_opens_the_feed_only() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let (status, body) = cluster.get(&node, "/api/v1/pods").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{body}");
    let (status, _) = cluster.get(&node, "/metrics").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let session = cluster.connect("node-1", &node).await;
    assert!(!session.welcome.resumed);
    assert_eq!(session.welcome.service_cidrs, ["10.96.0.0/12"]);
    assert_eq!(session.welcome.node_port_first, 30000);
    let nodes = cluster.list("/api/v1/nodes").await;
    assert_eq!(nodes, ["node-1"]);
    // Without a node's certificate there is no feed.
    for identity in [Identity::Nobody, Identity::Admin] {
        let refused = cluster.try_connect("node-1", &identity).await.err();
        let refused = refused.expect("no feed for others");
        assert!(
            matches!(
                refused.code(),
                tonic::Code::Unauthenticated | tonic::Code::PermissionDenied
            ),
            "{refused}"
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_wrong_expired_or_unknown_let_nobody_in() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let wrong = format!("{}x", &token[..token.len() - 1]);
    let error = cluster.join("node-1", &wrong).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unauthenticated);
    assert!(error.message().contains("knarr-control token create"));
    let ended = minutes_ago(1);
    let expired = cluster.token(json!({"expiration": ended})).await;
    let error = cluster.join("node-1", &expired).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unauthenticated);
    let said = format!("expired at {ended}");
    assert!(error.message().contains(&said), "{error}");
    let error = cluster.join("node-1", "nonsense").await.unwrap_err();
    assert!(error.message().contains("abcdef.0123456789abcdef"));
    let error = cluster.join("Node_1", &token).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    cluster.stop().await;
}

/// As Kubernetes writes a time, to the second.
fn minutes_ago(minutes: i64) -> String {
    let time = Timestamp::now() - SignedDuration::from_mins(minutes);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ended_long_ago_is_removed_and_others_stay() {
    let cluster = Cluster::start().await;
    let name = |token: &str| format!("bootstrap-token-{}", &token[..6]);
    let mut stay = Vec::new();
    for more in [
        json!({}),
        json!({"expiration": minutes_ago(30)}),
        json!({"expiration": minutes_ago(-30)}),
    ] {
        stay.push(name(&cluster.token(more).await));
    }
    // The last one, so that its turn comes after that of the others.
    let old = name(&cluster.token(json!({"expiration": minutes_ago(61)})).await);
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let secrets = cluster.list(secrets).await;
        for name in &stay {
            assert!(secrets.contains(name), "{name} is gone: {secrets:?}");
        }
        if !secrets.contains(&old) {
            break;
        }
        assert!(Instant::now() < end, "{old} is still there: {secrets:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_cannot_take_the_place_of_a_node_that_lives() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let session = cluster.connect("node-1", &node).await;
    let error = cluster.join("node-1", &token).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    assert!(error.message().contains("--node-name"), "{error}");
    drop(session);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_renews_its_certificate_for_itself() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let session = cluster.connect("node-1", &node).await;
    let renewed = cluster.renew("node-1", &node).await.unwrap();
    drop(session);
    let again = cluster.connect("node-1", &renewed).await;
    drop(again);
    let error = cluster.renew("node-1", &Identity::Admin).await.unwrap_err();
    assert_ne!(error.code(), tonic::Code::Ok);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_told_of_its_own_pods_and_what_they_need_and_of_no_others() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let one = cluster.join("node-1", &token).await.unwrap();
    let two = cluster.join("node-2", &token).await.unwrap();
    let mut first = cluster.connect("node-1", &one).await;
    let mut second = cluster.connect("node-2", &two).await;
    first.snapshot().await;
    second.snapshot().await;
    cluster
        .post(
            "/api/v1/namespaces/default/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}}),
        )
        .await;
    let pod = cluster.create_pod("web", "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let seen = first
        .until(|change| matches!(change, change::Change::PodSet(set) if set.uid == uid))
        .await;
    assert!(
        seen.iter().any(|change| matches!(
            change,
            change::Change::ObjectSet(ObjectSet { kind, name, .. }) if kind == "ConfigMap" && name == "settings"
        )),
        "{seen:?}"
    );
    let nothing = second.quiet(Duration::from_millis(300)).await;
    assert!(
        !nothing.iter().any(|change| matches!(
            change,
            change::Change::PodSet(_) | change::Change::ObjectSet(_)
        )),
        "{nothing:?}"
    );
    // Node 2 reports about a pod of node 1: nothing changes.
    second.report_running("default", "web", &uid).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.phase("web").await, "Pending");
    first.report_running("default", "web", &uid).await;
    cluster.until_phase("web", "Running").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_where_it_was_and_starts_anew_after_a_restart() {
    let mut cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    let (epoch, version) = (session.welcome.epoch.clone(), session.version);
    drop(session);
    cluster.create_pod("while-away", "node-1").await;
    let mut resumed = cluster
        .connect_from("node-1", &node, &epoch, version)
        .await
        .unwrap();
    assert!(resumed.welcome.resumed);
    resumed
        .until(|change| matches!(change, change::Change::PodSet(_)))
        .await;
    drop(resumed);
    cluster.restart().await;
    let anew = cluster
        .connect_from("node-1", &node, &epoch, version)
        .await
        .unwrap();
    assert!(!anew.welcome.resumed);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart_and_a_second_start_writes_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.create_pod("kept", "").await;
    cluster.restart().await;
    assert_eq!(cluster.phase("kept").await, "Pending");
    cluster.restart().await;
    // Settled: an idle control plane leaves the store alone.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = cluster.metric("knarr_store_commits_total").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.metric("knarr_store_commits_total").await, before);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_come_over_the_agents_own_connection() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    let pod = cluster.create_pod("web", "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    session.until_told_of(&uid).await;
    session.report_running("default", "web", &uid).await;
    cluster.until_phase("web", "Running").await;
    let path = "/api/v1/namespaces/default/pods/web/log?tailLines=5";
    let answering = session.answer_one_log(&cluster, &node, b"hello\nworld\n");
    let (asked, answer) = tokio::join!(answering, cluster.get_text(&Identity::Admin, path));
    assert_eq!(asked.tail_lines, Some(5));
    assert_eq!(
        (asked.pod.as_str(), asked.uid.as_str()),
        ("web", uid.as_str())
    );
    assert_eq!(answer, (StatusCode::OK, "hello\nworld\n".to_owned()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_heartbeat_is_a_version_of_the_lease_and_an_event_without_a_write() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1";
    let read = async || cluster.get(&Identity::Admin, path).await.1;
    let version = |lease: &Value| -> u64 {
        let version = lease["metadata"]["resourceVersion"].as_str();
        version
            .and_then(|text| text.parse().ok())
            .expect("a version")
    };
    let first = read().await;
    assert!(first["spec"]["renewTime"].is_string(), "{first}");
    let (_, owner) = cluster.get(&Identity::Admin, "/api/v1/nodes/node-1").await;
    assert_eq!(
        first["metadata"]["ownerReferences"],
        json!([{
            "apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": owner["metadata"]["uid"],
        }])
    );
    // The first one reserves versions for those that follow.
    session.heartbeat().await;
    let mut known = first.clone();
    while version(&known) == version(&first) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        known = read().await;
    }
    let before = cluster.metric("knarr_store_commits_total").await;
    let start = version(&known);
    for _ in 0..20 {
        session.heartbeat().await;
        let last = known.clone();
        while version(&known) == version(&last) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            known = read().await;
        }
        assert!(version(&known) > version(&last));
        assert_ne!(known["spec"]["renewTime"], last["spec"]["renewTime"]);
    }
    assert_eq!(cluster.metric("knarr_store_commits_total").await, before);
    // A watch that starts before them is told of each.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let watch = format!("{leases}?watch=true&timeoutSeconds=1&resourceVersion={start}");
    let (_, told) = cluster.get_text(&Identity::Admin, &watch).await;
    assert_eq!(told.matches("\"type\":\"MODIFIED\"").count(), 20, "{told}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_that_changes_is_one_small_message() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    cluster
        .post(
            "/api/v1/namespaces/default/services",
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
            }),
        )
        .await;
    session
        .until(|change| matches!(change, change::Change::ServiceSet(set) if set.name == "web"))
        .await;
    for (name, address) in [("web-1", "10.244.0.2"), ("web-2", "10.244.0.3")] {
        let pod = cluster.create_pod(name, "node-1").await;
        let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
        session.until_told_of(&uid).await;
        session
            .report_running_at("default", name, &uid, address)
            .await;
        let changes = session
            .until(|change| matches!(change, change::Change::EndpointSet(set) if set.address == address && set.ready))
            .await;
        let endpoints: Vec<_> = changes
            .iter()
            .filter_map(|change| match change {
                change::Change::EndpointSet(set) => Some(set.address.as_str()),
                _ => None,
            })
            .collect();
        assert!(
            endpoints.iter().all(|changed| *changed == address),
            "only what changed is told: {endpoints:?}"
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_goes_when_its_node_says_that_it_is_gone_and_not_for_another_node() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let one = cluster.join("node-1", &token).await.unwrap();
    let two = cluster.join("node-2", &token).await.unwrap();
    let mut first = cluster.connect("node-1", &one).await;
    let mut second = cluster.connect("node-2", &two).await;
    first.snapshot().await;
    second.snapshot().await;
    let pod = cluster.create_pod("web", "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    first.until_told_of(&uid).await;
    first.report_running("default", "web", &uid).await;
    cluster.until_phase("web", "Running").await;
    let path = "/api/v1/namespaces/default/pods/web";
    cluster.delete(path).await;
    first
        .until(|change| match change {
            change::Change::PodSet(set) => {
                let pod: Value = serde_json::from_slice(&set.pod_json).unwrap();
                pod["metadata"]["deletionTimestamp"].is_string()
            }
            _ => false,
        })
        .await;
    second.report_gone("default", "web", &uid).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.phase("web").await, "Running");
    // What the node said of the pod before its end is kept, although the pod goes meanwhile.
    let words = 30;
    for number in 0..words {
        let event = json!({
            "metadata": {"namespace": "default", "name": format!("web.{number}")},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": uid},
            "reason": "Killing",
            "type": "Normal",
        });
        first.report_event(event).await;
    }
    first.report_gone("default", "web", &uid).await;
    first
        .until(|change| matches!(change, change::Change::PodRemove(gone) if gone.uid == uid))
        .await;
    let (status, _) = cluster.get(&Identity::Admin, path).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let kept = async {
        let told = |names: &[String]| names.iter().filter(|n| n.starts_with("web.")).count();
        while told(&cluster.list("/api/v1/namespaces/default/events").await) < words {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), kept)
        .await
        .expect("every event of the pod is kept");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_has_ended_does_not_run_again() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    let pod = cluster.create_pod("job", "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    session.until_told_of(&uid).await;
    session
        .report_phase("default", "job", &uid, "Succeeded")
        .await;
    cluster.until_phase("job", "Succeeded").await;
    session.report_running("default", "job", &uid).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(cluster.phase("job").await, "Succeeded");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_cannot_be_written_is_counted_and_ends_nothing() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("n1", &token).await.unwrap();
    let session = cluster.connect("n1", &node).await;
    let event = |namespace: &str, name: &str| {
        json!({
            "metadata": {"namespace": namespace, "name": name},
            "involvedObject": {"kind": "Node", "name": "n1"},
            "reason": "Rebooted",
            "type": "Warning",
        })
    };
    assert_eq!(cluster.metric("knarr_feed_events_lost_total").await, 0.0);
    session.report_event(event("nowhere", "lost")).await;
    session.report_event(event("default", "kept")).await;
    let both = async {
        while cluster.metric("knarr_feed_events_lost_total").await != 1.0
            || !cluster
                .list("/api/v1/namespaces/default/events")
                .await
                .contains(&"kept".to_owned())
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("one event lost and counted, the other kept");
    cluster.stop().await;
}
