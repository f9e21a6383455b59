// SPDX-License-Identifier: Apache-2.0
//! The controllers together, against a real API server and store in this process.

use std::collections::{BTreeMap, BTreeSet};

use knarr_api::k8s_openapi::api::apps::v1::Deployment;
use knarr_api::k8s_openapi::api::core::v1::{Event, Service};
use knarr_api::k8s_openapi::api::discovery::v1::EndpointSlice;
use knarr_apiserver::Patch;
use serde_json::json;

pub(crate) mod api;
mod content;
mod kinds;
mod nodes;
mod rollout;
pub(crate) mod world;

use world::World;

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
