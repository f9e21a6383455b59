// SPDX-License-Identifier: Apache-2.0
//! Kinds that begin and cease to be served while the server runs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use knarr_apiserver::{
    CustomKind, CustomSchema, CustomScope, CustomStatus, GroupVersionResource, KindError,
    RegistryError,
};
use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;
use crate::watches::Watch;

const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn widgets() -> CustomKind {
    CustomKind {
        schema: CustomSchema {
            group: "example.com".to_owned(),
            version: "v1".to_owned(),
            kind: "Widget".to_owned(),
            schema: json!({
                "properties": {
                    "spec": {
                        "type": "object",
                        "properties": {"size": {"type": "integer", "format": "int32"}},
                    },
                    "status": {
                        "type": "object",
                        "properties": {"phase": {"type": "string"}},
                    },
                },
            }),
        },
        plural: "widgets".to_owned(),
        short_names: vec!["wd".to_owned()],
        scope: CustomScope::Namespaced,
        status: CustomStatus::Subresource,
    }
}

fn resource() -> GroupVersionResource {
    GroupVersionResource::new("example.com", "v1", "widgets")
}

fn widget(name: &str, size: i64) -> Value {
    json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": size},
    })
}

#[tokio::test]
async fn a_kind_added_to_a_running_server_is_served_like_the_others() {
    let (server, _directory) = server().await;
    assert_eq!(server.get(WIDGETS).await.code, 404);
    server.api.client().serve_kind(widgets()).await.unwrap();

    let mut watch = Watch::open(&server, &format!("{WIDGETS}?watch=1"), "application/json").await;
    let mut sent = widget("w", 3);
    sent["status"] = json!({"phase": "Claimed"});
    let created = server.send("POST", WIDGETS, &sent).await;
    assert_eq!(created.code, 201, "{}", created.text());
    assert_eq!(created.json()["metadata"]["generation"], 1);
    assert_eq!(created.json()["status"], json!(null));
    assert_eq!(watch.seen().await, ("ADDED".to_owned(), "w".to_owned()));

    let one = format!("{WIDGETS}/w");
    let changed = server
        .patch("merge", &one, &json!({"spec": {"size": 4}}))
        .await;
    assert_eq!(changed.json()["spec"]["size"], 4, "{}", changed.text());
    assert_eq!(changed.json()["metadata"]["generation"], 2);
    assert_eq!(watch.seen().await, ("MODIFIED".to_owned(), "w".to_owned()));
    let status = json!({
        "metadata": {"labels": {"by": "status"}},
        "spec": {"size": 9},
        "status": {"phase": "Ready"},
    });
    let status = server
        .patch("merge", &format!("{one}/status"), &status)
        .await;
    assert_eq!(status.json()["spec"]["size"], 4, "{}", status.text());
    assert_eq!(status.json()["status"]["phase"], "Ready");
    assert_eq!(status.json()["metadata"]["labels"], json!(null));
    assert_eq!(status.json()["metadata"]["generation"], 2);
    assert_eq!(watch.seen().await, ("MODIFIED".to_owned(), "w".to_owned()));

    let got = server.get(&one).await.json();
    assert_eq!(got["kind"], "Widget");
    let list = server.get("/apis/example.com/v1/widgets").await.json();
    assert_eq!(list["kind"], "WidgetList");
    assert_eq!(list["items"][0], got);
    let unknown = json!({"spec": {"size": 1, "height": 2}});
    let unknown = server
        .patch("merge", &format!("{one}?fieldValidation=Strict"), &unknown)
        .await;
    assert_eq!(unknown.code, 400, "{}", unknown.text());
    let strategic = json!({"spec": {"size": 5}});
    let strategic = server.patch("strategic-merge", &one, &strategic).await;
    assert_eq!(strategic.code, 415, "{}", strategic.text());
    let wrong = json!({"spec": {"size": "large"}});
    assert_eq!(server.patch("merge", &one, &wrong).await.code, 400);

    assert_eq!(server.send("DELETE", &one, &json!({})).await.code, 200);
    assert_eq!(watch.seen().await, ("DELETED".to_owned(), "w".to_owned()));
    assert_eq!(server.get(&one).await.code, 404);
}

