// SPDX-License-Identifier: Apache-2.0
//! Tests of what changes of nodes leave for the loop.

use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::Node;
use tokio_util::sync::CancellationToken;

use super::super::tests::world::{Api, until};
use super::*;
use crate::informer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_ends_its_departure_although_no_pod_is_looked_at() {
    let api = Api::new().await;
    let shutdown = CancellationToken::new();
    let homeless = Homeless::default();
    let pods = informer::start(
        api.client.cache_of::<Pod>().unwrap(),
        shutdown.clone(),
        |object| Some(PodView::of(&object.parse::<Pod>().ok()?)),
        |_| {},
    );
    let told = homeless.clone();
    let nodes = informer::start(
        api.client.cache_of::<Node>().unwrap(),
        shutdown.clone(),
        NodeView::of,
        move |changed| node_changed(&told, &pods, &changed),
    );
    let minute_ago = clock::now() - Duration::from_secs(60);
    let departed = |now| locked(&homeless.departures).since("node-1", |_| true, now);
    assert_eq!(departed(minute_ago), minute_ago);
    let mut node = Node::default();
    node.metadata.name = Some("node-1".to_owned());
    api.client.create(&node).await.unwrap();
    until("the node is seen", async || {
        nodes.view(&NamespacedName::cluster("node-1")).is_some()
    })
    .await;
    nodes.catch_up().await;
    let now = clock::now();
    assert_eq!(departed(now), now);
    shutdown.cancel();
}
