// SPDX-License-Identifier: Apache-2.0
//! The in-process client: typed calls, the cache, heartbeats in memory.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_apiserver::{CacheEventKind, DeleteParams, ListParams, Patch};
use serde_json::json;

use crate::harness::Server;
use crate::server;

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn typed_calls_take_the_same_way_as_requests() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    let made = client.create(&map("a")).await.expect("created");
    assert!(made.metadata.uid.is_some());
    let again = client.create(&map("a")).await.expect_err("it exists");
    assert!(again.is_already_exists());
    assert_eq!(again.to_string(), "configmaps \"a\" already exists");
    let wrong = client.create(&map("A_B")).await.expect_err("no name");
    assert_eq!(wrong.code(), 422);

    let mut changed = made.clone();
    changed.immutable = Some(true);
    let changed = client.update(&changed).await.expect("updated");
    let stale = client.update(&made).await.expect_err("it has changed");
    assert!(stale.is_conflict() && stale.is_retryable());
    let patch = Patch::Merge(json!({"data": {"x": "y"}}));
    let fixed = client
        .patch::<ConfigMap>(Some("default"), "a", &patch, None)
        .await
        .expect_err("it is immutable");
    assert!(fixed.to_string().contains("field is immutable"));

    let read: ConfigMap = client.get(Some("default"), "a").await.expect("there");
    assert_eq!(read, changed);
    let listed: Vec<ConfigMap> = client
        .list(Some("default"), &ListParams::default())
        .await
        .expect("a list");
    assert_eq!(listed, [changed]);
    client
        .delete::<ConfigMap>(Some("default"), "a", &DeleteParams::default())
        .await
        .expect("deleted");
    let gone = client
        .get::<ConfigMap>(Some("default"), "a")
        .await
        .expect_err("gone");
    assert!(gone.is_not_found());
}

#[tokio::test]
async fn the_cache_shows_a_write_before_its_answer_can_be_read_back() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    let cache = client.cache_of::<ConfigMap>().expect("a cache");
    let (snapshot, mut events) = cache.watch();
    assert!(snapshot.objects.is_empty());
    client.create(&map("a")).await.expect("created");
    client.sync().await.expect("in time");
    let object = cache.get("default", "a").expect("there");
    let parsed: ConfigMap = object.parse().expect("parsed");
    assert_eq!(parsed.metadata.name.as_deref(), Some("a"));
    let event = events.next().await.expect("no lag");
    assert_eq!(event.kind, CacheEventKind::Added);
    assert_eq!(&*event.object.meta.name, "a");
}

#[tokio::test]
async fn a_hundred_patches_at_once_all_take_effect() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    client.create(&map("a")).await.expect("created");
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..100 {
        let client = client.clone();
        tasks.spawn(async move {
            let patch = Patch::Merge(json!({"data": {format!("k{n}"): "v"}}));
            let mut left = 20;
            loop {
                let done = client
                    .patch::<ConfigMap>(Some("default"), "a", &patch, None)
                    .await;
                match done {
                    Err(error) if error.is_conflict() && left > 0 => left -= 1,
                    other => return other,
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("the task ends").expect("patched");
    }
    let read: ConfigMap = client.get(Some("default"), "a").await.expect("there");
    assert_eq!(read.data.map(|d| d.len()), Some(100));
}

#[tokio::test]
async fn what_is_written_in_memory_is_read_watched_and_replaced_and_nothing_is_on_the_disk() {
    let (server, directory) = server().await;
    let client = server.api.client();
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "n1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "n1", "renewTime": "2026-01-01T00:00:00.000000Z"},
    }))
    .expect("a Lease");
    client.create(&lease).await.expect("created");
    let writes = knarr_store::Store::stats(&*server.store).writes;
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    let stored = server.get(path).await.json();
    let mut watch = client.cache_of::<Lease>().expect("a cache").watch().1;
    let renew = async |time: &str| {
        let place = Some("kube-node-lease");
        client
            .write_in_memory::<Lease>(place, "n1", |lease| {
                lease["spec"]["renewTime"] = time.into();
            })
            .await
            .expect("renewed");
    };
    renew("2029-01-01T00:00:00.000000Z").await;
    renew("2030-01-01T00:00:00.000000Z").await;
    for year in ["2029", "2030"] {
        let event = watch.next().await.expect("an event");
        assert_eq!(event.revision, event.object.meta.resource_version);
        assert!(String::from_utf8_lossy(&event.object.bytes).contains(year));
    }
    let newer = "2030-01-01T00:00:00Z".parse().expect("a time");
    let read: Lease = client
        .get(Some("kube-node-lease"), "n1")
        .await
        .expect("there");
    let renewed = read.spec.and_then(|s| s.renew_time).map(|t| t.0);
    assert_eq!(renewed, Some(newer));
    let shown = server.get(path).await.json();
    assert_eq!(shown["spec"]["renewTime"], "2030-01-01T00:00:00.000000Z");
    assert_eq!(knarr_store::Store::stats(&*server.store).writes, writes);
    // Who has read the version before is refused, who has read the newest is not, and it is on the disk then.
    assert_eq!(server.send("PUT", path, &stored).await.code, 409);
    let mut newest = shown.clone();
    newest["spec"]["holderIdentity"] = "n2".into();
    assert_eq!(server.send("PUT", path, &newest).await.code, 200);
    assert_eq!(knarr_store::Store::stats(&*server.store).writes, writes + 1);
    renew("2031-01-01T00:00:00.000000Z").await;
    drop(watch);
    drop(client);
    server.stop().await;
    let server = Server::start_in(directory.path(), 0).await;
    let again = server.get(path).await.json();
    assert_eq!(again["spec"]["renewTime"], "2030-01-01T00:00:00.000000Z");
    assert_eq!(again["spec"]["holderIdentity"], "n2");
}

#[tokio::test]
async fn views_and_status_have_their_own_types() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "e", "namespace": "default"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "action": "Bind", "reason": "Scheduled", "type": "Normal", "note": "hello",
        "reportingController": "example.com/s", "reportingInstance": "s-1",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
    }))
    .expect("an Event");
    let made = client.create(&event).await.expect("created");
    assert_eq!(made.note.as_deref(), Some("hello"));
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "x:1"}]},
    }))
    .expect("a Pod");
    let mut pod = client.create(&pod).await.expect("created");
    if let Some(status) = &mut pod.status {
        status.phase = Some("Running".to_owned());
    }
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some("ignored".to_owned());
    }
    let pod = client.update_status(&pod).await.expect("updated");
    assert_eq!(pod.status.and_then(|s| s.phase).as_deref(), Some("Running"));
    assert_eq!(pod.spec.and_then(|s| s.hostname), None);
}
