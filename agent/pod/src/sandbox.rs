// SPDX-License-Identifier: Apache-2.0
//! What a sandbox is made from: limits and namespaces of the whole pod, and the files that its containers share.
//!
//! The plan makes these values, the runtime makes the sandbox. Not here: containers (`container`).

use knarr_base::qos::QosClass;
use serde::{Deserialize, Serialize};

/// Limits of one cgroup. `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// cpu.shares of cgroup v1 (2..=262144); becomes cpu.weight on v2.
    pub cpu_shares: Option<u64>,
    /// CFS quota in microseconds for each [`Resources::CPU_PERIOD_US`].
    pub cpu_quota_us: Option<i64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<i64>,
    /// Processes and threads.
    pub pids: Option<i64>,
}

impl Resources {
    /// The CFS period that quotas refer to, in microseconds (Kubernetes' default).
    pub const CPU_PERIOD_US: u64 = 100_000;
}

/// Where the network namespace of a sandbox comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// A new namespace, loopback up and nothing else in it.
    #[default]
    Pod,
    /// The node's (`hostNetwork: true`).
    Host,
}

/// Where the PID namespace of a pod's containers comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Each container has its own.
    #[default]
    Container,
    /// All share the sandbox's (`shareProcessNamespace: true`).
    Pod,
    /// The node's (`hostPID: true`).
    Host,
}

/// Where the IPC namespace comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// The sandbox's.
    #[default]
    Pod,
    /// The node's (`hostIPC: true`).
    Host,
}

/// A pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Pod UID; the sandbox is known by it.
    pub uid: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Counted from 0: how many sandboxes of this pod came before.
    pub attempt: u32,
    /// Host name of the pod, at most 63 bytes. Ignored with [`NetworkMode::Host`].
    pub hostname: String,
    /// Quality of service.
    pub qos: QosClass,
    /// Limits of the whole pod.
    pub resources: Resources,
    /// Network namespace.
    pub network: NetworkMode,
    /// PID namespace.
    pub pid: PidMode,
    /// IPC namespace.
    pub ipc: IpcMode,
    /// Contents of /etc/hosts; may be replaced later with `write_hosts`.
    pub hosts: String,
    /// Contents of /etc/resolv.conf.
    pub resolv_conf: String,
    /// Namespaced sysctls, e.g. `net.ipv4.ip_unprivileged_port_start` → `0`.
    pub sysctls: Vec<(String, String)>,
}

/// How much of a container's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// A file is rotated when it would grow past this many bytes (kubelet's containerLogMaxSize).
    pub file_bytes_max: u64,
    /// How many files of one attempt are kept, the current one included (containerLogMaxFiles, at least 2).
    pub files_max: u32,
}

impl Default for LogPolicy {
    fn default() -> Self {
        LogPolicy {
            file_bytes_max: 10 << 20,
            files_max: 5,
        }
    }
}
