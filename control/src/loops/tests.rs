// SPDX-License-Identifier: Apache-2.0
//! The loops together, against a real API server and store in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use knarr_api::k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount,
};
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_apiserver::{DeleteParams, Patch, Propagation};
use serde_json::{Value, json};

mod world;

use world::{World, until};

fn deployment(name: &str, replicas: i32, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    }))
    .unwrap()
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))
    .unwrap()
}

async fn two_nodes() -> World {
    let world = World::new().await;
    world.node("node-1").await;
    world.node("node-2").await;
    world
}

async fn available(world: &World, name: &str) -> i32 {
    let deployment: Deployment = world.client.get(Some("default"), name).await.unwrap();
    let status = deployment.status.unwrap_or_default();
    if status.observed_generation < deployment.metadata.generation {
        return -1;
    }
    let all = (
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    );
    match all {
        (Some(all), Some(updated), Some(available)) if all == updated && all == available => all,
        (None, None, None) => 0,
        _ => -1,
    }
}

async fn endpoint_addresses(world: &World, service: &str) -> BTreeSet<String> {
    let slices: Vec<EndpointSlice> = world
        .client
        .list(Some("default"), &Default::default())
        .await
        .unwrap();
    let own = slices.into_iter().filter(|slice| {
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        labels.get("kubernetes.io/service-name").map(String::as_str) == Some(service)
    });
    own.flat_map(|slice| slice.endpoints.unwrap_or_default())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        .flat_map(|endpoint| endpoint.addresses)
        .collect()
}

async fn pods_on(world: &World) -> BTreeMap<String, usize> {
    let mut on = BTreeMap::new();
    for pod in world.ready_pods().await {
        *on.entry(pod.spec.unwrap().node_name.unwrap()).or_default() += 1;
    }
    on
}

async fn scale(world: &World, name: &str, replicas: i32) {
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    let _: Deployment = world
        .client
        .patch(Some("default"), name, &patch, None)
        .await
        .unwrap();
}

async fn set_image(world: &World, name: &str, image: &str) {
    let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c", "image": image}]}}}}));
    let _: Deployment = world
        .client
        .patch(Some("default"), name, &patch, None)
        .await
        .unwrap();
}

