// SPDX-License-Identifier: Apache-2.0
//! A cluster in which nothing changes: two nodes, pods that run, and not one write.

use std::thread;
use std::time::{Duration, Instant};

use knarr_tests::{Cluster, Kubectl, manifests};

/// Longer than any heartbeat, look and report of a node takes to come again.
const WINDOW: Duration = Duration::from_secs(15);
/// Within this time a quiet window has to begin and end.
const LIMIT: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(500);

/// Transactions that changed something, and commits: a compaction, say, is one without the other.
fn writes(kubectl: &Kubectl) -> [u64; 2] {
    let metrics = kubectl.ok(&["get", "--raw", "/metrics"]);
    ["writes", "commits"].map(|what| {
        let name = format!("knarr_store_{what}_total ");
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(&name)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("the store's {what} are no metric any more: {metrics}"))
    })
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let cluster = Cluster::namespace("idle");
    cluster.serve(
        &manifests::echo_deployment("web", 4),
        &manifests::echo_service("web"),
    );
    // What other tests leave to be deleted, and a certificate that is renewed, may still be written.
    let end = Instant::now() + LIMIT;
    let (mut count, mut since) = (writes(&cluster.kubectl), Instant::now());
    while since.elapsed() < WINDOW {
        assert!(
            Instant::now() < end,
            "in {} s there were never {} s without a write",
            LIMIT.as_secs(),
            WINDOW.as_secs()
        );
        thread::sleep(LOOK);
        let now = writes(&cluster.kubectl);
        if now != count {
            (count, since) = (now, Instant::now());
        }
    }
    // A change is still seen as one.
    cluster.kubectl.ok(&["create", "configmap", "a"]);
    let [transactions, commits] = writes(&cluster.kubectl);
    assert!(transactions > count[0] && commits > count[1]);
}
