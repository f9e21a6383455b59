// SPDX-License-Identifier: Apache-2.0
//! How fast creations, reads and watches are. Figures are for a release build: `cargo test --release -p knarr-apiserver -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::json;

use crate::server;
use crate::watches::Watch;

/// Creations at once, as many busy controllers would have.
const WRITERS: usize = 64;
const PODS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement for a release build, not a check"]
async fn durable_creations_per_second() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        tasks.spawn(async move {
            for n in 0..PODS / WRITERS {
                let pod: Pod = serde_json::from_value(json!({
                    "metadata": {"name": format!("p-{writer}-{n}"), "namespace": "default", "labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}]}]},
                }))
                .expect("a Pod");
                client.create(&pod).await.expect("created");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("the task ends");
    }
    let created = started.elapsed();
    client.sync().await.expect("in time");
    println!(
        "{:.0} durable creations/s, cache caught up {:.1} ms later",
        PODS as f64 / created.as_secs_f64(),
        (started.elapsed() - created).as_secs_f64() * 1000.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement for a release build, not a check"]
async fn durable_creations_per_second_over_http() {
    let (server, _directory) = server().await;
    let server = Arc::new(server);
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let server = Arc::clone(&server);
        tasks.spawn(async move {
            let mut connection = server.connect(Some("admin")).await;
            for n in 0..PODS / WRITERS {
                let pod = json!({
                    "metadata": {"name": format!("p-{writer}-{n}"), "labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "x:1", "ports": [{"containerPort": 80}]}]},
                });
                let request = http::Request::post("/api/v1/namespaces/default/pods")
                    .header("host", "127.0.0.1")
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(pod.to_string())))
                    .expect("a request");
                let response = connection.send_request(request).await.expect("a response");
                assert_eq!(response.status(), 201);
                response.into_body().collect().await.expect("a body");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("the task ends");
    }
    println!(
        "{:.0} durable creations/s over HTTP, clients in the same process",
        PODS as f64 / started.elapsed().as_secs_f64()
    );
}

/// Reads of the test below.
const GETS: usize = 625 * WRITERS;
/// Lists of all objects of the test below.
const LISTS: usize = 8 * WRITERS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement for a release build, not a check"]
async fn reads_per_second_over_http() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    for n in 0..WRITERS {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": format!("m{n}"), "namespace": "default"},
            "data": {"text": "x".repeat(512)},
        }))
        .expect("a ConfigMap");
        client.create(&map).await.expect("created");
    }
    let server = Arc::new(server);
    for (what, count) in [("gets", GETS), ("lists of 64", LISTS)] {
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for reader in 0..WRITERS {
            let server = Arc::clone(&server);
            let path = match what {
                "gets" => format!("/api/v1/namespaces/default/configmaps/m{reader}"),
                _ => "/api/v1/namespaces/default/configmaps".to_owned(),
            };
            tasks.spawn(async move {
                let mut connection = server.connect(Some("admin")).await;
                for _ in 0..count / WRITERS {
                    let request = http::Request::get(&path)
                        .header("host", "127.0.0.1")
                        .body(Full::new(Bytes::new()))
                        .expect("a request");
                    let response = connection.send_request(request).await.expect("a response");
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.expect("a body");
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("the task ends");
        }
        println!(
            "{:.0} {what}/s over HTTP, clients in the same process",
            count as f64 / started.elapsed().as_secs_f64()
        );
    }
}

/// Watches that are open at once.
const WATCHERS: usize = 1000;
/// Changes that each of them sees.
const CHANGES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement for a release build, not a check"]
async fn delivery_to_a_thousand_watchers() {
    let (server, _directory) = server().await;
    let mut tasks = tokio::task::JoinSet::new();
    let path = "/api/v1/namespaces/default/configmaps?watch=true";
    for _ in 0..WATCHERS {
        let mut watch = Watch::open(&server, path, "application/json").await;
        tasks.spawn(async move {
            let mut seen = Vec::with_capacity(CHANGES);
            for _ in 0..CHANGES {
                watch.next().await.expect("an event");
                seen.push(Instant::now());
            }
            seen
        });
    }
    let client = server.api.client();
    let mut sent = Vec::with_capacity(CHANGES);
    for n in 0..CHANGES {
        let map: ConfigMap = serde_json::from_value(
            json!({"metadata": {"name": format!("m{n}"), "namespace": "default"}}),
        )
        .expect("a ConfigMap");
        client.create(&map).await.expect("created");
        sent.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut delays: Vec<f64> = Vec::new();
    while let Some(seen) = tasks.join_next().await {
        for (seen, sent) in seen.expect("the task ends").iter().zip(&sent) {
            delays.push(seen.saturating_duration_since(*sent).as_secs_f64() * 1000.0);
        }
    }
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!(
        "delivery to {WATCHERS} watchers after the acknowledgement: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
