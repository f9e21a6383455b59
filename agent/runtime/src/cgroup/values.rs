// SPDX-License-Identifier: Apache-2.0
//! Limits and statistics of pod cgroups, through cgroups-rs.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, MaxValue};
use knarr_pod::CgroupStats;
use knarr_pod::Resources;

use super::{CgroupError, PodCgroup, cpu_weight};

/// Sets what is given; a limit whose controller is missing is refused, not dropped.
pub(super) fn apply(
    handle: &Cgroup,
    cgroup: &PodCgroup,
    resources: &Resources,
) -> Result<(), CgroupError> {
    let failed = |operation: &'static str| {
        move |source| CgroupError::Library {
            operation,
            path: cgroup.path().to_owned(),
            source,
        }
    };
    let missing = |operation: &'static str| CgroupError::Io {
        operation,
        path: cgroup.path().to_owned(),
        source: std::io::Error::other("the kernel has no such controller here"),
    };
    let Resources {
        cpu_shares,
        cpu_quota_us,
        memory_bytes,
        pids,
    } = *resources;
    if cpu_shares.is_some() || cpu_quota_us.is_some() {
        let operation = "setting CPU limits of";
        let cpu: &CpuController = handle.controller_of().ok_or_else(|| missing(operation))?;
        if let Some(shares) = cpu_shares {
            let value = if handle.v2() {
                cpu_weight(shares)
            } else {
                shares
            };
            cpu.set_shares(value).map_err(failed(operation))?;
        }
        if let Some(quota) = cpu_quota_us {
            cpu.set_cfs_quota_and_period(Some(quota), Some(Resources::CPU_PERIOD_US))
                .map_err(failed(operation))?;
        }
    }
    if let Some(bytes) = memory_bytes {
        let operation = "setting the memory limit of";
        let memory: &MemController = handle.controller_of().ok_or_else(|| missing(operation))?;
        memory.set_limit(bytes).map_err(failed(operation))?;
    }
    if let Some(pids) = pids {
        let operation = "setting the pids limit of";
        let controller: &PidController =
            handle.controller_of().ok_or_else(|| missing(operation))?;
        controller
            .set_pid_max(MaxValue::Value(pids))
            .map_err(failed(operation))?;
    }
    Ok(())
}

/// Bounds the memory of a cgroup whose process must not be killed for it: on v2 it is slowed down, and pages of files are
/// dropped. v1 has only a limit. A tree without the controller, as beside v1, is left as it is.
pub(super) fn bound_memory(dir: &Path, bytes: i64) -> Result<(), CgroupError> {
    for name in ["memory.high", "memory.limit_in_bytes"] {
        let path = dir.join(name);
        if path.exists() {
            return std::fs::write(&path, bytes.to_string()).map_err(|source| CgroupError::Io {
                operation: "setting the memory bound of",
                path,
                source,
            });
        }
    }
    Ok(())
}

/// Reads what a cgroup uses; what cannot be read is 0.
pub(super) fn stats(handle: &Cgroup) -> CgroupStats {
    let mut stats = CgroupStats::default();
    if handle.v2() {
        let cpu: Option<&CpuController> = handle.controller_of();
        let text = cpu.map(|c| c.cpu().stat).unwrap_or_default();
        stats.cpu_ns = field(&text, "usage_usec").saturating_mul(1000);
    } else {
        let cpuacct: Option<&CpuAcctController> = handle.controller_of();
        stats.cpu_ns = cpuacct.map_or(0, |c| c.cpuacct().usage);
    }
    let memory: Option<&MemController> = handle.controller_of();
    if let Some(memory) = memory {
        let memory = memory.memory_stat();
        stats.memory_bytes = memory.usage_in_bytes;
        let inactive = if handle.v2() {
            memory.stat.inactive_file
        } else {
            memory.stat.total_inactive_file
        };
        stats.working_set_bytes = memory.usage_in_bytes.saturating_sub(inactive);
    }
    let pids: Option<&PidController> = handle.controller_of();
    stats.pids = pids.and_then(|p| p.get_pid_current().ok()).unwrap_or(0);
    stats
}

/// A value of a file with a name and a number in each line.
pub(super) fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

/// How often the kernel killed a process of a cgroup for memory.
pub(super) fn oom_kills(memory_dir: &Path, hybrid: bool) -> u64 {
    let file = if hybrid {
        "memory.oom_control"
    } else {
        "memory.events"
    };
    let text = std::fs::read_to_string(memory_dir.join(file)).unwrap_or_default();
    field(&text, "oom_kill")
}
