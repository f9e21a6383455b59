// SPDX-License-Identifier: Apache-2.0
//! Informers that come and go with what is served.

use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::tests::api::{Api, WIDGETS, widgets};

fn owner(api_version: &str, kind: &str) -> OwnerRef {
    OwnerRef {
        uid: "1".into(),
        api_version: api_version.into(),
        kind: kind.into(),
        name: "owner".into(),
        blocks: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_and_go_with_their_kind() {
    let api = Api::new().await;
    let client = &api.client;
    client.serve_kind(widgets("first")).await.unwrap();
    let object = json!({"metadata": {"name": "w", "namespace": "default"}});
    let made = client.create_resource(&WIDGETS, Some("default"), object);
    made.await.unwrap();
    client.sync().await.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let metadata = MetadataInformers::of(shared.informers());
    metadata.synced().await;
    let changes: Arc<Mutex<Vec<(bool, bool)>>> = Arc::default();
    let (seen, known_now) = (changes.clone(), metadata.clone());
    let kind = owner("example.com/v1", "Widget");
    let widget = kind.clone();
    metadata.subscribe(move |change| {
        if change.name.name == "w" {
            let mut seen = seen.lock();
            seen.push((change.old.is_some(), change.new.is_some()));
        }
    });
    let known: Arc<Mutex<usize>> = Arc::default();
    let counted = known.clone();
    metadata.subscribe_known(move |kinds| {
        *counted.lock() += kinds.iter().filter(|kind| kind.is_of(&widget)).count();
    });
    let taken = || std::mem::take(&mut *changes.lock());
    let is_known = || known_now.known().iter().any(|known| known.is_of(&kind));
    assert_eq!(taken(), [(false, true)]);
    assert!(is_known());
    // The objects of the kind that is replaced leave before they come back.
    client.serve_kind(widgets("second")).await.unwrap();
    drop(metadata.catch_up().await);
    assert_eq!(taken(), [(true, false), (false, true)]);
    assert!(is_known());
    assert_eq!(*known.lock(), 1);
    client.withdraw_kind(&WIDGETS).await.unwrap();
    drop(metadata.catch_up().await);
    assert_eq!(taken(), [(true, false)]);
    assert!(!is_known());
    client.serve_kind(widgets("third")).await.unwrap();
    drop(metadata.catch_up().await);
    assert_eq!(taken(), [(false, true)]);
    assert_eq!(*known.lock(), 2);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kind_comes_or_goes_while_a_plan_is_made() {
    let api = Api::new().await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let metadata = MetadataInformers::of(shared.informers());
    let caught_up = metadata.catch_up().await;
    let before = metadata.known();
    api.client.serve_kind(widgets("first")).await.unwrap();
    let next = metadata.catch_up();
    tokio::pin!(next);
    let waits = tokio::time::timeout(std::time::Duration::from_millis(50), &mut next);
    assert!(waits.await.is_err(), "it waits for the kind");
    assert_eq!(metadata.known(), before);
    drop(caught_up);
    drop(next.await);
    assert_eq!(metadata.known().len(), before.len() + 1);
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_but_events_is_followed() {
    let api = Api::new().await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let metadata = MetadataInformers::of(shared.informers());
    metadata.synced().await;
    let known = metadata.known();
    let scope = |api_version: &str, kind: &str| {
        let owner = owner(api_version, kind);
        let known = known.iter().find(|known| known.is_of(&owner));
        known.map(|known| known.namespaced.0)
    };
    assert_eq!(scope("apps/v1", "Deployment"), Some(true));
    assert_eq!(scope("v1", "Node"), Some(false));
    assert_eq!(scope("v1", "Event"), None);
    assert_eq!(scope("v1", "Unknown"), None);
    stop.cancel();
}
