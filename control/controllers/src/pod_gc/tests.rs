// SPDX-License-Identifier: Apache-2.0
//! What changes of nodes leave for the reconcile of their pods.

use knarr_api::k8s_openapi::api::core::v1::Node;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock;
use crate::tests::api::Api;
use crate::tests::world::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_back_ends_its_departure_although_no_pod_is_reconciled() {
    let api = Api::new().await;
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let shared = api.shared(&stop, &mut tasks);
    let nodes = shared.informers().of::<NodeView>().unwrap();
    let pods = shared.informers().of::<PodView>().unwrap();
    let departures: Arc<Mutex<Departures>> = Arc::default();
    let queue = Controller::new(&shared, NAME, WORKERS).queue();
    let departed = departures.clone();
    nodes.subscribe(move |change| queue_pods_without_node(&queue, &departed, &pods, change));
    let minute_ago = clock::now() - Duration::from_secs(60);
    let gone_since = |now| departures.lock().since("node-1", |_| true, now);
    assert_eq!(gone_since(minute_ago), minute_ago);
    let mut node = Node::default();
    node.metadata.name = Some("node-1".to_owned());
    api.client.create(&node).await.unwrap();
    until("the node is seen", async || {
        nodes.view(&NamespacedName::cluster("node-1")).is_some()
    })
    .await;
    nodes.catch_up().await;
    let now = clock::now();
    assert_eq!(gone_since(now), now);
    stop.cancel();
}
