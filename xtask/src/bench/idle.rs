// SPDX-License-Identifier: Apache-2.0
//! `bench idle`: memory, CPU and store writes of a cluster in which nothing happens.
//!
//! Memory is that of the cgroup which each program is alone in, as its systemd unit is: anonymous and kernel memory, the
//! eBPF maps with it. Resident memory also has the pages of the program's file, and nothing of the kernel's.

use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::cluster::{CgroupMemory, cgroup_memory, cpu_seconds, pod, resident_mb};
use super::{Effort, Figure, stats};
use crate::build::Build;
use crate::http::{Connection, Proxy};
use crate::lab::CONTROL;
use crate::lab::state::State;
use crate::process::Process;
use crate::{kube, ui, up};

const NODES: u32 = 2;
const PODS: usize = 10;
/// Until what the start caused has died down.
const SETTLE: Duration = Duration::from_secs(15);
/// How long is looked.
const WINDOW: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "bench-idle";

/// Measures.
pub fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let settle = effort.pick(SETTLE, Duration::from_secs(1));
    let window = effort.pick(WINDOW, Duration::from_secs(1));
    up::down()?;
    up::up_with(NODES, &[], Build::asked())?;
    kube::get(&["create", "namespace", NAMESPACE])?;
    for number in 0..PODS {
        kube::apply(&pod(NAMESPACE, &format!("idle-{number}"), None).to_string())?;
    }
    kube::get(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Ready",
        "pod",
        "--all",
        "--timeout=120s",
    ])?;
    let state = State::require()?;
    let control = service(&state, CONTROL)?;
    let agents = state
        .nodes()
        .iter()
        .map(|name| service(&state, name))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let proxy = Proxy::start()?;
    let mut api = proxy.connect()?;

    let step = ui::step(format!(
        "watching nothing happen for {} s",
        (settle + window).as_secs()
    ));
    thread::sleep(settle);
    let writes_before = writes(&mut api)?;
    let cpu_before = (
        cpu_seconds(control)?,
        agents
            .iter()
            .map(|agent| cpu_seconds(*agent))
            .collect::<anyhow::Result<Vec<_>>>()?,
    );
    thread::sleep(window);
    let percent = |now: f64, before: f64| (now - before) / window.as_secs_f64() * 100.0;
    let control_cpu = percent(cpu_seconds(control)?, cpu_before.0);
    let agent_cpu = agents
        .iter()
        .zip(&cpu_before.1)
        .map(|(agent, before)| Ok(percent(cpu_seconds(*agent)?, *before)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let agent_memory = agents
        .iter()
        .map(|agent| resident_mb(*agent))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let control_memory = resident_mb(control)?;
    let control_cgroup = cgroup_memory(control)?;
    let agent_cgroups = agents
        .iter()
        .map(|agent| cgroup_memory(*agent))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let of_agents = |of: fn(&CgroupMemory) -> f64| agent_cgroups.iter().map(of).collect::<Vec<_>>();
    let writes = writes(&mut api)?
        .into_iter()
        .zip(writes_before)
        .map(|(now, before)| now - before)
        .fold(0.0, f64::max);
    step.done();

    let note = format!("{NODES} nodes, {PODS} pods, {} s", window.as_secs());
    let both = format!("{note}; low and high are the two agents");
    Ok(vec![
        stats::median(
            "control_anonymous_mb",
            "MB",
            &[control_cgroup.anonymous_mb],
            &note,
        ),
        stats::median(
            "control_kernel_mb",
            "MB",
            &[control_cgroup.kernel_mb],
            &note,
        ),
        spread(
            "agent_anonymous_mb",
            "MB",
            &of_agents(|memory| memory.anonymous_mb),
            &both,
        ),
        spread(
            "agent_kernel_mb",
            "MB",
            &of_agents(|memory| memory.kernel_mb),
            &both,
        ),
        stats::median("control_rss_mb", "MB", &[control_memory], &note),
        spread("agent_rss_mb", "MB", &agent_memory, &both),
        stats::median("control_cpu_percent", "% of a core", &[control_cpu], &note),
        spread("agent_cpu_percent", "% of a core", &agent_cpu, &both),
        stats::median("store_writes", "writes", &[writes], &note),
    ])
}

/// The mean of few values and their ends.
fn spread(metric: &str, unit: &'static str, values: &[f64], note: &str) -> Figure {
    Figure {
        metric: metric.to_owned(),
        value: values.iter().sum::<f64>() / values.len() as f64,
        unit,
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        note: note.to_owned(),
    }
}

fn service(state: &State, name: &str) -> anyhow::Result<Process> {
    state
        .host(name)?
        .service
        .with_context(|| format!("the program on {name} is not running"))
}

/// What the control plane says that its store has written: transactions that changed something, and commits. A compaction
/// is one without the other, so the larger difference counts.
fn writes(api: &mut Connection) -> anyhow::Result<[f64; 2]> {
    let metrics = api.request("GET", "/metrics", "")?;
    let value = |name: &str| -> anyhow::Result<f64> {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        let value = value.with_context(|| format!("/metrics has no {name}"))?;
        Ok(value.trim().parse()?)
    };
    Ok([
        value("knarr_store_writes_total")?,
        value("knarr_store_commits_total")?,
    ])
}
