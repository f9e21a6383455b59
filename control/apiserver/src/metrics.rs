// SPDX-License-Identifier: Apache-2.0
//! What the API server counts, in the text form that `GET /metrics` serves.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::registry::Text;

/// What is asked for. Verbs and scopes are fixed sets and resources those of the registry, so the number of series is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndpointLabels {
    pub(crate) verb: &'static str,
    pub(crate) group: Text,
    pub(crate) version: Text,
    pub(crate) resource: Text,
    pub(crate) subresource: Text,
    pub(crate) scope: &'static str,
    pub(crate) component: &'static str,
}

impl Default for EndpointLabels {
    fn default() -> Self {
        Self {
            verb: "",
            group: Text::Borrowed(""),
            version: Text::Borrowed(""),
            resource: Text::Borrowed(""),
            subresource: Text::Borrowed(""),
            scope: "",
            component: "apiserver",
        }
    }
}

/// Labels of the request counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    #[prometheus(flatten)]
    pub(crate) endpoint: EndpointLabels,
    pub(crate) dry_run: &'static str,
    pub(crate) code: u16,
}

/// Labels of the time histogram.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DurationLabels {
    #[prometheus(flatten)]
    pub(crate) endpoint: EndpointLabels,
    pub(crate) dry_run: &'static str,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) duration: Family<DurationLabels, Histogram, fn() -> Histogram>,
    pub(crate) watches: Family<EndpointLabels, Gauge>,
    pub(crate) unreadable: Gauge,
}

/// Upper bounds of the request times, in seconds: kube-apiserver's (v1.37), as its alerts name them, and below them two
/// for what an answer from memory takes.
const BUCKETS_S: [f64; 25] = [
    0.001, 0.0025, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0,
    6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let new_histogram: fn() -> Histogram = || Histogram::new(BUCKETS_S);
        let duration = Family::new_with_constructor(new_histogram);
        let watches = Family::default();
        let unreadable = Gauge::default();
        registry.register(
            "apiserver_request",
            "Requests by verb, resource, scope and HTTP status code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time from a request to the head of its answer, without watches and logs",
            duration.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches that are open",
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
