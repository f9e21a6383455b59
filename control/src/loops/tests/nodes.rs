// SPDX-License-Identifier: Apache-2.0
//! Pods and nodes: who goes where, and what a silent node means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use knarr_api::k8s_openapi::api::core::v1::{Node, Pod};
use knarr_apiserver::Patch;
use serde_json::json;

use super::world::{World, until};
use super::{available, deployment, endpoint_addresses, pods_on, reasons, scale, service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_loses_its_pods_and_is_used_again_when_it_is_back() {
    let world = World::with_grace(Duration::from_secs(2)).await;
    world.node("node-1").await;
    world.node("node-2").await;
    world.client.create(&service("web")).await.unwrap();
    world
        .client
        .create(&deployment("web", 4, "v1"))
        .await
        .unwrap();
    until("four pods are endpoints", async || {
        endpoint_addresses(&world, "web").await.len() == 4
    })
    .await;
    world.set_dead("node-2");
    until("its pods are replaced on the other node", async || {
        pods_on(&world).await == BTreeMap::from([("node-1".to_owned(), 4)])
            && endpoint_addresses(&world, "web").await.len() == 4
    })
    .await;
    let node: Node = world.client.get(None, "node-2").await.unwrap();
    let taints: BTreeSet<_> = node
        .spec
        .unwrap()
        .taints
        .unwrap()
        .into_iter()
        .map(|taint| (taint.key, taint.effect))
        .collect();
    let unreachable = "node.kubernetes.io/unreachable".to_owned();
    assert_eq!(
        taints,
        BTreeSet::from([
            (unreachable.clone(), "NoExecute".to_owned()),
            (unreachable, "NoSchedule".to_owned())
        ])
    );
    assert!(reasons(&world).await.contains("NodeNotReady"));
    // The machine is back and reports itself.
    world.set_alive("node-2");
    mark_ready(&world, "node-2").await;
    until("its taints are gone and its old pods too", async || {
        let node: Node = world.client.get(None, "node-2").await.unwrap();
        let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
        node.spec
            .and_then(|spec| spec.taints)
            .is_none_or(|taints| taints.is_empty())
            && pods.len() == 4
    })
    .await;
    scale(&world, "web", 8).await;
    until("new pods use it", async || {
        pods_on(&world).await.get("node-2").copied() == Some(4)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_single_silent_node_are_not_evicted() {
    let world = World::with_grace(Duration::from_secs(1)).await;
    world.node("node-1").await;
    world
        .client
        .create(&deployment("web", 2, "v1"))
        .await
        .unwrap();
    until("two pods are available", async || {
        available(&world, "web").await == 2
    })
    .await;
    world.set_dead("node-1");
    until("the pods are not ready", async || {
        world.ready_pods().await.is_empty()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
    assert_eq!(pods.len(), 2);
    assert!(
        pods.iter()
            .all(|pod| pod.metadata.deletion_timestamp.is_none())
    );
    // The node was there all the time: it is heard again, and says nothing about its pods.
    world.set_heard("node-1");
    mark_ready(&world, "node-1").await;
    until("the pods are ready again", async || {
        world.ready_pods().await.len() == 2
    })
    .await;
}

/// What the feed writes when a node is heard again.
async fn mark_ready(world: &World, node: &str) {
    let patch = Patch::Strategic(json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "False"},
        {"type": "DiskPressure", "status": "False"}, {"type": "PIDPressure", "status": "False"}]}}));
    let patched = world
        .client
        .patch::<Node>(None, node, &patch, Some("status"))
        .await;
    assert!(patched.is_ok(), "{patched:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_fits_nowhere_says_why_and_starts_when_there_is_room() {
    let world = World::new().await;
    world.node("node-1").await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "picky", "namespace": "default"},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "node-2"}, "containers": [{"name": "c", "image": "v1"}]},
    }))
    .unwrap();
    world.client.create(&pod).await.unwrap();
    let wanted = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    until("its condition says why", async || {
        let pod: Pod = world.client.get(Some("default"), "picky").await.unwrap();
        let conditions = pod
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        conditions
            .iter()
            .any(|c| c.type_ == "PodScheduled" && c.message.as_deref() == Some(wanted))
    })
    .await;
    until("an event says so too", async || {
        reasons(&world).await.contains("FailedScheduling")
    })
    .await;
    world.node("node-2").await;
    until("it runs", async || world.ready_pods().await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_has_its_own_pod_range_also_after_a_crash() {
    let mut world = World::new().await;
    let ranges = async |world: &World| {
        let nodes: Vec<Node> = world.client.list(None, &Default::default()).await.unwrap();
        let ranges = nodes
            .iter()
            .filter_map(|node| node.spec.as_ref()?.pod_cidr.clone());
        (nodes.len(), ranges.collect::<BTreeSet<_>>().len())
    };
    for round in 0..3 {
        for index in 0..4 {
            world.node(&format!("node-{round}-{index}")).await;
        }
        // The crash comes while ranges are being given.
        world = world.restart().await;
        let wanted = (round + 1) * 4;
        until("each node has a range of its own", async || {
            ranges(&world).await == (wanted, wanted)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_waits_is_told_new_reasons_but_not_for_every_node() {
    let world = World::new().await;
    world.node("node-0").await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "huge", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "v1", "resources": {"requests": {"cpu": "100"}}}]},
    }))
    .unwrap();
    world.client.create(&pod).await.unwrap();
    let reason = async || {
        let pod: Pod = world.client.get(Some("default"), "huge").await.unwrap();
        let conditions = pod.status.and_then(|status| status.conditions);
        let mut conditions = conditions.into_iter().flatten();
        let scheduled = conditions.find(|condition| condition.type_ == "PodScheduled");
        scheduled
            .and_then(|condition| condition.message)
            .unwrap_or_default()
    };
    until("it is told", async || {
        reason().await == "0/1 nodes are available: 1 Insufficient cpu."
    })
    .await;
    let (_, mut changes) = world.client.cache_of::<Pod>().unwrap().watch();
    let started = Instant::now();
    for index in 1..20 {
        world.node(&format!("node-{index}")).await;
    }
    until("it is told anew", async || {
        reason().await == "0/20 nodes are available: 20 Insufficient cpu."
    })
    .await;
    let told = std::iter::from_fn(|| changes.try_next().unwrap()).count();
    // Once in five seconds at most, however many nodes came.
    let most = 1 + usize::try_from(started.elapsed().as_secs() / 5).unwrap();
    assert!(told <= most, "told {told} times");
}
