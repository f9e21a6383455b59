// SPDX-License-Identifier: Apache-2.0
//! What goes wrong underneath or in between: clients that hang up, writes whose outcome is unknown, objects that
//! cannot be read, tasks that die.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use knarr_apiserver::{ApiConfig, ApiServer, Client, DeleteParams, ListParams};
use knarr_store::{
    Embedded, Op, Options, Range, RangeResult, Revision, Sharing, Stats, Store, StoreDied,
    StoreError, Txn, TxnResult, WatchStream,
};
use serde_json::json;
use tokio::sync::watch;

use crate::harness::{EchoLogs, Ranges, Server};
use crate::server;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);
const TAKEN: &str = "provided IP is already allocated";

/// A store over a real one that can be made to fail.
struct Failing {
    inner: Arc<Embedded>,
    /// Writes report a failure and take place (or not) when [`Failing::fate`] is known, as after a commit whose
    /// answer was lost.
    unsure: AtomicBool,
    fate: watch::Sender<Fate>,
    /// Such writes whose fate is not carried out yet.
    pending: watch::Sender<usize>,
    compaction_panics: AtomicBool,
    /// Compactions that were asked for.
    compactions: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unknown,
    Written,
    Lost,
}

impl Failing {
    fn over(directory: &std::path::Path) -> Arc<Self> {
        let inner = Embedded::open(&directory.join("store.redb"), Options::default());
        Arc::new(Self {
            inner: Arc::new(inner.expect("a store")),
            unsure: AtomicBool::new(false),
            fate: watch::Sender::new(Fate::Unknown),
            pending: watch::Sender::new(0),
            compaction_panics: AtomicBool::new(false),
            compactions: AtomicUsize::new(0),
        })
    }

    async fn fate_is_known(&self) {
        let mut pending = self.pending.subscribe();
        let _ = pending.wait_for(|pending| *pending == 0).await;
    }
}

#[async_trait]
impl Store for Failing {
    async fn current_revision(&self) -> Result<Revision, StoreError> {
        self.inner.current_revision().await
    }

    async fn range(&self, range: Range) -> Result<RangeResult, StoreError> {
        self.inner.range(range).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult, StoreError> {
        if !self.unsure.load(Ordering::Relaxed) {
            return self.inner.txn(txn).await;
        }
        let (inner, mut fate) = (Arc::clone(&self.inner), self.fate.subscribe());
        self.pending.send_modify(|pending| *pending += 1);
        let pending = self.pending.clone();
        tokio::spawn(async move {
            let fate = fate.wait_for(|fate| *fate != Fate::Unknown).await;
            if fate.is_ok_and(|fate| *fate == Fate::Written) {
                // Its comparisons may not hold any more.
                inner.txn(txn).await.expect("done after all");
            }
            pending.send_modify(|pending| *pending -= 1);
        });
        Err(StoreError::DiskFull)
    }

    async fn watch(&self, after: Revision) -> Result<WatchStream, StoreError> {
        self.inner.watch(after).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        assert!(!self.compaction_panics.load(Ordering::Relaxed), "as told");
        self.compactions.fetch_add(1, Ordering::Relaxed);
        self.inner.compact(revision).await
    }

    async fn died(&self) -> StoreDied {
        self.inner.died().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn sharing(&self) -> Sharing {
        self.inner.sharing()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

async fn api_over(store: Arc<dyn Store>) -> ApiServer {
    let config = ApiConfig::new(Arc::new(Ranges), Arc::new(EchoLogs));
    ApiServer::open(store, config).await.expect("an API server")
}

fn service(name: &str, ip: &str, node_port: u16) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "NodePort",
            "clusterIP": ip,
            "ports": [{"port": 80, "nodePort": node_port}],
        },
    }))
    .expect("a Service")
}

fn map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}}))
        .expect("a ConfigMap")
}

