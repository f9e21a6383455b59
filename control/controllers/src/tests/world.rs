// SPDX-License-Identifier: Apache-2.0
//! All controllers and an API server in this process, over a real store, with nodes that are played: their pods run and
//! end at once while the node lives.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use knarr_api::k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use knarr_apiserver::{Client, DeleteParams};
use knarr_control_plan::feed::plan_pod_status;
use knarr_store::{Embedded, Store};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Api, HeardNodes, settings};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::runner::Runner;
use crate::{CONTROLLERS, clock};

/// What a test waits at most for something that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct World {
    pub client: Client,
    pub store: Embedded,
    heartbeats: Arc<HeardNodes>,
    alive: Arc<Mutex<HashSet<String>>>,
    heard: Arc<Mutex<HashSet<String>>>,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    dir: Arc<tempfile::TempDir>,
    grace: Duration,
}

impl World {
    /// A new cluster without nodes.
    pub async fn new() -> Self {
        Self::with_grace(Duration::from_secs(40)).await
    }

    /// `grace` is how long nodes may be silent.
    pub async fn with_grace(grace: Duration) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::over(dir, Arc::default(), grace).await
    }

    async fn over(
        dir: Arc<tempfile::TempDir>,
        alive: Arc<Mutex<HashSet<String>>>,
        grace: Duration,
    ) -> Self {
        let heartbeats = Arc::new(HeardNodes::default());
        let Api { client, store, dir } = Api::over(dir).await;
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let settings = settings(heartbeats.clone(), grace);
        let runner = Runner::new(client.clone(), settings, CONTROLLERS, Metrics::default());
        tasks.spawn(
            runner
                .start(Leadership::always(), shutdown.clone())
                .unwrap(),
        );
        let heard: Arc<Mutex<HashSet<String>>> = Arc::default();
        let kubelets = Kubelets {
            client: client.clone(),
            alive: alive.clone(),
            heard: heard.clone(),
            heartbeats: heartbeats.clone(),
            made: Arc::default(),
        };
        tasks.spawn(kubelets.clone().beat(shutdown.clone()));
        tasks.spawn(kubelets.run_pods(shutdown.clone()));
        Self {
            client,
            store,
            heartbeats,
            alive,
            heard,
            tasks,
            shutdown,
            dir,
            grace,
        }
    }

    /// Ends every task where it stands, and starts again over the same store.
    pub async fn restart(self) -> Self {
        self.crash().await.start().await
    }

    /// Ends every task where it stands. The store closes in order, because the file is opened again in this process:
    /// writes that were asked of it may still take place without an answer. What `kill -9` does to it is shown
    /// with the program itself, in `control/tests/serve/kill.rs`.
    pub async fn crash(mut self) -> Crashed {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.shutdown.cancel();
        self.store.close().await;
        Crashed {
            dir: self.dir.clone(),
            alive: self.alive.clone(),
            grace: self.grace,
        }
    }

    /// Adds a living, ready node.
    pub async fn node(&self, name: &str) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
            },
        }))
        .unwrap();
        self.heartbeats.beat(name);
        let made: Node = self.client.create(&node).await.unwrap();
        if made
            .status
            .as_ref()
            .is_none_or(|status| status.conditions.is_none())
        {
            let node = Node {
                metadata: made.metadata,
                ..node
            };
            self.client.update_status(&node).await.unwrap();
        }
        self.set_alive(name);
    }

    fn alive(&self) -> parking_lot::MutexGuard<'_, HashSet<String>> {
        self.alive.lock()
    }

    /// The node runs its pods and sends heartbeats.
    pub fn set_alive(&self, name: &str) {
        self.heartbeats.beat(name);
        self.alive().insert(name.to_owned());
    }

    /// Heartbeats arrive again, and nothing else.
    pub fn set_heard(&self, name: &str) {
        self.heartbeats.beat(name);
        self.heard.lock().insert(name.to_owned());
    }

    /// The machine is off: it sends no heartbeat and its pods do not change any more.
    pub fn set_dead(&self, name: &str) {
        self.alive().remove(name);
    }

    /// Pods that are ready and stay.
    pub async fn ready_pods(&self) -> Vec<Pod> {
        let pods: Vec<Pod> = self.client.list(None, &Default::default()).await.unwrap();
        let ready = |pod: &Pod| {
            let conditions = pod
                .status
                .as_ref()
                .and_then(|status| status.conditions.as_ref());
            let mut conditions = conditions.into_iter().flatten();
            pod.metadata.deletion_timestamp.is_none()
                && conditions.any(|c| c.type_ == "Ready" && c.status == "True")
        };
        pods.into_iter().filter(ready).collect()
    }

    /// Number of writes to the store so far.
    pub fn writes(&self) -> u64 {
        self.store.stats().writes
    }
}

