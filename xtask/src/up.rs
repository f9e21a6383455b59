// SPDX-License-Identifier: Apache-2.0
//! `up` and `down`: a whole cluster in the lab, from nothing to Ready and back to nothing. Running `up` again
//! completes what is missing, and restarts only programs that were built again since.

mod cold;
mod faults;
mod services;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

pub use cold::cold_start;
pub use faults::{NodeFault, control_kill, control_start, node_fault};

use crate::build::Build;
use crate::lab::state::{self, State};
use crate::lab::{CLIENT, CONTROL, HostKind, SWITCH, cgroup, host, machine, node_name};
use crate::run::require_root;
use crate::{build, images, paths, process, run, setup, ui};

/// Tried first for the API on the machine's own loopback; any free port will do.
const API_PORT: u16 = 16443;

/// How many nodes the cluster tiers run on.
const TEST_NODES: u32 = 2;
/// Faults show after this long instead of Kubernetes' 40 s and 300 s, and certificates end after minutes instead of a
/// year, so that the tiers fit in a coffee break.
const SHORT_TIMES: [&str; 8] = [
    "--node-monitor-grace-period",
    "8s",
    "--default-not-ready-toleration-seconds",
    "5",
    "--default-unreachable-toleration-seconds",
    "5",
    // Nodes renew theirs several times in a run, and are never away for the third that is left then.
    "--node-certificate-lifetime",
    "150s",
];

/// Brings a cluster of this many nodes up.
pub fn up(nodes: u32) -> anyhow::Result<()> {
    up_with(nodes, &[], Build::asked())?;
    ui::heading("The cluster is up.");
    ui::line(&format!(
        "export KUBECONFIG={}",
        paths::kubeconfig().display()
    ));
    ui::line(&format!(
        "{} get nodes",
        paths::show(&paths::up_bin().join("kubectl"))
    ));
    ui::line(&format!(
        "logs are in {}/; `cargo xtask down` ends it",
        paths::show(&paths::logs())
    ));
    Ok(())
}

/// The same, with further flags for the control plane. A control plane that runs without them is restarted.
pub fn up_with(nodes: u32, control_flags: &[String], build: Build) -> anyhow::Result<()> {
    require_root()?;
    setup::ensure_for_up()?;
    let programs = build::programs(build)?;
    let images = images::pack(&programs.echo)?;
    let _lock = state::lock()?;
    let mut state = match State::load()? {
        Some(state) if state.complete && state.boot_id == state::boot_id()? => state,
        Some(_) => {
            ui::line("an earlier `up` did not come to its end; removing what it left");
            remove_everything()?;
            State::new(free_port()?)?
        }
        None if state::is_there() => {
            ui::line(
                "this checkout was copied with another one's cluster: removing the copied files, not that cluster",
            );
            remove_everything()?;
            State::new(free_port()?)?
        }
        None => State::new(free_port()?)?,
    };
    state.complete = false;
    state.save()?;
    fs::create_dir_all(paths::logs())?;
    let changed = install(&mut state, &programs)?;
    link_tools()?;

    let wanted: Vec<String> = (1..=nodes).map(node_name).collect();
    start_hosts(&mut state, &wanted)?;

    let restart = |program: &str| {
        if changed.iter().any(|name| name == program) {
            services::Running::Restart
        } else {
            services::Running::Keep
        }
    };
    services::start_control(&mut state, control_flags, restart("knarr-control"))?;
    services::start_agents(&mut state, restart("knarr-agent"))?;
    services::import_images(&state, &images)?;
    services::wait_ready(&state)?;
    state.complete = true;
    state.save()?;
    if state.nodes().len() > wanted.len() {
        ui::line(&format!(
            "{} nodes were up before and stay; `cargo xtask down` first for fewer",
            state.nodes().len()
        ));
    }
    Ok(())
}

/// Starts hosts with nothing on them, for looking at the lab itself. `down` removes them.
pub fn hosts_only(nodes: u32) -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    if State::load()?.is_some() {
        bail!("something is up already: `cargo xtask down` first");
    }
    let mut state = State::new(free_port()?)?;
    fs::create_dir_all(paths::logs())?;
    start_hosts(&mut state, &(1..=nodes).map(node_name).collect::<Vec<_>>())
}

fn start_hosts(state: &mut State, nodes: &[String]) -> anyhow::Result<()> {
    let step = ui::step(format!("starting {} hosts", nodes.len() + 2));
    host::start(state, SWITCH, HostKind::Switch)?;
    host::start(state, CONTROL, HostKind::Control)?;
    host::start(state, CLIENT, HostKind::Client)?;
    for name in nodes {
        host::start(state, name, HostKind::Node)?;
    }
    step.done();
    Ok(())
}

/// Ends and removes everything: the lab that was asked for, or else people's own and those of the tests.
pub fn down() -> anyhow::Result<()> {
    require_root()?;
    if paths::chosen_lab().is_none() {
        down_labs(|_| true)?;
    }
    let _lock = state::lock()?;
    let step = ui::step("removing the cluster");
    remove_everything()?;
    step.done_with("nothing is left");
    Ok(())
}

