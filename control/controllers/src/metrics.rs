// SPDX-License-Identifier: Apache-2.0
//! What the work queues and the scheduling queue count, under the names that Kubernetes' controllers use (component-base v1.37,
//! `metrics/prometheus/workqueue`), in the text form of `GET /metrics`.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use knarr_control_plan::scheduler::SchedulingQueue;
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The controller that a series is about. Controllers are a fixed set, so the number of series is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// A part of the scheduling queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueName {
    queue: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// What is being worked on now. Asked when metrics are read.
pub(crate) trait InProgress: Send + Sync {
    /// For how long each key has been worked on.
    fn in_progress(&self) -> Vec<Duration>;
}

/// The metrics of all controllers. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    panics: Family<Name, Counter>,
    queue_duration: Family<Name, Histogram, fn() -> Histogram>,
    work_duration: Family<Name, Histogram, fn() -> Histogram>,
    unfinished_work: Family<Name, Seconds>,
    longest_running: Family<Name, Seconds>,
    pending_pods: Family<QueueName, Gauge>,
    queues: Mutex<Vec<(Name, Weak<dyn InProgress>)>>,
}

/// How many pods wait for a node.
#[derive(Debug, Clone)]
pub(crate) struct PendingPods {
    active: Gauge,
    unschedulable: Gauge,
}

impl PendingPods {
    pub(crate) fn set(&self, queue: &SchedulingQueue) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.active.set(number(queue.active_len()));
        self.unschedulable.set(number(queue.unschedulable_len()));
    }

    fn reset(&self) {
        self.active.set(0);
        self.unschedulable.set(0);
    }
}

/// The metrics of one queue.
#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics {
    pub(crate) depth: Gauge,
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    pub(crate) panics: Counter,
    pub(crate) queue_duration: Histogram,
    pub(crate) work_duration: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let new_histogram: fn() -> Histogram = duration_histogram;
        let mut inner = Inner {
            registry: Registry::default(),
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            panics: Family::default(),
            queue_duration: Family::new_with_constructor(new_histogram),
            work_duration: Family::new_with_constructor(new_histogram),
            unfinished_work: Family::default(),
            longest_running: Family::default(),
            pending_pods: Family::default(),
            queues: Mutex::default(),
        };
        inner.register();
        Self(Arc::new(inner))
    }
}

/// From 10 ns to 1,000 s, as upstream.
fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(1e-8, 10.0, 12))
}

impl Inner {
    fn register(&mut self) {
        let Self {
            registry,
            depth,
            adds,
            retries,
            panics,
            queue_duration,
            work_duration,
            unfinished_work,
            longest_running,
            pending_pods,
            queues: _,
        } = self;
        registry.register(
            "workqueue_depth",
            "Keys that wait for a worker",
            depth.clone(),
        );
        registry.register("workqueue_adds", "Keys that were added", adds.clone());
        registry.register(
            "workqueue_retries",
            "Keys that were added again after a failure",
            retries.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "How long a key waits for a worker",
            queue_duration.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "How long a reconcile takes",
            work_duration.clone(),
        );
        registry.register(
            "workqueue_unfinished_work_seconds",
            "Time of all reconciles in progress together",
            unfinished_work.clone(),
        );
        registry.register(
            "workqueue_longest_running_processor_seconds",
            "Time of the longest reconcile in progress",
            longest_running.clone(),
        );
        registry.register(
            "scheduler_pending_pods",
            "Pods without a node, by the part of the scheduling queue that they are in",
            pending_pods.clone(),
        );
        registry.register(
            "knarr_controller_panics",
            "Reconciles that panicked; the log names their keys",
            panics.clone(),
        );
    }
}

impl Metrics {
    fn queues(&self) -> MutexGuard<'_, Vec<(Name, Weak<dyn InProgress>)>> {
        self.0.queues.lock()
    }

    /// The metrics of the queue of a controller. A queue of an earlier term of leadership counts on in them.
    pub(crate) fn queue(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        let inner = &self.0;
        let metrics = QueueMetrics {
            depth: inner.depth.get_or_create_owned(&name),
            adds: inner.adds.get_or_create_owned(&name),
            retries: inner.retries.get_or_create_owned(&name),
            panics: inner.panics.get_or_create_owned(&name),
            queue_duration: inner.queue_duration.get_or_create_owned(&name),
            work_duration: inner.work_duration.get_or_create_owned(&name),
        };
        metrics.depth.set(0);
        metrics
    }

    /// The metrics of the scheduling queue.
    pub(crate) fn pending_pods(&self) -> PendingPods {
        let pending = &self.0.pending_pods;
        PendingPods {
            active: pending.get_or_create_owned(&QueueName { queue: "active" }),
            unschedulable: pending.get_or_create_owned(&QueueName {
                queue: "unschedulable",
            }),
        }
    }

    /// Nothing waits any more: a term of leadership is over, and its queues with it. Counters go on with the next term.
    pub(crate) fn reset_gauges(&self) {
        for (name, _) in &*self.queues() {
            self.0.depth.get_or_create(name).set(0);
        }
        self.pending_pods().reset();
    }

    /// Has `queue` asked what is in progress whenever metrics are read, for as long as it lives.
    pub(crate) fn follow(&self, name: &'static str, queue: Weak<dyn InProgress>) {
        let name = Name { name };
        let mut queues = self.queues();
        queues.retain(|(known, _)| *known != name);
        queues.push((name, queue));
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn text(&self) -> String {
        for (name, queue) in &*self.queues() {
            let times = queue.upgrade().map(|queue| queue.in_progress());
            let times = times.unwrap_or_default();
            let total: Duration = times.iter().sum();
            let longest = times.into_iter().max().unwrap_or_default();
            let inner = &self.0;
            inner
                .unfinished_work
                .get_or_create(name)
                .set(total.as_secs_f64());
            inner
                .longest_running
                .get_or_create(name)
                .set(longest.as_secs_f64());
        }
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.0.registry);
        text
    }
}

impl Default for QueueMetrics {
    fn default() -> Self {
        Self {
            depth: Gauge::default(),
            adds: Counter::default(),
            retries: Counter::default(),
            panics: Counter::default(),
            queue_duration: duration_histogram(),
            work_duration: duration_histogram(),
        }
    }
}
