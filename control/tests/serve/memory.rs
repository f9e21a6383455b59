// SPDX-License-Identifier: Apache-2.0
//! Memory comes back: many small Services are made, told to nodes and deleted, and the program is as small as before.

use std::time::{Duration, Instant};

use futures::future::join_all;
use http::Method;
use serde_json::json;

use super::cluster::{Cluster, Identity};
use super::kill::ask;

/// As many as a build without optimization makes in some twenty seconds. Small ones, since what stays behind of them is
/// places of small objects in pages that are otherwise empty, and room in tables.
const SERVICES: usize = 4_000;
/// Endpoints of each.
const ENDPOINTS: usize = 3;
const WRITERS: usize = 6;
/// Their addresses fit in here.
const SERVICE_CIDR: &str = "10.96.0.0/18";
/// Beyond what it had, in bytes, within this time after the deletion: its caches of bounded size are full then.
const LEFT_MAX: u64 = 10 << 20;
const WITHIN: Duration = Duration::from_secs(60);
/// The longest that the deletion of all of them takes on a busy machine.
const DELETED_WITHIN: Duration = Duration::from_secs(120);

async fn make(cluster: &Cluster, writer: usize) {
    let mut connection = cluster.admin_connection().await.unwrap();
    for n in (writer..SERVICES).step_by(WRITERS) {
        let name = format!("s{n}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name},
            "spec": {"ports": [{"port": 80}]},
        });
        let endpoints: Vec<_> = (0..ENDPOINTS)
            .map(|e| json!({"addresses": [format!("10.244.{e}.{}", n % 250)]}))
            .collect();
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}],
        });
        for (path, body) in [
            ("/api/v1/namespaces/many/services", service),
            (
                "/apis/discovery.k8s.io/v1/namespaces/many/endpointslices",
                slice,
            ),
        ] {
            ask(&mut connection, Method::POST, path, Some(body))
                .await
                .expect("created");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_comes_back_after_many_services_are_deleted() {
    let cluster = Cluster::start_process_with(SERVICE_CIDR).await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    let before = cluster.anonymous_bytes();

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "many"}});
    cluster.post("/api/v1/namespaces", namespace).await;
    join_all((0..WRITERS).map(|writer| make(&cluster, writer))).await;
    // A node that connects now is sent everything.
    drop(session);
    let mut session = cluster.connect("node-1", &node).await;
    let told = session.snapshot().await;
    assert!(told.len() >= SERVICES * (1 + ENDPOINTS), "{}", told.len());
    drop(told);
    let full = cluster.anonymous_bytes();
    assert!(
        full > before + LEFT_MAX * 2,
        "{before} bytes before, {full} with {SERVICES} Services: too few to show anything"
    );

    cluster.delete("/api/v1/namespaces/many").await;
    let path = "/api/v1/namespaces/many";
    let deadline = Instant::now() + DELETED_WITHIN;
    while cluster.get(&Identity::Admin, path).await.0 != 404 {
        assert!(Instant::now() < deadline, "the namespace is not gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let deadline = Instant::now() + WITHIN;
    loop {
        let left = cluster.anonymous_bytes();
        if left <= before + LEFT_MAX {
            println!("{before} bytes before, {full} with the Services, {left} after");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{before} bytes before, {full} with the Services, {left} after {WITHIN:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    drop(session);
    cluster.stop().await;
}