#[tokio::test]
async fn a_kind_added_to_a_running_server_is_in_discovery_and_openapi() {
    let (server, _directory) = server().await;
    let group = "/apis/example.com";
    assert_eq!(server.get(group).await.code, 404);
    let index_before = server.get("/openapi/v3").await.json();
    server.api.client().serve_kind(widgets()).await.unwrap();

    let groups = server.get("/apis").await.json();
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|group| group["name"].as_str())
        .collect();
    assert!(names.contains(&"example.com"), "{names:?}");
    assert_eq!(
        server.get(group).await.json()["preferredVersion"]["groupVersion"],
        "example.com/v1"
    );
    let resources = server.get("/apis/example.com/v1").await.json();
    assert_eq!(resources["resources"][0]["name"], "widgets");
    assert_eq!(resources["resources"][0]["singularName"], "widget");
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(resources["resources"][1]["name"], "widgets/status");

    let index = server.get("/openapi/v3").await.json();
    let paths = &index["paths"];
    assert!(paths["apis/example.com/v1"].is_object(), "{index}");
    assert_ne!(
        paths["api/v1"], index_before["paths"]["api/v1"],
        "another hash"
    );
    let document = server.get("/openapi/v3/apis/example.com/v1").await.json();
    let size = "/components/schemas/com.example.v1.Widget/properties/spec/properties/size";
    assert_eq!(document.pointer(size).unwrap()["type"], "integer");
    let document = server.get("/openapi/v2").await.json();
    assert!(document["definitions"]["com.example.v1.Widget"].is_object());
    assert!(document["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
}

#[tokio::test]
async fn a_kind_that_is_withdrawn_is_gone_everywhere_and_its_objects_come_back_with_it() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    client.serve_kind(widgets()).await.unwrap();
    server.send("POST", WIDGETS, &widget("w", 3)).await;
    let mut watch = Watch::open(&server, &format!("{WIDGETS}?watch=1"), "application/json").await;
    assert_eq!(watch.seen().await, ("ADDED".to_owned(), "w".to_owned()));

    client.withdraw_kind(&resource()).await.unwrap();
    assert_eq!(watch.next().await, None, "the watch ends");
    for path in [
        WIDGETS,
        "/apis/example.com",
        "/apis/example.com/v1",
        "/openapi/v3/apis/example.com/v1",
    ] {
        assert_eq!(server.get(path).await.code, 404, "{path}");
    }
    assert_eq!(
        server.send("POST", WIDGETS, &widget("x", 1)).await.code,
        404
    );
    let document = server.get("/openapi/v2").await.json();
    assert!(document["definitions"]["com.example.v1.Widget"].is_null());
    assert!(
        client
            .cache(&resource())
            .is_err_and(|error| error.is_not_found())
    );
    let stored = client.resources();
    assert!(
        stored
            .iter()
            .all(|(resource, _)| resource.group != "example.com")
    );

    // With one more field this time.
    let mut larger = widgets();
    larger.schema.schema["properties"]["spec"]["properties"]["colour"] = json!({"type": "string"});
    client.serve_kind(larger).await.unwrap();
    let one = format!("{WIDGETS}/w");
    assert_eq!(server.get(&one).await.json()["spec"]["size"], 3);
    let painted = json!({"spec": {"colour": "red"}});
    let painted = server.patch("merge", &one, &painted).await.json();
    assert_eq!(painted["spec"], json!({"size": 3, "colour": "red"}));
}

#[tokio::test]
async fn a_kind_that_changes_ends_its_watches_and_keeps_its_objects() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    client.serve_kind(widgets()).await.unwrap();
    server.send("POST", WIDGETS, &widget("w", 3)).await;
    let mut watch = Watch::open(&server, &format!("{WIDGETS}?watch=1"), "application/json").await;
    assert_eq!(watch.seen().await, ("ADDED".to_owned(), "w".to_owned()));
    client.serve_kind(widgets()).await.unwrap();
    assert_eq!(watch.next().await, None, "the watch ends");
    let list = server.get(WIDGETS).await.json();
    assert_eq!(list["items"][0]["metadata"]["name"], "w");
    let mut watch = Watch::open(&server, &format!("{WIDGETS}?watch=1"), "application/json").await;
    assert_eq!(watch.seen().await, ("ADDED".to_owned(), "w".to_owned()));
    server.send("POST", WIDGETS, &widget("x", 1)).await;
    assert_eq!(watch.seen().await, ("ADDED".to_owned(), "x".to_owned()));
}

#[tokio::test]
async fn kinds_that_do_not_fit_together_are_refused_and_change_nothing() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    let refused = |outcome: Result<(), KindError>| match outcome {
        Err(KindError::Registry(error)) => error,
        other => panic!("{other:?}"),
    };
    let mut pods = widgets();
    pods.schema.group = String::new();
    pods.plural = "pods".to_owned();
    let error = refused(client.serve_kind(pods).await);
    assert!(matches!(error, RegistryError::BuiltIn { .. }), "{error}");
    client.serve_kind(widgets()).await.unwrap();
    let mut twin = widgets();
    twin.plural = "gadgets".to_owned();
    let error = refused(client.serve_kind(twin).await);
    assert!(matches!(error, RegistryError::Kind { .. }), "{error}");
    let mut next_version = widgets();
    next_version.schema.version = "v2".to_owned();
    let error = refused(client.serve_kind(next_version).await);
    assert!(matches!(error, RegistryError::Prefix { .. }), "{error}");
    let pods = GroupVersionResource::new("", "v1", "pods");
    let error = refused(client.withdraw_kind(&pods).await);
    assert!(matches!(error, RegistryError::BuiltIn { .. }), "{error}");
    let nothing = GroupVersionResource::new("example.com", "v1", "gadgets");
    let error = refused(client.withdraw_kind(&nothing).await);
    assert!(matches!(error, RegistryError::Absent { .. }), "{error}");
    assert_eq!(server.get(WIDGETS).await.code, 200);
}

