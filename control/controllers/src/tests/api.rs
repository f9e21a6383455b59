// SPDX-License-Identifier: Apache-2.0
//! An API server in this process over a real store, and what a controller needs beside it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use knarr_apiserver::{
    ApiConfig, ApiError, ApiServer, Client, CustomKind, CustomSchema, CustomScope, CustomStatus,
    GroupVersionResource, NodeStream, NodeStreams, ServiceAllocator, StreamRequest, StreamTarget,
};
use knarr_control_plan::pod_cidr::PodCidrs;
use knarr_store::{Embedded, Options, Store};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::settings::{Heartbeats, Settings};
use crate::shared::Shared;

/// An API server over a store of its own, and nothing that works on it.
pub struct Api {
    pub client: Client,
    pub store: Embedded,
    pub dir: Arc<tempfile::TempDir>,
}

impl Api {
    /// A new one.
    pub async fn new() -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap())).await
    }

    pub async fn over(dir: Arc<tempfile::TempDir>) -> Self {
        let path: PathBuf = dir.path().join("store.redb");
        let store = Embedded::open(&path, Options::default()).unwrap();
        let mut config = ApiConfig::new(Arc::new(Ranges), Arc::new(NoLogs));
        config.not_ready_toleration_seconds = 0;
        config.unreachable_toleration_seconds = 0;
        let api = ApiServer::open(Arc::new(store.clone()) as Arc<dyn Store>, config)
            .await
            .unwrap();
        Self {
            client: api.client(),
            store,
            dir,
        }
    }

    /// What controllers share, with informers that run until `stop`.
    pub fn shared(&self, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> Shared {
        let (recorder, recording) = Recorder::new(self.client.clone(), stop.clone());
        tasks.spawn(recording);
        Shared {
            client: self.client.clone(),
            informers: Informers::new(self.client.clone(), stop.clone()),
            recorder,
            metrics: Metrics::default(),
            settings: settings(Arc::default(), Duration::from_secs(40)),
        }
    }
}

/// The settings of a cluster whose nodes may be silent for `grace`.
pub fn settings(heartbeats: Arc<HeardNodes>, grace: Duration) -> Settings {
    Settings {
        heartbeats,
        node_monitor_grace_period: grace,
        pod_cidrs: PodCidrs::new("10.244.0.0/16".parse().unwrap(), 24).unwrap(),
        ca_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
    }
}

/// The resource of [`widgets`].
pub static WIDGETS: LazyLock<GroupVersionResource> =
    LazyLock::new(|| GroupVersionResource::new("example.com", "v1", "widgets"));

/// A kind that is not built in. Another `field` in its spec makes another form of it.
pub fn widgets(field: &str) -> CustomKind {
    CustomKind {
        schema: CustomSchema {
            group: "example.com".to_owned(),
            version: "v1".to_owned(),
            kind: "Widget".to_owned(),
            schema: json!({"properties": {"spec": {
                "type": "object",
                "properties": {field: {"type": "string"}},
            }}}),
        },
        plural: "widgets".to_owned(),
        short_names: Vec::new(),
        scope: CustomScope::Namespaced,
        status: CustomStatus::PartOfObject,
    }
}

/// When nodes were last heard, as a test says.
#[derive(Default)]
pub struct HeardNodes(Mutex<HashMap<String, Instant>>);

impl HeardNodes {
    pub fn beat(&self, node: &str) {
        self.nodes().insert(node.to_owned(), Instant::now());
    }

    fn nodes(&self) -> parking_lot::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock()
    }
}

impl Heartbeats for HeardNodes {
    fn silence(&self, node: &str) -> Duration {
        let now = Instant::now();
        let since = *self.nodes().entry(node.to_owned()).or_insert(now);
        now.saturating_duration_since(since)
    }

    fn forget(&self, node: &str) {
        self.nodes().remove(node);
    }
}

/// Addresses of 10.96.0.0/12 and ports from 30000 on, in order.
struct Ranges;

impl ServiceAllocator for Ranges {
    fn check_cluster_ip(&self, _: IpAddr) -> Result<(), String> {
        Ok(())
    }

    fn next_cluster_ip(&self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let base = u32::from_be_bytes([10, 96, 0, 0]);
        let addresses = (2..1 << 20).map(|n| IpAddr::V4(Ipv4Addr::from_bits(base + n)));
        addresses.into_iter().find(|address| !taken(*address))
    }

    fn check_node_port(&self, _: u16) -> Result<(), String> {
        Ok(())
    }

    fn next_node_port(&self, taken: &dyn Fn(u16) -> bool) -> Option<u16> {
        (30000..=32767).find(|port| !taken(*port))
    }
}

/// There are no nodes, so there are no logs.
struct NoLogs;

#[async_trait]
impl NodeStreams for NoLogs {
    async fn open(&self, _: StreamTarget, _: StreamRequest) -> Result<NodeStream, ApiError> {
        Err(ApiError::internal("there is no node"))
    }
}
