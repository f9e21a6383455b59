// SPDX-License-Identifier: Apache-2.0
//! The scheduler against an API server, while its bindings are in flight.

use knarr_api::k8s_openapi::api::core::v1::ServiceAccount;
use knarr_apiserver::DeleteParams;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::tests::api::Api;

/// A scheduler that runs only when a test says so.
struct Bench {
    api: Api,
    scheduler: Scheduler,
    scope: Scope,
    _recording: JoinSet<()>,
}

impl Bench {
    /// Two nodes, called `small` and `large` by the label `size`.
    async fn new() -> Self {
        let api = Api::new().await;
        // Pods wait for it, and no controller runs here that makes it.
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
        let scope = Scope {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut recording = JoinSet::new();
        let shared = api.shared(&scope.stop, &mut recording);
        let scheduler = Scheduler::new(&shared).unwrap();
        Self {
            api,
            scheduler,
            scope,
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
        self.scheduler.take_in();
    }

    /// The decision for the pod that is tried next.
    fn decide(&mut self) -> Option<Decision> {
        self.scheduler.plan.schedule_one(now())
    }

    fn decide_to_bind(&mut self) -> Binding {
        match self.decide() {
            Some(Decision::Bind(binding)) => binding,
            other => panic!("{other:?}"),
        }
    }

    async fn schedule(&mut self) {
        self.scheduler.schedule_some(&self.scope).await;
    }

    /// Takes in how the bindings in flight end.
    async fn settle(&mut self) {
        while let Some(bound) = self.scheduler.bindings.join_next().await {
            self.scheduler.settle(bound);
        }
    }

    /// Writes the reasons that are due.
    async fn notify(&mut self) {
        self.scheduler.start_notifications(&self.scope);
        while let Some(notified) = self.scheduler.notifications.join_next().await {
            self.scheduler.notified(notified);
        }
    }
}

fn on(size: &str) -> Value {
    json!({"nodeSelector": {"size": size}, "containers": [{"name": "c", "image": "i"}]})
}

fn uid_of(pod: &Pod) -> Arc<str> {
    pod.metadata.uid.as_deref().unwrap().into()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_created_again_under_its_name_is_not_bound_by_the_decision_for_the_first() {
    let mut bench = Bench::new().await;
    bench.create("web", on("small")).await;
    bench.see().await;
    let decided = bench.decide_to_bind();
    assert_eq!(&*decided.node, "small");
    let at_once = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let client = bench.api.client.clone();
    let gone = client.delete::<Pod>(Some("default"), "web", &at_once);
    gone.await.unwrap();
    bench.create("web", on("large")).await;
    bench.scheduler.bind(decided, &bench.scope).await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), None);
    bench.see().await;
    bench.schedule().await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), Some("large"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_binding_panics_is_tried_again() {
    let mut bench = Bench::new().await;
    bench.create("web", on("small")).await;
    bench.see().await;
    let uid = bench.decide_to_bind().uid;
    let panics = std::future::ready(());
    let panics = panics.map(|()| -> Result<(), ApiError> { panic!("on purpose") });
    let binding = bench
        .scheduler
        .start_binding(uid.clone(), &bench.scope, panics);
    binding.await;
    bench.settle().await;
    assert_eq!(bench.scheduler.plan.cluster().node_of(&uid), None);
    bench.schedule().await;
    bench.settle().await;
    assert_eq!(node_of(&bench.get("web").await), Some("small"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_room_of_a_binding_in_flight_is_not_given_out_again_after_falling_behind() {
    let mut bench = Bench::new().await;
    let whole = |size: &str| {
        json!({"nodeSelector": {"size": size}, "containers": [{"name": "c", "image": "i",
            "resources": {"requests": {"cpu": "3"}}}]})
    };
    bench.create("first", whole("small")).await;
    bench.see().await;
    let decided = bench.decide_to_bind();
    let client = bench.api.client.clone();
    let uid = decided.uid.clone();
    let slow = async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client
            .bind("default", "first", &decided.uid, &decided.node)
            .await
    };
    let binding = bench.scheduler.start_binding(uid, &bench.scope, slow);
    binding.await;
    // As for a reader that fell behind: everything is listed again, and the binding is not in the list.
    let client = bench.api.client.clone();
    bench.scheduler.nodes = Reflector::new(client.cache_of::<Node>().unwrap());
    bench.scheduler.pods = Reflector::new(client.cache_of::<Pod>().unwrap());
    let second = uid_of(&bench.create("second", whole("small")).await);
    bench.see().await;
    assert_eq!(
        bench.decide(),
        Some(Decision::Unschedulable(second.clone()))
    );
    bench.settle().await;
    assert_eq!(node_of(&bench.get("first").await), Some("small"));
    bench.see().await;
    bench.schedule().await;
    assert!(bench.scheduler.plan.queue().is_unschedulable(&second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reason_does_not_overwrite_that_a_pod_was_bound() {
    let mut bench = Bench::new().await;
    let uid = uid_of(&bench.create("web", on("medium")).await);
    bench.see().await;
    bench.schedule().await;
    let client = bench.api.client.clone();
    let bound = client.bind("default", "web", &uid, "small");
    bound.await.unwrap();
    let before = bench.get("web").await.status.unwrap().conditions;
    bench.notify().await;
    let pod = bench.get("web").await;
    assert_eq!(pod.status.unwrap().conditions, before);
    let waiting = uid_of(&bench.create("waiting", on("medium")).await);
    bench.see().await;
    bench.schedule().await;
    assert!(bench.scheduler.plan.queue().is_unschedulable(&waiting));
    bench.notify().await;
    let conditions = bench.get("waiting").await.status.unwrap().conditions;
    let conditions = conditions.into_iter().flatten();
    let reasons = conditions.filter_map(|condition| condition.reason);
    assert_eq!(reasons.collect::<Vec<_>>(), ["Unschedulable"]);
}
