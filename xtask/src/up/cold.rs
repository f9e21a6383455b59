// SPDX-License-Identifier: Apache-2.0
//! A start from nothing with a clock beside it, for `bench start`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::services::{self, Running};
use super::{free_port, install, link_tools, remove_everything};
use crate::http::Proxy;
use crate::lab::state::{self, State};
use crate::lab::{CONTROL, HostKind, SWITCH, home, host, node_name};
use crate::run::require_root;
use crate::{build, paths, setup};

/// A start that takes longer is broken.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// When what was there, after the start of the control plane.
pub struct ColdStart {
    /// `/readyz` says ok.
    pub control_ready: Duration,
    /// The node's Ready condition is True.
    pub node_ready: Duration,
}

/// Starts one control plane and one node. Building and booting the hosts are not part of the time; making the data
/// directory, the CA, the token and the certificates is.
pub fn cold_start() -> anyhow::Result<ColdStart> {
    require_root()?;
    setup::ensure_for_up()?;
    let programs = build::programs(build::Build::asked())?;
    let _lock = state::lock()?;
    remove_everything()?;
    let mut state = State::new(free_port()?)?;
    fs::create_dir_all(paths::logs())?;
    install(&mut state, &programs)?;
    link_tools()?;
    let node = node_name(1);
    host::start(&mut state, SWITCH, HostKind::Switch)?;
    host::start(&mut state, CONTROL, HostKind::Control)?;
    host::start(&mut state, &node, HostKind::Node)?;

    let started = Instant::now();
    services::launch_control(&mut state)?;
    let made = home(CONTROL).join("data").join("admin.kubeconfig");
    until("the kubeconfig is written", || Ok(made.exists()))?;
    services::hand_out(&made, &paths::kubeconfig())?;
    let proxy = Proxy::start()?;
    until("the control plane is ready", || {
        Ok(proxy.connect()?.request("GET", "/readyz", "").is_ok())
    })?;
    let control_ready = started.elapsed();
    services::start_agents(&mut state, Running::Keep)?;
    until("the node is Ready", || {
        let Ok(text) = proxy
            .connect()?
            .request("GET", &format!("/api/v1/nodes/{node}"), "")
        else {
            return Ok(false);
        };
        let object: serde_json::Value = serde_json::from_str(&text)?;
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        Ok(conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
    })?;
    let node_ready = started.elapsed();
    drop(proxy);
    remove_everything()?;
    Ok(ColdStart {
        control_ready,
        node_ready,
    })
}

fn until(what: &str, mut look: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + LIMIT;
    while !look()? {
        if Instant::now() >= end {
            bail!("after {} s it is not so that {what}", LIMIT.as_secs());
        }
        thread::sleep(POLL);
    }
    Ok(())
}
