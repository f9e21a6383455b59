// SPDX-License-Identifier: Apache-2.0
//! Informers that come and go with what is served.

use knarr_api::k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;
use tokio::task::JoinSet;

use super::*;
use crate::tests::api::Api;

fn of(resource: &str) -> GroupVersionResource {
    GroupVersionResource::new("", "v1", resource)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_come_and_go_with_their_resource() {
    let api = Api::new().await;
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "map", "namespace": "default"}}))
            .unwrap();
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "secret", "namespace": "default"}}))
            .unwrap();
    api.client.create(&map).await.unwrap();
    api.client.create(&secret).await.unwrap();
    api.client.sync().await.unwrap();
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let metadata = MetadataInformers {
        client: api.client.clone(),
        informers: shared.informers().clone(),
        state: Arc::default(),
    };
    metadata.follow(HashSet::from([of("configmaps")])).unwrap();
    metadata.synced().await;
    let changes: Arc<Mutex<Vec<(String, bool)>>> = Arc::default();
    let seen = changes.clone();
    metadata.subscribe(move |change| {
        let mut seen = seen.lock().unwrap();
        seen.push((change.name.name.clone(), change.new.is_some()));
    });
    let taken = || std::mem::take(&mut *changes.lock().unwrap());
    assert_eq!(taken(), [("map".to_owned(), true)]);
    // A resource that is served later has the same subscribers.
    metadata
        .follow(HashSet::from([of("configmaps"), of("secrets")]))
        .unwrap();
    metadata.synced().await;
    assert_eq!(taken(), [("secret".to_owned(), true)]);
    let unserved = metadata.all();
    metadata.follow(HashSet::from([of("secrets")])).unwrap();
    for informer in unserved {
        // Also the one that has ended answers.
        informer.catch_up().await;
    }
    assert_eq!(taken(), [("map".to_owned(), false)]);
    assert!(metadata.follow(HashSet::from([of("unknowns")])).is_err());
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_resource_but_events_is_followed() {
    let api = Api::new().await;
    let served = served(&api.client);
    assert!(served.contains(&of("pods")) && served.contains(&of("namespaces")));
    assert!(!served.contains(&of("events")));
    assert_eq!(
        api.client
            .scope_of("apps", "Deployment")
            .map(|scope| scope.0),
        Some(true)
    );
    assert_eq!(
        api.client.scope_of("", "Node").map(|scope| scope.0),
        Some(false)
    );
    assert!(api.client.scope_of("", "Unknown").is_none());
}