/// A [`World`] in which nothing runs.
pub struct Crashed {
    dir: Arc<tempfile::TempDir>,
    alive: Arc<Mutex<HashSet<String>>>,
    grace: Duration,
}

impl Crashed {
    /// The Nodes as the crash left them.
    pub async fn nodes(&self) -> Vec<Node> {
        let api = Api::over(self.dir.clone()).await;
        let nodes = api.client.list(None, &Default::default()).await.unwrap();
        api.store.close().await;
        nodes
    }

    /// Starts everything over the same store.
    pub async fn start(self) -> World {
        World::over(self.dir, self.alive, self.grace).await
    }
}

/// Waits until `holds`; fails with `what` when it never does.
pub async fn until<F, R>(what: &str, holds: F)
where
    F: Fn() -> R,
    R: Future<Output = bool>,
{
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
    });
    assert!(waited.await.is_ok(), "never happened: {what}");
}

#[derive(Clone)]
struct Kubelets {
    client: Client,
    alive: Arc<Mutex<HashSet<String>>>,
    heard: Arc<Mutex<HashSet<String>>>,
    heartbeats: Arc<HeardNodes>,
    made: Arc<AtomicU32>,
}

impl Kubelets {
    async fn beat(self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let locked = |names: &Mutex<HashSet<String>>| {
                let names = names.lock();
                names.clone()
            };
            let alive = locked(&self.alive);
            let heard = locked(&self.heard);
            for node in alive.union(&heard) {
                self.heartbeats.beat(node);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run_pods(self, shutdown: CancellationToken) {
        let cache = self.client.cache_of::<Pod>().unwrap();
        while !shutdown.is_cancelled() {
            for object in cache.list() {
                let pod: Pod = object.parse().unwrap();
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let alive = self.alive.lock().clone();
                if node.is_some_and(|node| alive.contains(&node)) {
                    self.run_pod(pod).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run_pod(&self, mut pod: Pod) {
        let namespace = pod.metadata.namespace.clone();
        let name = pod.metadata.name.clone().unwrap();
        if pod.metadata.deletion_timestamp.is_some() {
            let params = DeleteParams {
                uid: pod.metadata.uid.clone(),
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            let _ = self
                .client
                .delete::<Pod>(namespace.as_deref(), &name, &params)
                .await;
            return;
        }
        let image = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers[0].image.clone());
        let ready = if image.as_deref() == Some("broken") {
            "False"
        } else {
            "True"
        };
        let current = pod.status.clone().unwrap_or_default();
        let known = current.pod_ip.clone();
        let ip = known.unwrap_or_else(|| {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            format!("10.244.{}.{}", number / 200, number % 200 + 1)
        });
        let time = clock::now().to_string();
        let since = current
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready");
        let since = since.filter(|c| c.status == ready);
        let since = since
            .and_then(|c| c.last_transition_time.clone())
            .map(|t| t.0.to_string());
        let reported: PodStatus = serde_json::from_value(json!({
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since.unwrap_or(time)}],
        }))
        .unwrap();
        if let Some(status) = plan_pod_status(&current, &reported) {
            pod.status = Some(status);
            // Another writer may have changed or removed it; the next round reads it again.
            let _ = self.client.update_status(&pod).await;
        }
    }
}