async fn services(client: &Client) -> Vec<String> {
    let found: Vec<Service> = client
        .list(Some("default"), &ListParams::default())
        .await
        .expect("a list");
    found.into_iter().filter_map(|s| s.metadata.name).collect()
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_its_address_to_its_service_and_nobody_else() {
    let (server, _directory) = server().await;
    let client = server.api.client();
    client.sync().await.expect("the caches are up to date");
    // The request is in the store's queue when its client goes away.
    let first = service("first", "10.96.0.50", 30050);
    let polled_once = client.create(&first).now_or_never();
    assert!(polled_once.is_none());
    let same_ip = client
        .create(&service("ip", "10.96.0.50", 30051))
        .await
        .expect_err("the address is the first one's");
    assert!(same_ip.to_string().contains(TAKEN), "{same_ip}");
    let same_port = client
        .create(&service("port", "10.96.0.51", 30050))
        .await
        .expect_err("the port is the first one's");
    assert!(
        same_port
            .to_string()
            .contains("provided port is already allocated"),
        "{same_port}"
    );
    let written = async {
        loop {
            match client.get::<Service>(Some("default"), "first").await {
                Ok(made) => return made,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let made = tokio::time::timeout(PATIENCE, written).await;
    let spec = made.expect("written all the same").spec.expect("a spec");
    assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.50"));
    // An update is a write as well.
    let second = client.create(&service("second", "10.96.0.52", 30052)).await;
    let mut second = second.expect("created");
    client.sync().await.expect("the caches are up to date");
    let ports = second.spec.as_mut().and_then(|spec| spec.ports.as_mut());
    ports.expect("ports")[0].node_port = Some(30053);
    assert!(client.update(&second).now_or_never().is_none());
    let late = client.create(&service("late", "10.96.0.53", 30053)).await;
    late.expect_err("the port is the second one's now");
    assert_eq!(services(&client).await, ["first", "second"]);
}

#[tokio::test]
async fn of_a_write_with_an_unknown_outcome_and_another_for_its_address_one_takes_place() {
    // (the first write's fate, whether it comes before the second write, which of them takes place)
    let cases = [
        (Fate::Written, true, "unsure"),
        (Fate::Written, false, "other"),
        (Fate::Lost, true, "other"),
        (Fate::Lost, false, "other"),
    ];
    for (fate, is_first, winner) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Failing::over(directory.path());
        let api = api_over(store.clone()).await;
        let client = api.client();
        store.unsure.store(true, Ordering::Relaxed);
        let unsure = client.create(&service("unsure", "10.96.0.50", 30050)).await;
        assert_eq!(unsure.expect_err("unknown").code(), 500);
        store.unsure.store(false, Ordering::Relaxed);
        if is_first {
            store.fate.send_replace(fate);
            store.fate_is_known().await;
        }
        let other = client.create(&service("other", "10.96.0.50", 30051)).await;
        store.fate.send_replace(fate);
        store.fate_is_known().await;
        match other {
            Ok(_) => assert_eq!(winner, "other"),
            Err(refused) => {
                assert_eq!(winner, "unsure");
                assert!(refused.to_string().contains(TAKEN), "{refused}");
            }
        }
        assert_eq!(services(&client).await, [winner]);
        // Neither of them left anything behind.
        let params = DeleteParams::default();
        let deleted = client
            .delete::<Service>(Some("default"), winner, &params)
            .await;
        deleted.expect("deleted");
        for (name, node_port) in [("again", 30050), ("more", 30051)] {
            let ip = format!("10.96.0.{}", node_port - 30000);
            let made = client.create(&service(name, &ip, node_port)).await;
            made.expect("free again");
        }
    }
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_left_out_and_everything_else_goes_on() {
    const KEY: &str = "/registry/configmaps/default/spoilt";
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = Server::start_in(directory.path(), 0).await;
    let client = server.api.client();
    for name in ["good", "spoilt"] {
        client.create(&map(name)).await.expect("created");
    }
    drop(client);
    let key = KEY;
    for round in ["while it runs", "after a restart"] {
        let spoil = Txn::of(vec![Op::put(KEY, "{no object")]);
        server.store.txn(spoil).await.expect("written");
        if round == "after a restart" {
            server.stop().await;
            server = Server::start_in(directory.path(), 0).await;
        }
        let client = server.api.client();
        let maps = "/api/v1/namespaces/default/configmaps";
        let listed = server.get(maps).await.json();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(listed["items"][0]["metadata"]["name"], "good");
        assert!(client.has_unreadable());
        assert!(client.has_unreadable_of::<ConfigMap>().expect("a kind"));
        assert!(!client.has_unreadable_of::<Service>().expect("a kind"));
        let read = server.get(&format!("{maps}/spoilt")).await;
        assert_eq!(read.code, 500);
        assert_eq!(
            read.message(),
            format!("Internal error occurred: the stored object {key} is not readable")
        );
        let spoilt = format!("{maps}/spoilt");
        let deleted = server.send("DELETE", &spoilt, &json!({})).await;
        assert_eq!(deleted.code, 500, "absence is not claimed");
        let made = client
            .create(&map("spoilt"))
            .await
            .expect_err("the key is there");
        assert!(made.is_already_exists());
        let metrics = server.get("/metrics").await.text();
        assert!(metrics.contains("knarr_unreadable_objects 1"), "{metrics}");
        // Once somebody has mended it, it is an object like any other.
        let mended = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"spoilt","namespace":"default","uid":"u"}}"#;
        let mend = Txn::of(vec![Op::put(key, mended)]);
        server.store.txn(mend).await.expect("written");
        assert_eq!(server.get(&format!("{maps}/spoilt")).await.code, 200);
        assert!(!client.has_unreadable());
        assert!(!client.has_unreadable_of::<ConfigMap>().expect("a kind"));
        let metrics = server.get("/metrics").await.text();
        assert!(metrics.contains("knarr_unreadable_objects 0"), "{metrics}");
    }
    server.stop().await;
}

#[tokio::test]
async fn whoever_runs_the_server_is_told_when_the_caches_stand_still() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Failing::over(directory.path());
    let api = api_over(store.clone()).await;
    assert!(api.died().now_or_never().is_none());
    store.inner.close().await;
    let died = tokio::time::timeout(PATIENCE, api.died()).await;
    let died = died.expect("told");
    // Both tasks end with the store; the one that feeds the caches notices at once.
    assert_eq!(died.to_string(), "the task that feeds the caches has ended");
    let unused = api_over(Failing::over(tempfile::tempdir().expect("one").path())).await;
    let died = unused.died();
    drop(unused);
    let waited = tokio::time::timeout(Duration::from_millis(50), died).await;
    assert!(waited.is_err(), "an API that nobody uses ends in peace");
}

#[tokio::test(start_paused = true)]
async fn a_history_in_which_nothing_happens_is_compacted_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Failing::over(directory.path());
    let api = api_over(store.clone()).await;
    api.client().create(&map("a")).await.expect("created");
    // Time goes as fast as it can: many intervals of compaction pass.
    let died = tokio::time::timeout(Duration::from_secs(7200), api.died()).await;
    assert!(died.is_err(), "it goes on");
    assert_eq!(store.compactions.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_of_the_core_is_told_with_its_cause() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Failing::over(directory.path());
    let api = api_over(store.clone()).await;
    store.compaction_panics.store(true, Ordering::Relaxed);
    api.client().create(&map("a")).await.expect("created");
    // Time goes as fast as it can: two intervals of compaction pass.
    let died = tokio::time::timeout(Duration::from_secs(3600), api.died()).await;
    let died = died.expect("told");
    assert_eq!(
        died.to_string(),
        "the task that compacts the history has ended"
    );
    assert!(std::error::Error::source(&died).is_some());
}
