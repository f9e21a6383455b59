// SPDX-License-Identifier: Apache-2.0
//! Making and ending one host. Called by `up`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use super::boot::{PID, READY, data_dir};
use super::state::{Host, State};
use super::{HostKind, SWITCH, cgroup, network};
use crate::process::Process;

/// How long a killed process may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Whether a host is running; one that was never started is not.
pub fn is_running(state: &State, name: &str) -> bool {
    state
        .hosts
        .get(name)
        .and_then(|host| host.init)
        .is_some_and(Process::alive)
}

/// Starts a host that is not running and plugs it in. Does nothing for one that runs.
pub fn start(state: &mut State, name: &str, kind: HostKind) -> anyhow::Result<()> {
    if is_running(state, name) {
        return Ok(());
    }
    let host = state.hosts.entry(name.to_owned()).or_insert(Host {
        kind,
        init: None,
        service: None,
        command: Vec::new(),
    });
    host.init = None;
    host.service = None;
    state.save()?;
    cgroup::create(&state.cgroup, name)?;
    let init = boot(name, kind)?;
    state.host_mut(name)?.init = Some(init);
    state.save()?;
    if name == SWITCH {
        network::make_switch(init)
    } else {
        plug_in(state, name)
    }
}

fn plug_in(state: &State, name: &str) -> anyhow::Result<()> {
    let switch = state
        .host(SWITCH)?
        .init
        .context("the lab's switch is not running")?;
    let host = state.host(name)?.init.context("the host is not running")?;
    network::connect(switch, host, name)
}

fn boot(name: &str, kind: HostKind) -> anyhow::Result<Process> {
    let home = super::home(name);
    fs::create_dir_all(data_dir(&home))?;
    let kind_name = clap::ValueEnum::to_possible_value(&kind).context("a host kind has a name")?;
    let mut boot = Command::new("/proc/self/exe")
        .args(["lab-boot", name, kind_name.get_name()])
        .arg(&home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a host")?;
    let output = boot.stdout.take().context("the pipe was asked for")?;
    let mut pid = None;
    let mut ready = false;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if let Some(number) = line.strip_prefix(PID) {
            pid = number.parse::<i32>().ok();
        }
        ready |= line == READY;
        if ready && pid.is_some() {
            break;
        }
    }
    let status = boot.wait()?;
    match pid.and_then(Process::of) {
        Some(process) if ready && status.success() => Ok(process),
        _ => bail!("the host {name} did not come up ({status})"),
    }
}

/// Power off: everything on the host is frozen and then killed. Its kept files stay.
pub fn stop(state: &mut State, name: &str) -> anyhow::Result<()> {
    let Host { init, .. } = *state.host(name)?;
    cgroup::kill_and_remove(&state.cgroup, name)?;
    if let Some(init) = init
        && !init.kill_and_wait(KILL_LIMIT)
    {
        bail!(
            "the first process of {name} (pid {}) does not end",
            init.pid
        );
    }
    let host = state.host_mut(name)?;
    host.init = None;
    host.service = None;
    state.save()
}
