// SPDX-License-Identifier: Apache-2.0
//! Ages and rows.

use serde_json::json;

use super::{human_duration, labels};
use crate::registry;

#[test]
fn durations_are_written_as_kubectl_users_know_them() {
    const M: i64 = 60;
    const H: i64 = 60 * M;
    const D: i64 = 24 * H;
    const Y: i64 = 365 * D;
    for (seconds, text) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * M, "2m"),
        (2 * M + 5, "2m5s"),
        (10 * M + 5, "10m"),
        (179 * M, "179m"),
        (3 * H, "3h"),
        (3 * H + 20 * M, "3h20m"),
        (8 * H + 20 * M, "8h"),
        (47 * H, "47h"),
        (2 * D, "2d"),
        (2 * D + 3 * H, "2d3h"),
        (8 * D + 3 * H, "8d"),
        (700 * D, "700d"),
        (2 * Y, "2y"),
        (3 * Y + 10 * D, "3y10d"),
        (9 * Y + 10 * D, "9y"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn selectors_are_sorted_and_nothing_is_none() {
    assert_eq!(labels(Some(&json!({"b": "2", "a": "1"}))), "a=1,b=2");
    assert_eq!(labels(None), "<none>");
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in crate::kinds::registry().all() {
        let cells = kind.strategy.cells(&json!({"metadata": {"name": "x"}}));
        assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
    }
}

#[test]
fn a_pod_is_shown_by_what_its_containers_do() {
    let kind = &registry::builtin("", "pods");
    let running = json!({"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}}});
    let waiting = json!({
        "name": "b", "ready": false, "restartCount": 1,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    });
    let cells = |pod: serde_json::Value| {
        let cells = kind.strategy.cells(&pod);
        let text = |at: usize| cells[at].as_str().unwrap_or_default().to_owned();
        [text(1), text(2), text(3)]
    };
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "n1"});
    assert_eq!(
        cells(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running, waiting]}})
        ),
        ["1/2", "CrashLoopBackOff", "3"]
    );
    assert_eq!(
        cells(json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": spec,
            "status": {"phase": "Running", "containerStatuses": [running]},
        })),
        ["1/2", "Terminating", "2"]
    );
    assert_eq!(
        cells(json!({"spec": spec, "status": {"phase": "Failed", "reason": "Evicted"}})),
        ["0/2", "Evicted", "0"]
    );
    assert_eq!(
        cells(json!({
            "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "i", "state": {"terminated": {"exitCode": 0}}},
                {"name": "j", "state": {"running": {}}},
            ]},
        })),
        ["0/1", "Init:1/2", "0"]
    );
}