async fn reasons(world: &World) -> BTreeSet<String> {
    let events: Vec<Event> = world.client.list(None, &Default::default()).await.unwrap();
    events
        .into_iter()
        .filter_map(|event| event.reason)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_spread_pods_behind_its_service_and_then_nothing_is_written() {
    let world = two_nodes().await;
    world.client.create(&service("web")).await.unwrap();
    world
        .client
        .create(&deployment("web", 4, "v1"))
        .await
        .unwrap();
    until("four pods are available", async || {
        available(&world, "web").await == 4
    })
    .await;
    assert_eq!(
        pods_on(&world).await,
        BTreeMap::from([("node-1".to_owned(), 2), ("node-2".to_owned(), 2)])
    );
    until("all four are endpoints", async || {
        endpoint_addresses(&world, "web").await.len() == 4
    })
    .await;
    let endpoints: Endpoints = world.client.get(Some("default"), "web").await.unwrap();
    let subsets = endpoints.subsets.unwrap();
    assert_eq!(subsets[0].addresses.as_ref().unwrap().len(), 4);
    until("events tell of it", async || {
        let reasons = reasons(&world).await;
        ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"]
            .iter()
            .all(|reason| reasons.contains(*reason))
    })
    .await;
    // What is still on its way gets its time; then nothing may be written while nothing changes.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let before = world.writes();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.writes(), before, "an idle cluster writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_and_rolling_keep_the_number_of_pods_in_bounds() {
    let world = two_nodes().await;
    world
        .client
        .create(&deployment("web", 6, "v1"))
        .await
        .unwrap();
    until("six pods are available", async || {
        available(&world, "web").await == 6
    })
    .await;
    let watching = async {
        loop {
            let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
            let live = pods
                .iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .count();
            // A quarter of six above, rounded up, and a quarter below, rounded down.
            assert!((5..=8).contains(&live), "{live} pods");
            assert!(world.ready_pods().await.len() >= 5);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let rolling = async {
        set_image(&world, "web", "v2").await;
        until("the rollout is complete", async || {
            available(&world, "web").await == 6
        })
        .await;
    };
    tokio::select! {
        () = watching => {}
        () = rolling => {}
    }
    let sets: Vec<ReplicaSet> = world.client.list(None, &Default::default()).await.unwrap();
    let mut sizes: Vec<_> = sets.iter().map(|set| set.spec.replicas.unwrap()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 6]);
    scale(&world, "web", 2).await;
    until("two pods are left", async || {
        available(&world, "web").await == 2 && world.ready_pods().await.len() == 2
    })
    .await;
    scale(&world, "web", 0).await;
    until("no pod is left", async || {
        let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
        pods.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_image_stops_the_rollout_and_undo_brings_the_old_pods_back() {
    let world = two_nodes().await;
    world
        .client
        .create(&deployment("web", 4, "v1"))
        .await
        .unwrap();
    until("four pods are available", async || {
        available(&world, "web").await == 4
    })
    .await;
    set_image(&world, "web", "broken").await;
    until("the new set has its first pods", async || {
        let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
        pods.iter()
            .any(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("broken"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        world.ready_pods().await.len() >= 3,
        "a quarter may be missing, no more"
    );
    set_image(&world, "web", "v1").await;
    until("the old template is back", async || {
        available(&world, "web").await == 4
    })
    .await;
    let deployment: Deployment = world.client.get(Some("default"), "web").await.unwrap();
    assert_eq!(
        deployment.metadata.annotations.unwrap()["deployment.kubernetes.io/revision"],
        "3"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_pod_is_replaced_and_an_orphan_is_adopted() {
    let world = two_nodes().await;
    world
        .client
        .create(&deployment("web", 2, "v1"))
        .await
        .unwrap();
    until("two pods are available", async || {
        available(&world, "web").await == 2
    })
    .await;
    let first = world.ready_pods().await.remove(0);
    let name = first.metadata.name.clone().unwrap();
    world
        .client
        .delete::<Pod>(Some("default"), &name, &DeleteParams::default())
        .await
        .unwrap();
    until("another pod takes its place", async || {
        let pods = world.ready_pods().await;
        pods.len() == 2
            && pods
                .iter()
                .all(|pod| pod.metadata.name.as_ref() != Some(&name))
    })
    .await;
    // A pod without an owner that matches the set's selector is taken in, and one too many goes.
    let hash = world.ready_pods().await[0].metadata.labels.clone().unwrap();
    let orphan: Pod = serde_json::from_value(json!({
        "metadata": {"name": "orphan", "namespace": "default", "labels": hash},
        "spec": {"containers": [{"name": "c", "image": "v1"}]},
    }))
    .unwrap();
    world.client.create(&orphan).await.unwrap();
    until("there are two owned pods again", async || {
        let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
        pods.len() == 2
            && pods
                .iter()
                .all(|pod| pod.metadata.owner_references.is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_a_deployment_takes_its_sets_and_pods_with_it_as_asked() {
    let world = two_nodes().await;
    let cases = [
        (Propagation::Background, 0),
        (Propagation::Foreground, 0),
        (Propagation::Orphan, 1),
    ];
    for (propagation, sets_left) in cases {
        world
            .client
            .create(&deployment("web", 3, "v1"))
            .await
            .unwrap();
        until("three pods are available", async || {
            available(&world, "web").await == 3
        })
        .await;
        let params = DeleteParams {
            propagation: Some(propagation),
            ..DeleteParams::default()
        };
        world
            .client
            .delete::<Deployment>(Some("default"), "web", &params)
            .await
            .unwrap();
        until(
            "the Deployment is gone and its sets are as asked",
            async || {
                let deployments: Vec<Deployment> =
                    world.client.list(None, &Default::default()).await.unwrap();
                let sets: Vec<ReplicaSet> =
                    world.client.list(None, &Default::default()).await.unwrap();
                let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
                let orphans = sets.iter().all(|set| {
                    set.metadata
                        .owner_references
                        .as_ref()
                        .is_none_or(Vec::is_empty)
                });
                deployments.is_empty()
                    && orphans
                    && sets.len() == sets_left
                    && pods.len() == 3 * sets_left
            },
        )
        .await;
    }
}

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
async fn a_deleted_namespace_takes_everything_in_it_along() {
    let world = two_nodes().await;
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
    world.client.create(&namespace).await.unwrap();
    let mut web = deployment("web", 3, "v1");
    web.metadata.namespace = Some("shop".to_owned());
    world.client.create(&web).await.unwrap();
    let mut front = service("web");
    front.metadata.namespace = Some("shop".to_owned());
    world.client.create(&front).await.unwrap();
    until("its pods run", async || world.ready_pods().await.len() == 3).await;
    world
        .client
        .delete::<Namespace>(None, "shop", &DeleteParams::default())
        .await
        .unwrap();
    until("the namespace is gone", async || {
        world
            .client
            .get::<Namespace>(None, "shop")
            .await
            .is_err_and(|error| error.is_not_found())
    })
    .await;
    for (resource, namespaced) in world.client.resources() {
        if namespaced.0 {
            let left = world
                .client
                .cache(&resource)
                .unwrap()
                .list_namespace("shop");
            assert!(left.is_empty(), "{resource:?}: {left:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_waits_for_finalizers_and_says_so() {
    let world = World::new().await;
    let namespace: Namespace =
        serde_json::from_value(json!({"metadata": {"name": "held"}})).unwrap();
    world.client.create(&namespace).await.unwrap();
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "held", "namespace": "held", "finalizers": ["example.com/hold"]}}))
    .unwrap();
    world.client.create(&map).await.unwrap();
    world
        .client
        .delete::<Namespace>(None, "held", &DeleteParams::default())
        .await
        .unwrap();
    until("it tells what holds it", async || {
        let namespace: Namespace = world.client.get(None, "held").await.unwrap();
        let conditions = namespace
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        conditions.iter().any(|c| {
            c.type_ == "NamespaceFinalizersRemaining"
                && c.message
                    .as_deref()
                    .is_some_and(|m| m.contains("example.com/hold in 1 resource instances"))
        })
    })
    .await;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": Value::Null}}));
    let _ = world
        .client
        .patch::<ConfigMap>(Some("held"), "held", &patch, None)
        .await;
    until("it is gone", async || {
        world.client.get::<Namespace>(None, "held").await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_has_an_account_and_the_ca_again_and_again() {
    let world = World::new().await;
    let both = async |namespace: &str| {
        let account = world
            .client
            .get::<ServiceAccount>(Some(namespace), "default")
            .await;
        let map = world
            .client
            .get::<ConfigMap>(Some(namespace), "kube-root-ca.crt")
            .await;
        account.is_ok()
            && map.is_ok_and(|map| map.data.unwrap()["ca.crt"].starts_with("-----BEGIN"))
    };
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        until("the namespace is furnished", async || both(namespace).await).await;
    }
    world
        .client
        .delete::<ServiceAccount>(Some("default"), "default", &DeleteParams::default())
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"data": {"ca.crt": "forged"}}));
    let _: ConfigMap = world
        .client
        .patch(Some("default"), "kube-root-ca.crt", &patch, None)
        .await
        .unwrap();
    until("both are as before", async || both("default").await).await;
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
async fn killed_again_and_again_while_it_creates_pods_it_never_makes_one_too_many() {
    let mut world = two_nodes().await;
    world
        .client
        .create(&deployment("web", 60, "v1"))
        .await
        .unwrap();
    for pause in [5, 20, 40, 80, 10, 30] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        world = world.restart().await;
        let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
        assert!(pods.len() <= 60, "{} pods", pods.len());
        let sets: Vec<ReplicaSet> = world.client.list(None, &Default::default()).await.unwrap();
        assert!(sets.len() <= 1, "{} sets", sets.len());
    }
    until("all sixty are available", async || {
        available(&world, "web").await == 60
    })
    .await;
    let pods: Vec<Pod> = world.client.list(None, &Default::default()).await.unwrap();
    assert_eq!(pods.len(), 60);
    assert_eq!(
        pods_on(&world).await.into_values().collect::<Vec<_>>(),
        [30, 30]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_made_endpoints_are_mirrored() {
    let world = World::new().await;
    let by_hand: Service = serde_json::from_value(json!({
        "metadata": {"name": "outside", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}))
    .unwrap();
    world.client.create(&by_hand).await.unwrap();
    let endpoints: Endpoints = serde_json::from_value(json!({
        "metadata": {"name": "outside", "namespace": "default"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]}))
    .unwrap();
    world.client.create(&endpoints).await.unwrap();
    let only = |ip: &str| BTreeSet::from([ip.to_owned()]);
    until("they are mirrored", async || {
        endpoint_addresses(&world, "outside").await == only("192.0.2.7")
    })
    .await;
    let patch = Patch::Merge(
        json!({"subsets": [{"addresses": [{"ip": "192.0.2.8"}], "ports": [{"port": 80}]}]}),
    );
    let _: Endpoints = world
        .client
        .patch(Some("default"), "outside", &patch, None)
        .await
        .unwrap();
    until("a change is mirrored", async || {
        endpoint_addresses(&world, "outside").await == only("192.0.2.8")
    })
    .await;
    world
        .client
        .delete::<Endpoints>(Some("default"), "outside", &DeleteParams::default())
        .await
        .unwrap();
    until("nothing is left", async || {
        endpoint_addresses(&world, "outside").await.is_empty()
    })
    .await;
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
    let first: Pod = world.client.get(Some("default"), "huge").await.unwrap();
    for index in 1..20 {
        world.node(&format!("node-{index}")).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let same: Pod = world.client.get(Some("default"), "huge").await.unwrap();
    assert_eq!(
        first.metadata.resource_version,
        same.metadata.resource_version
    );
    until("it is told anew", async || {
        reason().await == "0/20 nodes are available: 20 Insufficient cpu."
    })
    .await;
}
