// SPDX-License-Identifier: Apache-2.0
//! How fast creations are. Figures are for a release build: `cargo test --release -p knarr-apiserver -- --ignored --nocapture`.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::server;

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
