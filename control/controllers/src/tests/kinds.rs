// SPDX-License-Identifier: Apache-2.0
//! Garbage collection among kinds that come, change and go while the controllers run.

use knarr_api::k8s_openapi::api::core::v1::ConfigMap;
use knarr_apiserver::{CacheEventKind, DeleteParams, Propagation};
use serde_json::{Value, json};

use super::api::{WIDGETS, widgets};
use super::world::{World, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_a_kind_added_to_a_running_server_are_collected_and_own_others() {
    let world = World::new().await;
    let client = &world.client;
    let map = |name: &str, owner: Option<(&str, &str, &str, &str)>| -> ConfigMap {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|(api_version, kind, name, uid)| {
                json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid})
            })
            .collect();
        let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owners});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    };
    // Before the kind is served, nothing is known of such an owner, so nothing is collected.
    let early = ("example.com/v1", "Widget", "early", "early-uid");
    client.create(&map("early", Some(early))).await.unwrap();
    client.serve_kind(widgets("first")).await.unwrap();
    until(
        "an object whose owner's kind is known now is collected",
        async || {
            client
                .get::<ConfigMap>(Some("default"), "early")
                .await
                .is_err_and(|error| error.is_not_found())
        },
    )
    .await;
    let root = client.create(&map("root", None)).await.unwrap();
    let root_uid = root.metadata.uid.unwrap();

    // ConfigMap root <- Widget w <- ConfigMap leaf
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "root", "uid": root_uid});
    let widget = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "default", "ownerReferences": [owner]},
    });
    let made = client.create_resource(&WIDGETS, Some("default"), widget);
    let made = made.await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let by_widget = ("example.com/v1", "Widget", "w", uid.as_str());
    client.create(&map("leaf", Some(by_widget))).await.unwrap();
    let widgets_left = || client.cache(&WIDGETS).unwrap().len();
    assert_eq!(widgets_left(), 1);
    let params = DeleteParams::default();
    client
        .delete::<ConfigMap>(Some("default"), "root", &params)
        .await
        .unwrap();
    until(
        "the Widget goes with its owner, and takes its own along",
        async || {
            widgets_left() == 0
                && client
                    .get::<ConfigMap>(Some("default"), "leaf")
                    .await
                    .is_err_and(|error| error.is_not_found())
        },
    )
    .await;

    // A kind that is withdrawn says nothing about its objects: what they own stays.
    let widget = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "kept", "namespace": "default"},
    });
    let made = client.create_resource(&WIDGETS, Some("default"), widget);
    let made = made.await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    let by_widget = ("example.com/v1", "Widget", "kept", uid.as_str());
    client.create(&map("kept", Some(by_widget))).await.unwrap();
    client.withdraw_kind(&WIDGETS).await.unwrap();
    // Whatever is collected after the withdrawal shows that the collector has seen it.
    let gone = ("v1", "ConfigMap", "nobody", "nobody-uid");
    client.create(&map("orphan", Some(gone))).await.unwrap();
    until("an orphan is collected", async || {
        client
            .get::<ConfigMap>(Some("default"), "orphan")
            .await
            .is_err_and(|error| error.is_not_found())
    })
    .await;
    client
        .get::<ConfigMap>(Some("default"), "kept")
        .await
        .unwrap();
    client.serve_kind(widgets("first")).await.unwrap();
    assert_eq!(widgets_left(), 1);
    client
        .delete_resource(&WIDGETS, Some("default"), "kept", &params)
        .await
        .unwrap();
    until("what it owned goes with it", async || {
        client
            .get::<ConfigMap>(Some("default"), "kept")
            .await
            .is_err_and(|error| error.is_not_found())
    })
    .await;
}

/// A reference to a Widget that owns.
fn widget_owner(widget: &Value) -> Value {
    let metadata = &widget["metadata"];
    json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "name": metadata["name"],
        "uid": metadata["uid"],
    })
}

async fn make_widget(world: &World, name: &str, owners: &[Value]) -> Value {
    let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owners});
    let object = json!({"metadata": metadata});
    let made = world
        .client
        .create_resource(&WIDGETS, Some("default"), object);
    made.await.unwrap()
}

async fn make_map(world: &World, name: &str, owners: &[Value]) -> ConfigMap {
    let metadata = json!({"name": name, "namespace": "default", "ownerReferences": owners});
    let map: ConfigMap = serde_json::from_value(json!({"metadata": metadata})).unwrap();
    world.client.create(&map).await.unwrap()
}

