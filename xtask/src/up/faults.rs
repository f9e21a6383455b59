// SPDX-License-Identifier: Apache-2.0
//! The bad things that can be done to a running cluster, and their undoing.

use std::time::Duration;

use anyhow::{Context, bail};

use super::running;
use super::services::{self, Running};
use crate::lab::network::{self, Cable};
use crate::lab::state::{self, State};
use crate::lab::{CONTROL, HostKind, SWITCH, host};
use crate::run::require_root;
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

/// Does something to a node, and says what was done or that there was nothing to do.
pub fn node_fault(name: &str, fault: NodeFault) -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    state.node(name)?;
    let on = host::is_running(&state, name);
    let done = match fault {
        NodeFault::KillAgent => match (kill_service(&mut state, name)?, on) {
            (true, _) => "the agent was killed; pods and Services go on",
            (false, true) => "no agent was running",
            (false, false) => "the host is stopped, and no agent was running",
        },
        NodeFault::RestartAgent => {
            require_on(name, on)?;
            services::start_service(&mut state, name, None, Running::Restart)?;
            "the agent was started"
        }
        NodeFault::StopHost => {
            host::stop(&mut state, name)?;
            if on {
                "the host was stopped"
            } else {
                "the host was stopped already"
            }
        }
        NodeFault::StartHost => {
            let agent = running(state.host(name)?.service);
            host::start(&mut state, name, HostKind::Node)?;
            services::start_service(&mut state, name, None, Running::Keep)?;
            match (on, agent) {
                (false, _) => "the host and its agent were started",
                (true, false) => "the host was running already; its agent was started",
                (true, true) => "the host and its agent were running already",
            }
        }
        NodeFault::Unplug => {
            require_on(name, on)?;
            match set_cable(&state, name, Cable::Out)? {
                Cable::In => "the cable is out",
                Cable::Out => "the cable was out already",
            }
        }
        NodeFault::Plug => {
            require_on(name, on)?;
            match set_cable(&state, name, Cable::In)? {
                Cable::Out => "the cable is in",
                Cable::In => "the cable was in already",
            }
        }
    };
    ui::line(&format!("{name}: {done}"));
    Ok(())
}

fn require_on(name: &str, on: bool) -> anyhow::Result<()> {
    if !on {
        bail!("{name} is stopped: start it with `cargo xtask node {name} --start-host`");
    }
    Ok(())
}

/// kill -9 of the control plane.
pub fn control_kill() -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    ui::line(if kill_service(&mut state, CONTROL)? {
        "the control plane was killed; pods and Services go on"
    } else {
        "no control plane was running"
    });
    Ok(())
}

/// Starts the control plane where it does not run, and waits until it answers.
pub fn control_start() -> anyhow::Result<()> {
    require_root()?;
    let _lock = state::lock()?;
    let mut state = State::require()?;
    let before = running(state.host(CONTROL)?.service);
    services::start_control_again(&mut state, Running::Keep)?;
    ui::line(if before {
        "the control plane was running already"
    } else {
        "the control plane was started"
    });
    Ok(())
}

/// False when there was nothing to kill.
fn kill_service(state: &mut State, name: &str) -> anyhow::Result<bool> {
    let host = state.host_mut(name)?;
    let Some(service) = host.service.take() else {
        return Ok(false);
    };
    let alive = service.alive();
    if !service.kill_and_wait(KILL_LIMIT) {
        bail!("process {} does not end", service.pid);
    }
    state.save()?;
    Ok(alive)
}

/// Gives where the cable's end was before.
fn set_cable(state: &State, name: &str, cable: Cable) -> anyhow::Result<Cable> {
    let switch = state
        .host(SWITCH)?
        .init
        .context("the lab's switch is not running")?;
    network::set_cable(switch, name, cable)
}
