// SPDX-License-Identifier: Apache-2.0
//! Counters of the agent, as Prometheus text. Served by `health`.

use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds: from what a start should take to what a person notices.
const SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The counters.
pub struct Metrics {
    registry: Registry,
    connected: Gauge,
    /// Why the control plane does not let the node in.
    refused: Mutex<Option<String>>,
    pods: Gauge,
    actions_failed: Counter,
    journal_errors: Counter,
    journal_rewrites: Counter,
    services_failed: Counter,
    services_sync: Histogram,
    container_start: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut registry = Registry::with_prefix("knarr_agent");
        let connected = Gauge::default();
        let pods = Gauge::default();
        let actions_failed = Counter::default();
        let journal_errors = Counter::default();
        let journal_rewrites = Counter::default();
        let services_failed = Counter::default();
        let services_sync = Histogram::new(SECONDS);
        let container_start = Histogram::new(SECONDS);
        registry.register(
            "feed_connected",
            "1 while the control plane is connected",
            connected.clone(),
        );
        registry.register("pods", "Pods with a worker", pods.clone());
        registry.register(
            "pod_actions_failed",
            "Actions of pod workers that failed and are tried again",
            actions_failed.clone(),
        );
        registry.register(
            "journal_errors",
            "Changes of the desired state that could not be stored",
            journal_errors.clone(),
        );
        registry.register(
            "journal_rewrites",
            "Attempts to write the stored desired state as a whole",
            journal_rewrites.clone(),
        );
        registry.register(
            "services_failed",
            "Plans of Service changes that could not be carried out",
            services_failed.clone(),
        );
        registry.register(
            "services_sync_seconds",
            "From taking changed Services to having them in the maps",
            services_sync.clone(),
        );
        registry.register(
            "container_start_seconds",
            "From asking for a container to its program running",
            container_start.clone(),
        );
        Metrics {
            registry,
            connected,
            refused: Mutex::default(),
            pods,
            actions_failed,
            journal_errors,
            journal_rewrites,
            services_failed,
            services_sync,
            container_start,
        }
    }
}

impl Metrics {
    /// 1 while connected.
    pub fn connected(&self, connected: i64) {
        self.connected.set(connected);
    }

    /// Keeps why the control plane does not let the node in; `None`: it does, or it has not been asked.
    pub fn refused(&self, why: Option<String>) {
        *self.refused.lock() = why;
    }

    /// Why the control plane does not let the node in.
    pub fn refusal(&self) -> Option<String> {
        let refused = self.refused.lock();
        refused.clone()
    }

    /// Whether the control plane is connected.
    pub fn is_connected(&self) -> bool {
        self.connected.get() == 1
    }

    /// Number of pods.
    pub fn pods(&self, pods: usize) {
        self.pods.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    /// An action of a pod failed.
    pub fn action_failed(&self) {
        self.actions_failed.inc();
    }

    /// A change could not be stored.
    pub fn journal_error(&self) {
        self.journal_errors.inc();
    }

    /// The stored state is written as a whole.
    pub fn journal_rewrite(&self) {
        self.journal_rewrites.inc();
    }

    /// How often that was tried.
    pub fn journal_rewrites(&self) -> u64 {
        self.journal_rewrites.get()
    }

    /// A plan of Services failed.
    pub fn services_failed(&self) {
        self.services_failed.inc();
    }

    /// Services are in the maps.
    pub fn services_synced(&self, took: Duration) {
        self.services_sync.observe(took.as_secs_f64());
    }

    /// A container runs.
    pub fn container_started(&self, took: Duration) {
        self.container_start.observe(took.as_secs_f64());
    }

    /// The text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
