// SPDX-License-Identifier: Apache-2.0
//! Requests and limits: quality of service, cgroup values, OOM score.
//!
//! Not here: writing them (`knarr-runtime`). Called by `container`, `status` and the agent's sandbox step.
//! The arithmetic is kubelet's (v1.37 `cm/helpers_linux.go`, `qos/policy.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_api::quantity::Quantity;
use knarr_base::qos::{Asked, QosClass, RESOURCES};
use knarr_pod::Resources;

use crate::spec::{Role, containers};

/// The smallest CFS quota the kernel takes, in microseconds.
pub const CPU_QUOTA_US_MIN: i64 = 1_000;
/// Bounds of cpu.shares.
pub const CPU_SHARES_MIN: u64 = 2;
/// Bounds of cpu.shares.
pub const CPU_SHARES_MAX: u64 = 262_144;

/// cpu.shares for millicores.
pub fn cpu_shares(milli: i64) -> u64 {
    let milli = u64::try_from(milli).unwrap_or(0);
    (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// CFS quota for millicores; none where there is no limit.
pub fn cpu_quota_us(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(100)).max(CPU_QUOTA_US_MIN))
}

fn lookup(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    list?.get(name)?.0.parse().ok()
}

/// A container's request: its own, otherwise its limit, as the API server defaults it.
pub fn request(container: &Container, name: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    lookup(resources.requests.as_ref(), name).or_else(|| limit(container, name))
}

/// A container's limit.
pub fn limit(container: &Container, name: &str) -> Option<Quantity> {
    lookup(container.resources.as_ref()?.limits.as_ref(), name)
}

/// The pod's class.
pub fn qos(spec: &PodSpec) -> QosClass {
    QosClass::of(containers(spec).flat_map(|(container, _)| {
        RESOURCES.map(|name| Asked {
            request: request(container, name),
            limit: limit(container, name),
        })
    }))
}

/// What a container's cgroup is set to.
pub fn container_values(container: &Container, pids: Option<i64>) -> Resources {
    let cpu_limit = limit(container, "cpu").map_or(0, |q| q.milli_value());
    let cpu_request = request(container, "cpu").map_or(0, |q| q.milli_value());
    let memory = limit(container, "memory").map_or(0, |q| q.value());
    Resources {
        cpu_shares: Some(cpu_shares(cpu_request)),
        cpu_quota_us: cpu_quota_us(cpu_limit),
        memory_bytes: (memory > 0).then_some(memory),
        pids,
    }
}

/// What the pod's own cgroup is set to: the larger of what runs together and what an init step needs;
/// limited only where every container is.
pub fn pod_values(spec: &PodSpec, pids: Option<i64>) -> Resources {
    let cpu_request = together(spec, |c| request(c, "cpu").map_or(0, |q| q.milli_value()));
    let all_limited =
        |name: &str| containers(spec).all(|(c, _)| limit(c, name).is_some_and(|q| !q.is_zero()));
    let cpu_limit = together(spec, |c| limit(c, "cpu").map_or(0, |q| q.milli_value()));
    let memory = together(spec, |c| limit(c, "memory").map_or(0, |q| q.value()));
    Resources {
        cpu_shares: Some(cpu_shares(cpu_request)),
        cpu_quota_us: cpu_quota_us(cpu_limit).filter(|_| all_limited("cpu")),
        memory_bytes: (memory > 0 && all_limited("memory")).then_some(memory),
        pids,
    }
}

/// What a pod asks for as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
}

/// What a pod asks for, counted as the scheduler does, with the overhead of its runtime class.
pub fn requests(spec: &PodSpec) -> Requests {
    let overhead = |name: &str| lookup(spec.overhead.as_ref(), name);
    let cpu = together(spec, |c| request(c, "cpu").map_or(0, |q| q.milli_value()));
    let memory = together(spec, |c| request(c, "memory").map_or(0, |q| q.value()));
    Requests {
        cpu_milli: cpu.saturating_add(overhead("cpu").map_or(0, |q| q.milli_value())),
        memory_bytes: memory.saturating_add(overhead("memory").map_or(0, |q| q.value())),
    }
}

/// The first size of huge pages that a pod asks for, and how many bytes of it.
pub fn hugepages(spec: &PodSpec) -> Option<(String, i64)> {
    let lists = containers(spec).filter_map(|(c, _)| c.resources.as_ref());
    let lists = lists.flat_map(|r| r.limits.iter().chain(&r.requests));
    let mut names: Vec<&String> = lists
        .flat_map(BTreeMap::keys)
        .filter(|name| name.starts_with("hugepages-"))
        .collect();
    names.sort_unstable();
    names.into_iter().find_map(|name| {
        let bytes = together(spec, |c| request(c, name).map_or(0, |q| q.value()));
        (bytes > 0).then(|| (name.clone(), bytes))
    })
}

/// Containers add up; so do sidecars; an init container needs its own beside the sidecars before it.
pub(crate) fn together(spec: &PodSpec, amount: impl Fn(&Container) -> i64) -> i64 {
    let mut sidecars = 0_i64;
    let mut init_peak = 0_i64;
    let mut main = 0_i64;
    for (container, role) in containers(spec) {
        let n = amount(container);
        match role {
            Role::Sidecar => {
                sidecars = sidecars.saturating_add(n);
                init_peak = init_peak.max(sidecars);
            }
            Role::Init => init_peak = init_peak.max(sidecars.saturating_add(n)),
            Role::Main => main = main.saturating_add(n),
        }
    }
    init_peak.max(main.saturating_add(sidecars))
}

/// `oom_score_adj` of a container's processes.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory_bytes: i64) -> i32 {
    const GUARANTEED: i32 = -997;
    const BEST_EFFORT: i32 = 1000;
    const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;
    if spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY) {
        return GUARANTEED;
    }
    match qos(spec) {
        QosClass::Guaranteed => GUARANTEED,
        QosClass::BestEffort => BEST_EFFORT,
        QosClass::Burstable => {
            let request = request(container, "memory").map_or(0, |q| q.value());
            let share = i128::from(request) * 1000 / i128::from(node_memory_bytes.max(1));
            let score = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
            score.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
        }
    }
}

#[cfg(test)]
mod tests;
