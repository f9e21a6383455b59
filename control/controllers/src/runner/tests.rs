// SPDX-License-Identifier: Apache-2.0
//! Controllers that tests register, under the real runner and over a real API server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use knarr_api::k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use knarr_api::names::NamespacedName;
use knarr_apiserver::{Object, Patch};
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::controller::{Controller, Reconcile};
use crate::informer::View;
use crate::leadership;
use crate::queue::Outcome;
use crate::tests::api::{Api, settings};
use crate::tests::world::until;

/// A ConfigMap with the label `test`, by whose value each test finds its own.
struct MapView;

impl View for MapView {
    type Kind = ConfigMap;

    fn of(object: &Object) -> Option<Self> {
        object.meta.label("test").map(|_| Self)
    }
}

/// What the controller of these tests does with a key, by the key's name.
#[derive(Default)]
struct Probe {
    calls: Mutex<HashMap<String, usize>>,
    running: Mutex<HashMap<String, usize>>,
    overlaps: AtomicUsize,
}

impl Probe {
    fn calls(&self, name: &str) -> usize {
        self.calls.lock().get(name).copied().unwrap_or(0)
    }

    fn running(&self) -> usize {
        self.running.lock().values().sum()
    }
}

/// One for each process that a test plays. Each test runs in a process of its own or uses names of its own.
static PROBES: LazyLock<[Arc<Probe>; 2]> = LazyLock::new(Default::default);

struct Marker {
    client: Client,
    probe: Arc<Probe>,
}

/// Takes a key out of those in progress, also when the reconcile is dropped.
struct Running<'a>(&'a Probe, String);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running.lock();
        *running.entry(self.1.clone()).or_default() -= 1;
    }
}

#[async_trait]
impl Reconcile for Marker {
    type Key = NamespacedName;

    async fn reconcile(&self, key: &NamespacedName) -> Result<Outcome, ApiError> {
        let name = key.name.clone();
        {
            let mut running = self.probe.running.lock();
            let running = running.entry(name.clone()).or_default();
            *running += 1;
            if *running > 1 {
                self.probe.overlaps.fetch_add(1, Ordering::SeqCst);
            }
        }
        let _running = Running(&self.probe, name.clone());
        let calls = {
            let mut calls = self.probe.calls.lock();
            let calls = calls.entry(name.clone()).or_default();
            *calls += 1;
            *calls
        };
        match name.as_str() {
            "panics" if calls == 1 => panic!("on purpose"),
            "fails" if calls < 4 => Err(ApiError::internal("on purpose")),
            _ if name.starts_with("hangs") => std::future::pending().await,
            "slow" => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(Outcome::Done)
            }
            _ => {
                let patch = Patch::Merge(json!({"metadata": {"annotations": {"seen": "yes"}}}));
                let _: ConfigMap = self
                    .client
                    .patch(key.namespace(), &name, &patch, None)
                    .await?;
                Ok(Outcome::Done)
            }
        }
    }
}

fn register(shared: &Shared, process: usize) -> Result<Registration, ApiError> {
    let maps = shared.informers().of::<MapView>()?;
    Ok(Controller::new(shared, "marker", 4)
        .watches_itself(&maps)
        .reconcile(Marker {
            client: shared.client(),
            probe: PROBES[process].clone(),
        }))
}

/// A controller is registered by one line.
const FIRST: &[Register] = &[|shared| register(shared, 0)];
const SECOND: &[Register] = &[|shared| register(shared, 1)];

fn runner(api: &Api, controllers: &'static [Register]) -> Runner {
    let settings = settings(Arc::default(), Duration::from_secs(40));
    Runner::new(
        api.client.clone(),
        settings,
        controllers,
        Metrics::default(),
    )
}

async fn create(api: &Api, name: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": name, "namespace": "default", "labels": {"test": ""}}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    api.client.create(&map).await.unwrap()
}