/// Ends the labs of the tests that have these names, each by a process of its own, because a process acts on one lab.
pub fn down_labs(is_meant: impl Fn(&OsStr) -> bool) -> anyhow::Result<()> {
    let entries = match fs::read_dir(paths::labs()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot list the labs of the tests"),
    };
    let xtask = std::env::current_exe().context("cannot tell where xtask is")?;
    for entry in entries {
        let lab = entry?.file_name();
        if !is_meant(&lab) || !paths::labs().join(&lab).join("state.json").exists() {
            continue;
        }
        run::loud(run::command(&xtask, ["down"]).env(paths::LAB, &lab))
            .with_context(|| format!("cannot end the lab {}", lab.display()))?;
    }
    Ok(())
}

/// Completes the cluster of a group of tests: the tiers' own, with the programs of their compilation.
pub fn up_for_tests() -> anyhow::Result<()> {
    let flags = SHORT_TIMES.map(str::to_owned);
    up_with(TEST_NODES, &flags, Build::Tested)
}

fn remove_everything() -> anyhow::Result<()> {
    // A damaged book does not stop the removal: the cgroup's name follows from the checkout alone.
    let (lab, hosts, machines) = match State::load() {
        Ok(Some(state)) => (
            state.cgroup.clone(),
            state.hosts.into_iter().collect::<Vec<_>>(),
            state.machines,
        ),
        Ok(None) | Err(_) => (state::lab_cgroup(), Vec::new(), BTreeMap::new()),
    };
    for (name, process) in machines {
        machine::end_process(&lab, &name, process)?;
    }
    // Killing the first process of a host ends its PID namespace; killing the cgroup ends what is half made.
    for (name, host) in &hosts {
        let processes = [host.service, host.init].into_iter().flatten();
        for process in processes {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        cgroup::kill_and_remove(&lab, name)
            .with_context(|| format!("cannot end the host {name}"))?;
    }
    cgroup::kill_and_remove(&lab, "")?;
    for (name, host) in &hosts {
        for process in [host.service, host.init].into_iter().flatten() {
            if !process.wait_gone(std::time::Duration::from_secs(10)) {
                bail!("the process {} of {name} does not end", process.pid);
            }
        }
    }
    remove_files()?;
    check_nothing_is_left(&lab)?;
    state::remove()
}

/// Everything below target/up/ but the logs, which people read afterwards, and the lock that we hold.
fn remove_files() -> anyhow::Result<()> {
    let Ok(entries) = fs::read_dir(paths::up()) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        match entry.file_name().to_str() {
            Some("logs" | "lock" | "state.json") => {}
            _ if entry.file_type()?.is_dir() => fs::remove_dir_all(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?,
            _ => fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?,
        }
    }
    Ok(())
}

fn check_nothing_is_left(lab: &str) -> anyhow::Result<()> {
    let cgroups = cgroup::left(lab)?;
    if !cgroups.is_empty() {
        bail!("these cgroups could not be removed: {cgroups:?}");
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // A person may have put a file system there; what we mount is below.
    let own = format!("{}/", paths::up().display());
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(&own)).collect();
    if !left.is_empty() {
        bail!("these mounts are left:\n{}", left.join("\n"));
    }
    Ok(())
}

/// Copies the programs to where the hosts run them, and says which are not what was started last.
fn install(state: &mut State, programs: &build::Programs) -> anyhow::Result<Vec<String>> {
    fs::create_dir_all(paths::up_bin())?;
    let mut changed = Vec::new();
    for (name, from) in [
        ("knarr-control", &programs.control),
        ("knarr-agent", &programs.agent),
        ("knarr-echo", &programs.echo),
    ] {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let digest = hex::encode(Sha256::digest(&bytes));
        let to = paths::up_bin().join(name);
        if state.programs.get(name) == Some(&digest) && to.exists() {
            continue;
        }
        replace(from, &to)?;
        state.programs.insert(name.to_owned(), digest);
        changed.push(name.to_owned());
    }
    state.save()?;
    Ok(changed)
}

/// A running program's file cannot be written to, but another can take its name.
fn replace(from: &Path, to: &Path) -> anyhow::Result<()> {
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot write {}", to.display()))
}

fn link_tools() -> anyhow::Result<()> {
    for name in ["kubectl", "helm"] {
        let tool = paths::tools().join(name);
        let link = paths::up_bin().join(name);
        if tool.exists() && fs::read_link(&link).ok().as_deref() != Some(&tool) {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(&tool, &link)
                .with_context(|| format!("cannot make {}", link.display()))?;
        }
    }
    Ok(())
}

/// The book of a lab in which nothing is yet, also no half-made cluster.
pub fn empty_book() -> anyhow::Result<State> {
    let mut state = State::new(free_port()?)?;
    state.complete = true;
    Ok(state)
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", API_PORT))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Whether a program that the state names is running.
fn running(process: Option<process::Process>) -> bool {
    process.is_some_and(process::Process::alive)
}
