// SPDX-License-Identifier: Apache-2.0
//! The bad things that can be done to a running cluster, and their undoing.

use std::time::Duration;

use anyhow::{Context, bail};

use super::services::{self, Running};
use super::{require_root, running};
use crate::lab::network::{self, Cable};
use crate::lab::state::{self, State};
use crate::lab::{CONTROL, HostKind, SWITCH, host};
use crate::ui;

/// How long a process may take to go after SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What can be done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeFault {
    /// kill -9 of the agent.
    KillAgent,
    /// Start the agent, after ending the one that runs.
    RestartAgent,
    /// Power off.
    StopHost,
    /// Power on.
    StartHost,
    /// Cable out.
    Unplug,
    /// Cable in.
    Plug,
}

/// Does something to a node.
pub fn node_fault(name: &str, fault: NodeFault) -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    state.node(name)?;
    match fault {
        NodeFault::KillAgent => kill_service(&mut state, name)?,
        NodeFault::RestartAgent => {
            if !running(state.host(name)?.init) {
                bail!("{name} is stopped: start it with `cargo xtask node {name} --start-host`");
            }
            services::start_service(&mut state, name, None, Running::Restart)?;
        }
        NodeFault::StopHost => host::stop(&mut state, name)?,
        NodeFault::StartHost => {
            host::start(&mut state, name, HostKind::Node)?;
            services::start_service(&mut state, name, None, Running::Keep)?;
        }
        NodeFault::Unplug => set_cable(&state, name, Cable::Out)?,
        NodeFault::Plug => set_cable(&state, name, Cable::In)?,
    }
    ui::line(&format!(
        "{name}: {}",
        match fault {
            NodeFault::KillAgent => "the agent was killed; pods and Services go on",
            NodeFault::RestartAgent => "the agent was started",
            NodeFault::StopHost => "the host was stopped",
            NodeFault::StartHost => "the host and its agent were started",
            NodeFault::Unplug => "the cable is out",
            NodeFault::Plug => "the cable is in",
        }
    ));
    Ok(())
}

/// kill -9 of the control plane.
pub fn control_kill() -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    kill_service(&mut state, CONTROL)?;
    ui::line("the control plane was killed; pods and Services go on");
    Ok(())
}

/// Starts the control plane where it does not run, and waits until it answers.
pub fn control_start() -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    services::start_control_again(&mut state, Running::Keep)
}

fn kill_service(state: &mut State, name: &str) -> anyhow::Result<()> {
    let host = state.host_mut(name)?;
    let service = host.service.take();
    if let Some(service) = service
        && !service.kill_and_wait(KILL_LIMIT)
    {
        bail!("process {} does not end", service.pid);
    }
    state.save()
}

fn set_cable(state: &State, name: &str, cable: Cable) -> anyhow::Result<()> {
    let switch = state
        .host(SWITCH)?
        .init
        .context("the lab's switch is not running")?;
    network::set_cable(switch, name, cable)
}
