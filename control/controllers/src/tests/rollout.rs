// SPDX-License-Identifier: Apache-2.0
//! Deployments and their pods, from the first to the last, also under kills.

use std::collections::BTreeMap;
use std::time::Duration;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use knarr_api::k8s_openapi::api::core::v1::{Endpoints, Pod};
use knarr_apiserver::DeleteParams;
use serde_json::json;

use super::world::until;
use super::{
    available, deployment, endpoint_addresses, pods_on, reasons, scale, service, set_image,
    two_nodes,
};

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
    // Another loop writes these.
    until("all four are in the Endpoints", async || {
        let endpoints: Endpoints = world.client.get(Some("default"), "web").await.unwrap();
        let first = endpoints.subsets.iter().flatten().next();
        first
            .and_then(|subset| subset.addresses.as_ref())
            .map(Vec::len)
            == Some(4)
    })
    .await;
    until("events tell of it", async || {
        let reasons = reasons(&world).await;
        ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"]
            .iter()
            .all(|reason| reasons.contains(*reason))
    })
    .await;
    // What is still on its way gets its time; then nothing may be written while nothing changes.
    until("everything has been told", async || {
        let before = world.writes();
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.writes() == before
    })
    .await;
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
    // Watching is over when the rollout is.
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
