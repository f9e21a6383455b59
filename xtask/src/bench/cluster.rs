// SPDX-License-Identifier: Apache-2.0
//! What the benches of a whole cluster share.

use std::fs;

use anyhow::Context;

use crate::lab::cgroup::{self, Version};
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

/// Memory of the cgroup that a process is in, in MB: what its processes hold privately, and what the kernel holds for
/// them (maps and programs of eBPF, sockets, page tables, stacks).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CgroupMemory {
    /// Anonymous memory.
    pub anonymous_mb: f64,
    /// Kernel memory.
    pub kernel_mb: f64,
}

/// Reads it from cgroup v2, or from v1 where the memory controller is there.
pub fn cgroup_memory(process: Process) -> anyhow::Result<CgroupMemory> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", process.pid))
        .context("a measured process has ended")?;
    let v1 = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let memory = controllers.split(',').any(|name| name == "memory");
        memory.then_some(path)
    });
    let hierarchies = cgroup::hierarchies()?;
    let find = |is_it: &dyn Fn(&Version) -> bool| {
        let found = hierarchies.iter().find(|h| is_it(&h.version));
        found
            .map(|h| h.mount.clone())
            .context("no hierarchy with memory is mounted")
    };
    if let Some(path) = v1 {
        let mount = find(
            &|version| matches!(version, Version::V1(options) if options.split(',').any(|o| o == "memory")),
        )?;
        let dir = mount.join(path.trim_start_matches('/'));
        let stat = fs::read_to_string(dir.join("memory.stat"))?;
        let kernel = fs::read_to_string(dir.join("memory.kmem.usage_in_bytes"))?;
        return Ok(CgroupMemory {
            anonymous_mb: stat_value(&stat, "total_rss")? / 1e6,
            kernel_mb: kernel.trim().parse::<f64>()? / 1e6,
        });
    }
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.context("the process is in no cgroup")?;
    let dir = find(&|version| *version == Version::V2)?.join(path.trim_start_matches('/'));
    let stat = fs::read_to_string(dir.join("memory.stat"))?;
    Ok(CgroupMemory {
        anonymous_mb: stat_value(&stat, "anon")? / 1e6,
        kernel_mb: stat_value(&stat, "kernel")? / 1e6,
    })
}

fn stat_value(stat: &str, name: &str) -> anyhow::Result<f64> {
    let value = stat.lines().find_map(|line| {
        let (known, value) = line.split_once(' ')?;
        (known == name).then_some(value)
    });
    let value = value.with_context(|| format!("memory.stat has no {name}"))?;
    Ok(value.trim().parse()?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_memory_stat_is_found_by_its_whole_name() {
        let stat = "anon_thp 5\nanon 4096\nkernel_stack 7\nkernel 8192\n";
        assert_eq!(stat_value(stat, "anon").expect("there"), 4096.0);
        assert_eq!(stat_value(stat, "kernel").expect("there"), 8192.0);
        assert!(stat_value(stat, "total_rss").is_err());
    }
}
