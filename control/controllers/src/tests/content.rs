// SPDX-License-Identifier: Apache-2.0
//! What goes with what: owners, namespaces, and what is kept beside them.

use std::collections::BTreeSet;

use knarr_api::k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use knarr_api::k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Pod, Service, ServiceAccount,
};
use knarr_apiserver::{DeleteParams, Patch, Propagation};
use serde_json::{Value, json};

use super::world::{World, until};
use super::{available, deployment, endpoint_addresses, service, two_nodes};

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
async fn a_deployment_takes_over_the_set_and_pods_that_another_one_left() {
    let world = two_nodes().await;
    let client = &world.client;
    client.create(&deployment("web", 3, "v1")).await.unwrap();
    until("three pods are available", async || {
        available(&world, "web").await == 3
    })
    .await;
    let uids = async || -> (Vec<_>, Vec<_>) {
        let sets: Vec<ReplicaSet> = client.list(None, &Default::default()).await.unwrap();
        let pods: Vec<Pod> = client.list(None, &Default::default()).await.unwrap();
        let mut pods: Vec<_> = pods.into_iter().map(|pod| pod.metadata.uid).collect();
        pods.sort();
        (sets.into_iter().map(|set| set.metadata.uid).collect(), pods)
    };
    let before = uids().await;
    let params = DeleteParams {
        propagation: Some(Propagation::Orphan),
        ..DeleteParams::default()
    };
    client
        .delete::<Deployment>(Some("default"), "web", &params)
        .await
        .unwrap();
    until("the Deployment is gone", async || {
        let left: Vec<Deployment> = client.list(None, &Default::default()).await.unwrap();
        left.is_empty()
    })
    .await;
    // The template and labels of the first, and another name.
    let mut heir = deployment("web", 3, "v1");
    heir.metadata.name = Some("heir".to_owned());
    client.create(&heir).await.unwrap();
    until("it has three available pods", async || {
        available(&world, "heir").await == 3
    })
    .await;
    assert_eq!(uids().await, before);
}

/// A ConfigMap owned by `owner`, a ConfigMap; returns its uid.
async fn owned(world: &World, namespace: &str, name: &str, owner: Option<(&str, &str)>) -> String {
    let owners: Vec<Value> = owner
        .into_iter()
        .map(|(name, uid)| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid,
                "controller": true, "blockOwnerDeletion": true})
        })
        .collect();
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": owners},
    }))
    .unwrap();
    let made = world.client.create(&map).await.unwrap();
    made.metadata.uid.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_owners_goes_whichever_way_one_of_them_is_deleted() {
    let world = World::new().await;
    let client = &world.client;
    for propagation in [Propagation::Foreground, Propagation::Background] {
        let one = owned(&world, "default", "one", None).await;
        let two = owned(&world, "default", "two", Some(("one", &one))).await;
        let three = owned(&world, "default", "three", Some(("two", &two))).await;
        let closing = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": "three", "uid": three, "controller": true, "blockOwnerDeletion": true}]}});
        client
            .patch::<ConfigMap>(Some("default"), "one", &Patch::Merge(closing), None)
            .await
            .unwrap();
        let params = DeleteParams {
            propagation: Some(propagation),
            ..DeleteParams::default()
        };
        client
            .delete::<ConfigMap>(Some("default"), "one", &params)
            .await
            .unwrap();
        until("the circle is gone", async || {
            let maps: Vec<ConfigMap> = client.list(None, &Default::default()).await.unwrap();
            let names = ["one", "two", "three"];
            !maps
                .iter()
                .any(|map| names.contains(&map.metadata.name.as_deref().unwrap_or_default()))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_in_another_namespace_is_told_of_and_does_not_keep_an_object() {
    let world = World::new().await;
    let client = &world.client;
    let owner = owned(&world, "kube-public", "owner", None).await;
    let child = owned(&world, "default", "child", Some(("owner", &owner))).await;
    until("the warning is there and the object is gone", async || {
        let events: Vec<Event> = client.list(Some("default"), &Default::default()).await.unwrap();
        let told = events.iter().any(|event| {
            event.reason.as_deref() == Some("OwnerRefInvalidNamespace")
                && event.type_.as_deref() == Some("Warning")
                && event.involved_object.uid.as_ref() == Some(&child)
                && event.involved_object.kind.as_deref() == Some("ConfigMap")
                && event.message
                    == Some(format!(
                        "ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: {owner}] does not exist in namespace \"default\""
                    ))
        });
        let maps: Vec<ConfigMap> = client.list(Some("default"), &Default::default()).await.unwrap();
        told && !maps.iter().any(|map| map.metadata.uid.as_ref() == Some(&child))
    })
    .await;
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
