// SPDX-License-Identifier: Apache-2.0
//! `/metrics`: what the API server counts, and beside it the controllers, the store, the node feed and the process.
//!
//! The path and its authorization belong to the API server; this adds to its answer.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use knarr_store::{Stats, Store};
use procfs::process::Process;

use crate::feed::Feed;

/// Ticks in a second of `/proc/self/stat`; the kernel's user ABI has this value on every machine we run on.
const TICKS_PER_SECOND: f64 = 100.0;
/// How OpenMetrics text ends.
const END: &str = "# EOF\n";

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// Writes, commits and sizes.
    pub store: Arc<dyn Store>,
    /// Connected nodes and what was lost of their events.
    pub feed: Arc<Feed>,
    /// Queues of the controllers.
    pub controllers: knarr_controllers::Metrics,
}

/// Adds to a good answer of `/metrics` and leaves every other answer alone.
pub async fn extend(sources: Sources, request: Request, next: Next) -> Response {
    let ours = request.uri().path() == "/metrics";
    let response = next.run(request).await;
    if !ours || !response.status().is_success() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        // The body was made in memory; losing it is losing the connection.
        return Response::from_parts(head, Body::empty());
    };
    let mut text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    cut_end(&mut text);
    text.push_str(&sources.controllers.text());
    cut_end(&mut text);
    write_store(&mut text, &sources.store.stats());
    let nodes = sources.feed.acknowledged().len();
    gauge(
        &mut text,
        "knarr_feed_connected_nodes",
        "Agents that are connected",
        nodes as f64,
    );
    counter(
        &mut text,
        "knarr_feed_events_lost",
        "Events of nodes that could not be written",
        sources.feed.events_lost() as f64,
    );
    write_process(&mut text);
    text.push_str(END);
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from(text))
}

/// Takes the end off, so that something may follow.
fn cut_end(text: &mut String) {
    if text.ends_with(END) {
        text.truncate(text.len() - END.len());
    }
}

/// What the API server does not show of its store.
fn write_store(text: &mut String, stats: &Stats) {
    let name = "knarr_store_compacted_revision";
    let compacted = stats.compacted.0 as f64;
    gauge(text, name, "Oldest revision that can be read", compacted);
    let name = "knarr_store_watches";
    gauge(
        text,
        name,
        "Open watches of the store",
        stats.watches as f64,
    );
}

fn write_process(text: &mut String) {
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        gauge(text, name, "Resident memory size in bytes", bytes);
    }
    if let Some(seconds) = cpu_seconds() {
        let name = "process_cpu_seconds";
        counter(text, name, "User and system CPU time", seconds);
    }
}

/// A counter; `_total` is put behind the name of its sample, as OpenMetrics wants.
fn counter(text: &mut String, name: &str, help: &str, value: f64) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# HELP {name} {help}.\n# TYPE {name} counter\n{name}_total {value}"
    );
}

fn gauge(text: &mut String, name: &str, help: &str, value: f64) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}"
    );
}

fn resident_bytes() -> Option<f64> {
    let kib = Process::myself().ok()?.status().ok()?.vmrss?;
    Some(kib as f64 * 1024.0)
}

fn cpu_seconds() -> Option<f64> {
    let stat = Process::myself().ok()?.stat().ok()?;
    Some((stat.utime + stat.stime) as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_memory_and_time() {
        assert!(resident_bytes().unwrap() > 1024.0 * 1024.0);
        let mut sum = 0_u64;
        while cpu_seconds().unwrap() < 0.02 {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0 || cpu_seconds().unwrap() >= 0.02);
    }

    #[test]
    fn numbers_are_written_as_openmetrics_wants() {
        let mut text = String::new();
        let stats = Stats {
            watches: 7,
            ..Stats::default()
        };
        write_store(&mut text, &stats);
        counter(&mut text, "process_cpu_seconds", "Time", 1.5);
        assert!(
            text.contains("# TYPE knarr_store_watches gauge\nknarr_store_watches 7\n"),
            "{text}"
        );
        assert!(text.contains("\nprocess_cpu_seconds_total 1.5\n"), "{text}");
    }
}
