// SPDX-License-Identifier: Apache-2.0
//! Tests of the scheduler's picture of the cluster while its bindings are on their way.

use knarr_api::k8s_openapi::api::core::v1::ServiceAccount;
use knarr_apiserver::DeleteParams;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::tests::world::Api;
use super::*;
use crate::recorder::Recorder;

/// A scheduler that runs only when a test says so.
struct Bench {
    api: Api,
    scheduler: Scheduler,
    streams: Streams,
    _recording: JoinSet<()>,
}

impl Bench {
    /// Two nodes, called `small` and `large` by the label `size`.
    async fn new() -> Self {
        let api = Api::new().await;
        // Pods wait for it, and no loop runs here that makes it.
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        let account: ServiceAccount = serde_json::from_value(account).unwrap();
        api.client.create(&account).await.unwrap();
        for name in ["small", "large"] {
            let node = json!({
                "metadata": {"name": name, "labels": {"size": name}},
                "status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "10"},
                    "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10"},
                    "conditions": [{"type": "Ready", "status": "True"}]},
            });
            let mut node: Node = serde_json::from_value(node).unwrap();
            let status = node.status.clone();
            node = api.client.create(&node).await.unwrap();
            node.status = status;
            api.client.update_status(&node).await.unwrap();
        }
        let shutdown = CancellationToken::new();
        let mut recording = JoinSet::new();
        let recorder = Recorder::start(api.client.clone(), shutdown.clone(), &mut recording);
        let mut scheduler = Scheduler::new(Context {
            client: api.client.clone(),
            shutdown,
            recorder,
        });
        api.client.sync().await.unwrap();
        let streams = scheduler.list().unwrap();
        Self {
            api,
            scheduler,
            streams,
            _recording: recording,
        }
    }

    async fn create(&self, name: &str, spec: Value) -> Pod {
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.api.client.create(&pod).await.unwrap()
    }

    async fn get(&self, name: &str) -> Pod {
        self.api.client.get(Some("default"), name).await.unwrap()
    }

    async fn see(&mut self) {
        self.api.client.sync().await.unwrap();
        self.scheduler.take_changes(&mut self.streams).unwrap();
    }

    /// Takes in how the bindings that are on their way end.
    async fn settle(&mut self) {
        while let Some(bound) = self.scheduler.bindings.join_next().await {
            self.scheduler.settle(bound);
        }
    }

    /// Takes in how the tellings that are due end.
    async fn tell(&mut self) {
        self.scheduler.tell();
        while let Some(told) = self.scheduler.telling.join_next().await {
            self.scheduler.told(told);
        }
    }
}

fn on(size: &str) -> Value {
    json!({"nodeSelector": {"size": size}, "containers": [{"name": "c", "image": "i"}]})
}

fn name(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn uid_of(pod: &Pod) -> Arc<str> {
    pod.metadata.uid.as_deref().unwrap().into()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_made_again_under_its_name_is_not_bound_by_the_decision_for_the_first() {
    let mut bench = Bench::new().await;
    let first = uid_of(&bench.create("web", on("small")).await);
    bench.see().await;
    let node = bench.scheduler.cluster.place(&first).unwrap();
    assert_eq!(&*node, "small");
    bench.scheduler.active.clear();
    bench.scheduler.cluster.assume(&first, &node);
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let client = bench.api.client.clone();
    let gone = client.delete::<Pod>(Some("default"), "web", &at_once);
    gone.await.unwrap();
    bench.create("web", on("large")).await;
    bench.scheduler.bind(first, name("web"), node).await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), None);
    bench.see().await;
    bench.scheduler.place_some().await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), Some("large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_binding_panics_is_tried_again() {
    let mut bench = Bench::new().await;
    let uid = uid_of(&bench.create("web", on("small")).await);
    bench.see().await;
    bench.scheduler.active.clear();
    bench.scheduler.cluster.assume(&uid, &"small".into());
    let panics = std::future::ready(());
    let panics = panics.map(|()| -> Result<(), ApiError> { panic!("on purpose") });
    bench.scheduler.spawn_binding(uid.clone(), panics).await;
    bench.settle().await;
    assert_eq!(bench.scheduler.cluster.node_of(&uid), None);
    bench.scheduler.place_some().await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), Some("small"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_of_a_binding_on_its_way_is_not_given_out_again_after_falling_behind() {
    let mut bench = Bench::new().await;
    let whole = |size: &str| {
        json!({"nodeSelector": {"size": size}, "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "3"}}}]})
    };
    let first = uid_of(&bench.create("first", whole("small")).await);
    bench.see().await;
    bench.scheduler.active.clear();
    bench.scheduler.cluster.assume(&first, &"small".into());
    let client = bench.api.client.clone();
    let bound = first.clone();
    let slow = async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.bind("default", "first", &bound, "small").await
    };
    bench.scheduler.spawn_binding(first.clone(), slow).await;
    bench.scheduler.start_over().await;
    bench.streams = bench.scheduler.list().unwrap();
    assert!(bench.scheduler.bindings.is_empty());
    let known = bench.scheduler.cluster.node_of(&first).cloned();
    assert_eq!(known.as_deref(), Some("small"));
    let second = uid_of(&bench.create("second", whole("small")).await);
    bench.see().await;
    assert!(bench.scheduler.cluster.place(&second).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reason_does_not_overwrite_that_a_pod_was_bound() {
    let mut bench = Bench::new().await;
    let uid = uid_of(&bench.create("web", on("medium")).await);
    bench.see().await;
    bench.scheduler.place_some().await;
    let client = bench.api.client.clone();
    let bound = client.bind("default", "web", &uid, "small");
    bound.await.unwrap();
    let before = bench.get("web").await.status.unwrap().conditions;
    bench.tell().await;
    let pod = bench.get("web").await;
    assert_eq!(pod.status.unwrap().conditions, before);
    let waiting = uid_of(&bench.create("waiting", on("medium")).await);
    bench.see().await;
    bench.scheduler.place_some().await;
    assert!(bench.scheduler.waiting.contains_key(&waiting));
    bench.tell().await;
    let conditions = bench.get("waiting").await.status.unwrap().conditions;
    let told = conditions.into_iter().flatten();
    let told = told.filter_map(|condition| condition.reason);
    assert_eq!(told.collect::<Vec<_>>(), ["Unschedulable"]);
}
