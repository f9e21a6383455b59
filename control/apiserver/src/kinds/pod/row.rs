// SPDX-License-Identifier: Apache-2.0
//! A pod's row in `kubectl get pods`, as `printPod` of Kubernetes v1.37.

use serde_json::Value;

use super::restarts;
use crate::{table, value};

pub(super) fn cells(pod: &Value) -> Vec<Value> {
    let mut total = value::items(pod, "spec.containers").len();
    let mut ready = 0;
    let mut restart_count = 0;
    let mut last_restart: Option<&str> = None;
    let mut sidecar_restarts = 0;
    let mut last_sidecar_restart: Option<&str> = None;
    let reason = value::text(pod, "status.reason");
    let mut shown = match reason {
        "" => value::text(pod, "status.phase"),
        reason => reason,
    }
    .to_owned();
    let gated = value::items(pod, "status.conditions").iter().any(|c| {
        value::text(c, "type") == "PodScheduled" && value::text(c, "reason") == "SchedulingGated"
    });
    if gated {
        shown = "SchedulingGated".to_owned();
    }
    let sidecars: Vec<&str> = value::items(pod, "spec.initContainers")
        .iter()
        .filter(|c| value::text(c, "restartPolicy") == "Always")
        .map(|c| value::text(c, "name"))
        .collect();
    total += sidecars.len();

    let mut initializing = false;
    let inits = value::items(pod, "status.initContainerStatuses");
    for (index, status) in inits.iter().enumerate() {
        let count = value::int(status, "restartCount").unwrap_or(0);
        restart_count += count;
        let finished = last_finished(status);
        last_restart = later(last_restart, finished);
        let sidecar = sidecars.contains(&value::text(status, "name"));
        if sidecar {
            sidecar_restarts += count;
            last_sidecar_restart = later(last_sidecar_restart, finished);
        }
        let terminated = value::at(status, "state.terminated");
        if terminated.is_some_and(|t| value::int(t, "exitCode") == Some(0)) {
            continue;
        }
        if sidecar && value::is_true(status, "started") {
            if value::is_true(status, "ready") {
                ready += 1;
            }
            continue;
        }
        initializing = true;
        let waiting = value::text(status, "state.waiting.reason");
        shown = match terminated {
            Some(terminated) => format!("Init:{}", ended(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!(
                "Init:{index}/{}",
                value::items(pod, "spec.initContainers").len()
            ),
        };
        break;
    }
    let initialized = value::items(pod, "status.conditions")
        .iter()
        .any(|c| value::text(c, "type") == "Initialized" && value::text(c, "status") == "True");
    if !initializing || initialized {
        restart_count = sidecar_restarts;
        last_restart = last_sidecar_restart;
        let mut running = false;
        for status in value::items(pod, "status.containerStatuses").iter().rev() {
            restart_count += value::int(status, "restartCount").unwrap_or(0);
            last_restart = later(last_restart, last_finished(status));
            let waiting = value::text(status, "state.waiting.reason");
            if !waiting.is_empty() {
                shown = waiting.to_owned();
            } else if let Some(terminated) = value::at(status, "state.terminated") {
                shown = ended(terminated);
            } else if value::is_true(status, "ready")
                && value::at(status, "state.running").is_some()
            {
                running = true;
                ready += 1;
            }
        }
        if shown == "Completed" && running {
            let is_ready = value::items(pod, "status.conditions")
                .iter()
                .any(|c| value::text(c, "type") == "Ready" && value::text(c, "status") == "True");
            shown = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
    if value::at(pod, "metadata.deletionTimestamp").is_some() {
        if reason == "NodeLost" {
            shown = "Unknown".to_owned();
        } else if !matches!(value::text(pod, "status.phase"), "Succeeded" | "Failed") {
            shown = "Terminating".to_owned();
        }
    }
    let or_none = |text: &str| if text.is_empty() { "<none>" } else { text }.to_owned();
    let ip = value::items(pod, "status.podIPs")
        .first()
        .map_or(value::text(pod, "status.podIP"), |ip| value::text(ip, "ip"));
    vec![
        table::name(pod),
        format!("{ready}/{total}").into(),
        shown.into(),
        restarts(restart_count, last_restart).into(),
        table::age(pod),
        or_none(ip).into(),
        or_none(value::text(pod, "spec.nodeName")).into(),
        or_none(value::text(pod, "status.nominatedNodeName")).into(),
        gates(pod).into(),
    ]
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    let reason = value::text(terminated, "reason");
    if !reason.is_empty() {
        return reason.to_owned();
    }
    match value::int(terminated, "signal").unwrap_or(0) {
        0 => format!(
            "ExitCode:{}",
            value::int(terminated, "exitCode").unwrap_or(0)
        ),
        signal => format!("Signal:{signal}"),
    }
}

fn last_finished(status: &Value) -> Option<&str> {
    Some(value::text(status, "lastState.terminated.finishedAt")).filter(|t| !t.is_empty())
}

/// RFC 3339 times of one form compare as texts.
fn later<'a>(a: Option<&'a str>, b: Option<&'a str>) -> Option<&'a str> {
    a.max(b)
}

fn gates(pod: &Value) -> String {
    let gates = value::items(pod, "spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| {
            value::items(pod, "status.conditions").iter().any(|c| {
                value::text(c, "type") == value::text(gate, "conditionType")
                    && value::text(c, "status") == "True"
            })
        })
        .count();
    format!("{open}/{}", gates.len())
}
