// SPDX-License-Identifier: Apache-2.0
//! What the API server counts, in the text form that `GET /metrics` serves.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Labels of the request counter. Resources and verbs are a fixed set, so the number of series is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) code: u16,
}

/// Labels of the time histogram.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    pub(crate) verb: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    pub(crate) watches: Gauge,
    pub(crate) unreadable: Gauge,
}

/// Upper bounds of the request times, in seconds.
const BUCKETS_S: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let new_histogram: fn() -> Histogram = || Histogram::new(BUCKETS_S);
        let duration = Family::new_with_constructor(new_histogram);
        let watches = Gauge::default();
        let unreadable = Gauge::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and HTTP status code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time from a request to the head of its answer, without watches and logs",
            duration.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches and logs that are open",
            watches.clone(),
        );
        registry.register(
            "knarr_unreadable_objects",
            "Stored objects that cannot be read and are left out; the log names them",
            unreadable.clone(),
        );
        Self {
            registry,
            requests,
            duration,
            watches,
            unreadable,
        }
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
