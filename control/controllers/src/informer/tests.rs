// SPDX-License-Identifier: Apache-2.0
//! Informers over the watch cache of a real API server.

use std::sync::atomic::{AtomicUsize, Ordering};

use knarr_api::k8s_openapi::api::core::v1::ConfigMap;
use knarr_apiserver::DeleteParams;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tests::api::Api;
use crate::tests::world::until;

/// How often a view of a ConfigMap was made.
static MADE: AtomicUsize = AtomicUsize::new(0);

struct MapView {
    version: u64,
}

impl View for MapView {
    type Kind = ConfigMap;

    fn of(object: &Object) -> Option<Self> {
        MADE.fetch_add(1, Ordering::SeqCst);
        Some(Self {
            version: object.meta.resource_version,
        })
    }
}

fn map(name: &str, bytes: usize) -> ConfigMap {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "data": {"padding": "x".repeat(bytes)},
    }))
    .unwrap()
}

async fn delete(api: &Api, name: &str) {
    let params = DeleteParams::default();
    let gone = api
        .client
        .delete::<ConfigMap>(Some("default"), name, &params);
    gone.await.unwrap();
}

/// Names of the objects that a subscriber was called with; gone ones with a minus sign.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn subscribe(informer: &Informer<MapView>) -> Self {
        let seen = Self::default();
        let names = seen.0.clone();
        informer.subscribe(move |change| {
            let sign = if change.new.is_some() { "" } else { "-" };
            names.lock().push(format!("{sign}{}", change.name.name));
        });
        seen
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_subscribers_share_one_list_and_one_watch_and_both_see_every_change() {
    let api = Api::new().await;
    let cache = api.client.cache_of::<ConfigMap>().unwrap();
    let readers_before = cache.readers();
    api.client.create(&map("first", 0)).await.unwrap();
    api.client.sync().await.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let (one, two) = (
        shared.informers().of::<MapView>().unwrap(),
        shared.informers().of::<MapView>().unwrap(),
    );
    let early = Seen::subscribe(&one);
    two.synced().await;
    api.client.create(&map("second", 0)).await.unwrap();
    api.client.sync().await.unwrap();
    two.catch_up().await;
    // Subscribes after the changes, and sees what there is all the same.
    let late = Seen::subscribe(&two);
    let mut third = api.client.create(&map("third", 0)).await.unwrap();
    third.data = None;
    api.client.update(&third).await.unwrap();
    delete(&api, "first").await;
    api.client.sync().await.unwrap();
    one.catch_up().await;
    assert_eq!(
        early.names(),
        ["first", "second", "third", "third", "-first"]
    );
    assert_eq!(
        late.names(),
        ["first", "second", "third", "third", "-first"]
    );
    assert_eq!(cache.readers() - readers_before, 1, "one watch for both");
    assert_eq!(MADE.load(Ordering::SeqCst), 4, "each object was read once");
    let name = NamespacedName::new("default", "second");
    let (cached, own) = (
        cache.get("default", "second").unwrap(),
        one.object(&name).unwrap(),
    );
    assert!(Arc::ptr_eq(&cached, &own), "the object is the cache's");
    assert_eq!(
        one.view(&name).unwrap().version,
        cached.meta.resource_version
    );
    stop.cancel();
    until("the watch ends", async || cache.readers() == readers_before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_fell_behind_lists_again_and_finds_out_what_is_gone() {
    let api = Api::new().await;
    let client = &api.client;
    for name in ["gone", "replaced", "stays"] {
        client.create(&map(name, 0)).await.unwrap();
    }
    client.sync().await.unwrap();
    let cache = client.cache_of::<ConfigMap>().unwrap();
    let versions = |object: &Object| Some(object.meta.resource_version);
    let (informer, following) = Informer::new(
        cache.clone(),
        Box::new(versions),
        |_| Vec::new(),
        CancellationToken::new(),
    );
    let changes: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let seen = changes.clone();
    let mut following = Box::pin(following);
    // The follower runs only when it is polled here, so it falls behind when the test wants.
    tokio::select! {
        () = informer.synced() => {}
        () = &mut following => {}
    }
    informer.subscribe(move |change| {
        let name = change.name.name.clone();
        seen.lock().push((name, change.new.is_some()));
    });
    changes.lock().clear();
    for name in ["gone", "replaced"] {
        delete(&api, name).await;
    }
    client.create(&map("replaced", 0)).await.unwrap();
    // More than the cache's window holds, so that the deletions are not in it any more.
    for n in 0..12 {
        client
            .create(&map(&format!("large-{n}"), 900_000))
            .await
            .unwrap();
    }
    client.sync().await.unwrap();
    tokio::select! {
        () = informer.catch_up() => {}
        () = &mut following => {}
    }
    let changes = changes.lock().clone();
    assert!(changes.contains(&("gone".to_owned(), false)), "{changes:?}");
    assert!(
        changes.contains(&("replaced".to_owned(), true)),
        "{changes:?}"
    );
    assert!(
        changes.contains(&("large-11".to_owned(), true)),
        "{changes:?}"
    );
    assert!(
        !changes.contains(&("replaced".to_owned(), false)),
        "a list shows no deletion in between"
    );
    let names: Vec<String> = informer
        .views()
        .into_iter()
        .map(|(name, _)| name.name)
        .collect();
    assert_eq!(names.len(), 14);
    assert!(!names.contains(&"gone".to_owned()));
    for (name, version) in informer.views() {
        let cached = cache.get(&name.namespace, &name.name).unwrap();
        assert_eq!(*version, cached.meta.resource_version, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plan_is_made_from_views_that_stopped_following() {
    let api = Api::new().await;
    let cache = api.client.cache_of::<ConfigMap>().unwrap();
    let (informer, following) = Informer::new(
        cache,
        Box::new(|_| Some(())),
        |_| Vec::new(),
        CancellationToken::new(),
    );
    drop(following);
    let short = std::time::Duration::from_millis(50);
    let caught_up = tokio::time::timeout(short, informer.catch_up()).await;
    assert!(caught_up.is_err(), "it must not go on");
    let synced = tokio::time::timeout(short, informer.synced()).await;
    assert!(synced.is_err(), "it must not go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_that_caught_up_before_anything_happened_is_synced() {
    let api = Api::new().await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let informer = api
        .shared(&stop, &mut tasks)
        .informers()
        .of::<MapView>()
        .unwrap();
    informer.catch_up().await;
    let wait = std::time::Duration::from_secs(30);
    let synced = tokio::time::timeout(wait, informer.synced()).await;
    assert!(synced.is_ok());
    stop.cancel();
}