async fn is_marked(api: &Api, name: &str) -> bool {
    let map: ConfigMap = api.client.get(Some("default"), name).await.unwrap();
    map.metadata
        .annotations
        .is_some_and(|all| all.contains_key("seen"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_of_one_line_reconciles_what_there_is_and_what_comes() {
    let api = Api::new().await;
    create(&api, "before").await;
    let shutdown = CancellationToken::new();
    let runner = runner(&api, FIRST);
    let metrics = runner.metrics.clone();
    let running = tokio::spawn(
        runner
            .start(Leadership::always(), shutdown.clone())
            .unwrap(),
    );
    create(&api, "after").await;
    for name in ["before", "after"] {
        until("the map is marked", async || is_marked(&api, name).await).await;
    }
    let text = metrics.text();
    assert!(text.contains("workqueue_depth{name=\"marker\"}"), "{text}");
    assert!(
        text.contains("workqueue_adds_total{name=\"marker\"}"),
        "{text}"
    );
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_and_panics_are_retried_and_counted_and_others_go_on() {
    let api = Api::new().await;
    let shutdown = CancellationToken::new();
    let runner = runner(&api, FIRST);
    let metrics = runner.metrics.clone();
    let running = tokio::spawn(
        runner
            .start(Leadership::always(), shutdown.clone())
            .unwrap(),
    );
    for name in ["panics", "fails", "other"] {
        create(&api, name).await;
    }
    for name in ["panics", "fails", "other"] {
        until("the map is marked", async || is_marked(&api, name).await).await;
    }
    assert!(PROBES[0].calls("fails") >= 4);
    let text = metrics.text();
    assert!(
        text.contains("knarr_controller_panics_total{name=\"marker\"} 1\n"),
        "{text}"
    );
    // One for the panic and three for the failures.
    assert!(
        text.contains("workqueue_retries_total{name=\"marker\"} 4\n"),
        "{text}"
    );
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_never_reconciled_by_two_workers_at_once() {
    let api = Api::new().await;
    let shutdown = CancellationToken::new();
    let running = runner(&api, FIRST).start(Leadership::always(), shutdown.clone());
    let running = tokio::spawn(running.unwrap());
    let mut map = create(&api, "slow").await;
    for n in 0..30 {
        map.data = Some([("n".to_owned(), n.to_string())].into());
        map = api.client.update(&map).await.unwrap();
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    until("it was reconciled again", async || {
        PROBES[0].calls("slow") > 2
    })
    .await;
    until("the last change is done", async || PROBES[0].running() == 0).await;
    assert_eq!(PROBES[0].overlaps.load(Ordering::SeqCst), 0);
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workers_of_a_process_that_lost_have_ended_before_another_leads() {
    let api = Api::new().await;
    let shutdown = CancellationToken::new();
    let (mut first_elector, first_leadership) = leadership::channel();
    let (second_elector, second_leadership) = leadership::channel();
    let first = runner(&api, FIRST).start(first_leadership, shutdown.clone());
    let second = runner(&api, SECOND).start(second_leadership, shutdown.clone());
    let (first, second) = (tokio::spawn(first.unwrap()), tokio::spawn(second.unwrap()));
    create(&api, "hangs").await;
    create(&api, "early").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!is_marked(&api, "early").await, "no process leads");
    first_elector.lead();
    until("the first works", async || {
        is_marked(&api, "early").await && PROBES[0].running() == 1
    })
    .await;
    assert_eq!(PROBES[1].calls("early"), 0);
    // The reconcile that hangs is given time, and then dropped.
    first_elector.step_down().await;
    assert_eq!(PROBES[0].running(), 0, "no reconcile of the first is left");
    let calls = PROBES[0].calls("early");
    second_elector.lead();
    create(&api, "late").await;
    until("the second works", async || is_marked(&api, "late").await).await;
    assert_eq!(PROBES[0].calls("late"), 0);
    assert_eq!(PROBES[0].calls("early"), calls);
    // And back: a process that lost leads again with fresh informers.
    drop(second_elector);
    first_elector.lead();
    create(&api, "again").await;
    until("the first works again", async || {
        is_marked(&api, "again").await
    })
    .await;
    assert!(
        PROBES[0].calls("late") > 0,
        "it reconciles everything at the start of its term"
    );
    shutdown.cancel();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_lost_shows_no_key_and_no_pod_that_waits() {
    const WITH_SCHEDULER: &[Register] = &[|shared| register(shared, 0), crate::scheduler::register];
    let api = Api::new().await;
    let shutdown = CancellationToken::new();
    let (mut elector, leadership) = leadership::channel();
    let runner = runner(&api, WITH_SCHEDULER);
    let metrics = runner.metrics.clone();
    let running = tokio::spawn(runner.start(leadership, shutdown.clone()).unwrap());
    // Every worker has a key that hangs, and two keys wait. A pod waits, for there is no node.
    for name in [
        "hangs-1", "hangs-2", "hangs-3", "hangs-4", "hangs-5", "hangs-6",
    ] {
        create(&api, name).await;
    }
    // Pods wait for their account, and no controller runs here that makes it.
    let account = json!({"metadata": {"name": "default", "namespace": "default"}});
    let account: ServiceAccount = serde_json::from_value(account).unwrap();
    api.client.create(&account).await.unwrap();
    let pod = json!({"metadata": {"name": "waits", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    api.client.create(&pod).await.unwrap();
    let shows = |keys: u32, pods: u32| {
        let text = metrics.text();
        text.contains(&format!("workqueue_depth{{name=\"marker\"}} {keys}\n"))
            && text.contains(&format!(
                "scheduler_pending_pods{{queue=\"unschedulable\"}} {pods}\n"
            ))
    };
    for term in 1..=2 {
        elector.lead();
        until("they wait", async || shows(2, 1)).await;
        elector.step_down().await;
        assert!(shows(0, 0), "after term {term}: {}", metrics.text());
    }
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_informer_that_panics_ends_the_runner() {
    struct Broken;
    impl View for Broken {
        type Kind = ConfigMap;
        fn of(_: &Object) -> Option<Self> {
            panic!("on purpose")
        }
    }
    const BROKEN: &[Register] = &[|shared| {
        let maps = shared.informers().of::<Broken>()?;
        Ok(Controller::new(shared, "broken", 1)
            .watches_itself(&maps)
            .reconcile(Marker {
                client: shared.client(),
                probe: Arc::default(),
            }))
    }];
    let api = Api::new().await;
    create(&api, "any").await;
    let shutdown = CancellationToken::new();
    let running = runner(&api, BROKEN).start(Leadership::always(), shutdown.clone());
    let ended = tokio::time::timeout(Duration::from_secs(30), running.unwrap());
    ended.await.expect("it ends by itself");
    assert!(!shutdown.is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_ends_by_itself_ends_the_runner() {
    const ENDING: &[Register] =
        &[|_| Ok(Registration::of_loop("ending", |_| std::future::ready(())))];
    let api = Api::new().await;
    let running = runner(&api, ENDING).start(Leadership::always(), CancellationToken::new());
    let ended = tokio::time::timeout(Duration::from_secs(30), running.unwrap());
    ended.await.expect("it ends by itself");
}
