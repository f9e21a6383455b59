// SPDX-License-Identifier: Apache-2.0
//! Pods and nodes: where pods are bound, and what a node without heartbeat means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::future::join_all;
use knarr_api::k8s_openapi::api::core::v1::{Node, Pod};
use knarr_apiserver::Patch;
use serde_json::json;

use super::world::{PATIENCE, World, until};
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
    // The node was there all the time: it sends heartbeats again, and says nothing about its pods.
    world.set_heard("node-1");
    mark_ready(&world, "node-1").await;
    until("the pods are ready again", async || {
        world.ready_pods().await.len() == 2
    })
    .await;
}

/// What the feed writes when a node sends heartbeats again.
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

/// The pod ranges of those nodes that have one, by name.
fn pod_ranges(nodes: &[Node]) -> BTreeMap<String, String> {
    let range = |node: &Node| {
        let range = node.spec.as_ref()?.pod_cidr.clone()?;
        Some((node.metadata.name.clone()?, range))
    };
    nodes.iter().filter_map(range).collect()
}

// On one thread, where the loop that gives ranges cannot run ahead of the test that watches it.
#[tokio::test]
async fn a_node_keeps_its_pod_range_when_a_crash_comes_before_others_have_one() {
    const MORE: usize = 20;
    let mut world = World::new().await;
    for round in 1..=3 {
        let (_, mut changes) = world.client.cache_of::<Node>().unwrap().watch();
        // The first to get their ranges have the last names, so that after the crash the others have their turn before.
        let name = |n| format!("node-{round}-{:02}", MORE - n);
        let names: Vec<_> = (0..MORE).map(name).collect();
        // All at once, so that most of them wait while the first get theirs.
        join_all(names.iter().map(|name| world.node(name))).await;
        let first = async {
            loop {
                let event = changes.next().await.unwrap();
                let node = event.object.parse::<Node>().unwrap();
                let own = pod_ranges(&[node]).into_keys().next();
                if own.is_some_and(|name| names.contains(&name)) {
                    break;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, first).await;
        waited.expect("a range is given");
        let crashed = world.crash().await;
        let stored = crashed.nodes().await;
        let (given, wanted) = (pod_ranges(&stored), round * MORE);
        assert_eq!(stored.len(), wanted);
        assert!(given.keys().any(|name| names.contains(name)), "{given:?}");
        assert!(given.len() < wanted, "no node was left without a range");
        world = crashed.start().await;
        let ranges = async || {
            let nodes: Vec<Node> = world.client.list(None, &Default::default()).await.unwrap();
            pod_ranges(&nodes)
        };
        until("each node has a range", async || {
            ranges().await.len() == wanted
        })
        .await;
        let ranges = ranges().await;
        let distinct: BTreeSet<_> = ranges.values().collect();
        assert_eq!(distinct.len(), wanted, "{ranges:?}");
        for (name, range) in &given {
            assert_eq!(ranges.get(name), Some(range), "of {name}");
        }
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