/// Waits until the garbage collector has seen everything that was written before.
async fn collected(world: &World, name: &str) {
    for (api_version, kind) in [("v1", "ConfigMap"), ("example.com/v1", "Widget")] {
        let name = format!("{name}-{}", kind.to_lowercase());
        let absent =
            json!({"apiVersion": api_version, "kind": kind, "name": "absent", "uid": name});
        make_map(world, &name, &[absent]).await;
        until("an orphan is collected", async || {
            let got = world.client.get::<ConfigMap>(Some("default"), &name).await;
            got.is_err_and(|error| error.is_not_found())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_living_owner_has_survives_the_replacement_of_its_kind() {
    const REPLACEMENTS: usize = 12;
    let world = World::new().await;
    let client = &world.client;
    client.serve_kind(widgets("form")).await.unwrap();
    let owner = widget_owner(&make_widget(&world, "owner", &[]).await);
    for n in 0..20 {
        make_map(&world, &format!("kept-{n}"), std::slice::from_ref(&owner)).await;
        // Of the kind that is replaced, too.
        make_widget(&world, &format!("kept-{n}"), std::slice::from_ref(&owner)).await;
    }
    let (_, mut map_events) = client.cache_of::<ConfigMap>().unwrap().watch();
    let replacing = async {
        for n in 0..REPLACEMENTS {
            if n % 4 == 3 {
                client.withdraw_kind(&WIDGETS).await.unwrap();
            }
            let form = widgets(&format!("form{n}"));
            client.serve_kind(form).await.unwrap();
            collected(&world, &format!("orphan-{n}")).await;
        }
    };
    let writing = async {
        // Each owner is as new as what it owns.
        for n in 0..REPLACEMENTS * 4 {
            let made =
                json!({"metadata": {"name": format!("kept-new-{n}"), "namespace": "default"}});
            let made = client.create_resource(&WIDGETS, Some("default"), made);
            // Not served just then.
            let Ok(made) = made.await else { continue };
            let owners = [widget_owner(&made), owner.clone()];
            make_map(&world, &format!("kept-new-{n}"), &owners[..1]).await;
            make_map(&world, &format!("kept-both-{n}"), &owners).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(replacing, writing);
    collected(&world, "last").await;
    while let Some(event) = map_events.try_next().unwrap() {
        let gone = event.kind == CacheEventKind::Deleted;
        let name = &event.object.meta.name;
        assert!(!(gone && name.starts_with("kept")), "{name} was collected");
    }
    let left = client.cache(&WIDGETS).unwrap().list();
    let left = left
        .iter()
        .filter(|widget| widget.meta.name.starts_with("kept-"));
    assert!(left.count() >= 20);
    // And the new form of the kind still collects.
    let params = DeleteParams::default();
    client
        .delete_resource(&WIDGETS, Some("default"), "owner", &params)
        .await
        .unwrap();
    until("what only it owned goes with it", async || {
        let maps = client.cache_of::<ConfigMap>().unwrap();
        maps.get("default", "kept-0").is_none() && maps.get("default", "kept-19").is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_are_released_although_their_kind_is_replaced_meanwhile() {
    let world = World::new().await;
    let client = &world.client;
    client.serve_kind(widgets("form")).await.unwrap();
    for round in 0..6 {
        let owner = format!("owner-{round}");
        let made = make_map(&world, &owner, &[]).await;
        let reference = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": made.metadata.uid,
        });
        for n in 0..8 {
            let name = format!("kept-{round}-{n}");
            make_widget(&world, &name, std::slice::from_ref(&reference)).await;
        }
        let params = DeleteParams {
            propagation: Some(Propagation::Orphan),
            ..DeleteParams::default()
        };
        let deleting = client.delete::<ConfigMap>(Some("default"), &owner, &params);
        let replacing = async {
            for form in 0..4 {
                let form = widgets(&format!("form{form}"));
                client.serve_kind(form).await.unwrap();
            }
        };
        let (deleted, ()) = tokio::join!(deleting, replacing);
        deleted.unwrap();
        until("the owner is gone", async || {
            let maps = client.cache_of::<ConfigMap>().unwrap();
            maps.get("default", &owner).is_none()
        })
        .await;
    }
    collected(&world, "last").await;
    client.sync().await.unwrap();
    let left = client.cache(&WIDGETS).unwrap().list();
    assert_eq!(left.len(), 6 * 8);
    assert!(left.iter().all(|widget| widget.meta.owners.is_empty()));
}