/// How many writes a kind sees while it is replaced again and again.
const WRITES: i64 = 200;
/// Objects that these writes change in turn.
const OBJECTS: i64 = 8;

/// Follows all Widgets as clients do, from a list or from a watch that sends the present first, until the last write.
/// Each write has the number after the one before it, so none may be missed.
async fn follow(server: &Server) -> BTreeMap<String, i64> {
    let of = |object: &Value| {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        (name, object["spec"]["size"].as_i64().unwrap())
    };
    let mut from_list = false;
    'list: loop {
        from_list = !from_list;
        let mut sizes = BTreeMap::new();
        let mut watch = if from_list {
            let list = server.get(WIDGETS).await;
            assert_eq!(list.code, 200, "{}", list.text());
            let list = list.json();
            sizes.extend(list["items"].as_array().unwrap().iter().map(of));
            let version = list["metadata"]["resourceVersion"].as_str().unwrap();
            let path = format!("{WIDGETS}?watch=1&resourceVersion={version}");
            Watch::open(server, &path, "application/json").await
        } else {
            let path = format!(
                "{WIDGETS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
            );
            let mut watch = Watch::open(server, &path, "application/json").await;
            loop {
                match watch.next().await {
                    Some(event) if event["type"] == "ADDED" => {
                        sizes.extend([of(&event["object"])]);
                    }
                    Some(event) => {
                        assert_eq!(event["type"], "BOOKMARK", "{event}");
                        break watch;
                    }
                    // It ended before it could say that this is all.
                    None => continue 'list,
                }
            }
        };
        let mut last = sizes.values().copied().max().unwrap_or_default();
        while last < WRITES {
            let Some(event) = watch.next().await else {
                continue 'list;
            };
            if event["type"] == "ERROR" {
                assert_eq!(event["object"]["code"], 410, "{event}");
                continue 'list;
            }
            let (name, size) = of(&event["object"]);
            assert_eq!(size, last + 1, "{event}");
            sizes.insert(name, size);
            last = size;
        }
        return sizes;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_fails_and_no_watcher_misses_one_while_a_kind_is_replaced() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    client.serve_kind(widgets()).await.unwrap();
    let written = AtomicBool::new(false);
    let writing = async {
        for size in 1..=WRITES {
            let name = format!("w{}", size % OBJECTS);
            let answer = if size <= OBJECTS {
                server.send("POST", WIDGETS, &widget(&name, size)).await
            } else {
                let change = json!({"spec": {"size": size}});
                let path = format!("{WIDGETS}/{name}");
                server.patch("merge", &path, &change).await
            };
            assert!(
                matches!(answer.code, 200 | 201),
                "{size}: {}",
                answer.text()
            );
        }
        written.store(true, Ordering::Relaxed);
    };
    let replacing = async {
        let mut replaced = 0;
        while !written.load(Ordering::Relaxed) {
            let mut form = widgets();
            form.schema.schema["properties"]["spec"]["properties"][format!("field{replaced}")] =
                json!({"type": "string"});
            client.serve_kind(form).await.unwrap();
            replaced += 1;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        replaced
    };
    let (replaced, (), first, second) =
        tokio::join!(replacing, writing, follow(&server), follow(&server));
    assert!(replaced > 3, "{replaced}");
    let list = server.get(WIDGETS).await.json();
    let items = list["items"].as_array().unwrap();
    assert_eq!(items.len(), first.len());
    for item in items {
        let name = item["metadata"]["name"].as_str().unwrap();
        assert_eq!(item["spec"]["size"], first[name], "{name}");
        assert_eq!(first[name], second[name], "{name}");
    }
}

#[tokio::test]
async fn a_kind_without_a_message_is_refused_as_protobuf_and_its_metadata_is_sent() {
    let (server, _directory) = server().await;
    server.api.client().serve_kind(widgets()).await.unwrap();
    server.send("POST", WIDGETS, &widget("w", 3)).await;
    let protobuf = "application/vnd.kubernetes.protobuf";
    let one = format!("{WIDGETS}/w");
    let accepting = async |path: &str, accept: &str| {
        let headers = [("accept", accept)];
        let answer = server.call(Some("admin"), "GET", path, &headers, "");
        answer.await.code
    };
    assert_eq!(accepting(&one, protobuf).await, 406);
    assert_eq!(accepting(WIDGETS, protobuf).await, 406);
    let metadata = format!("{protobuf};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    assert_eq!(accepting(&one, &metadata).await, 200);
}
