// SPDX-License-Identifier: Apache-2.0
//! What the benches of a whole cluster share.

use std::fs;

use anyhow::Context;

use crate::process::Process;

/// Resident memory of a process, in MB (10^6 bytes).
pub fn resident_mb(process: Process) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))
        .context("a measured process has ended")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<f64>()? * 1024.0 / 1e6)
}

/// CPU time that a process has used, in seconds.
pub fn cpu_seconds(process: Process) -> anyhow::Result<f64> {
    /// USER_HZ is 100 on every architecture that Linux still supports (proc(5)).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid))
        .context("a measured process has ended")?;
    let (_, rest) = stat.rsplit_once(')').context("no process state")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: f64 = [11, 12]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// A pod of the echo server on a node.
pub fn pod(namespace: &str, name: &str, node: Option<&str>) -> serde_json::Value {
    let mut pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "bench"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "echo", "image": crate::images::ECHO, "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}}}],
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeSelector"] = serde_json::json!({"kubernetes.io/hostname": node});
    }
    pod
}
