// SPDX-License-Identifier: Apache-2.0
//! The lab's network: one bridge in the switch's namespace and a cable from it to each host. No link is ever made in
//! the machine's own network namespace, and no host has a default route.

use std::process::Command;

use anyhow::Context;
use serde::Deserialize;

use super::{PREFIX_LENGTH, UPLINK, address};
use crate::process::Process;
use crate::run;

/// The bridge in the switch's namespace.
const BRIDGE: &str = "br0";

fn ip(namespace: Process, args: &[&str]) -> anyhow::Result<()> {
    run::quiet(&mut ip_command(namespace, args))
}

fn ip_command(namespace: Process, args: &[&str]) -> Command {
    let net = format!("--net=/proc/{}/ns/net", namespace.pid);
    let mut command = run::command("nsenter", [net.as_str(), "--", "ip"]);
    command.args(args);
    command
}

/// Makes the bridge.
pub fn make_switch(switch: Process) -> anyhow::Result<()> {
    ip(switch, &["link", "add", BRIDGE, "type", "bridge"])?;
    ip(switch, &["link", "set", BRIDGE, "up"])
}

/// Lays a cable from the switch to a host and gives the host its address. The card's hardware address follows from
/// the host's name, so that a host that starts again is the same one to its neighbours.
pub fn connect(switch: Process, host: Process, name: &str) -> anyhow::Result<()> {
    let address = address(name)
        .with_context(|| format!("the host {name} has no place in the lab's network"))?;
    let [_, b, c, d] = address.octets();
    let hardware = format!("02:6b:6e:{b:02x}:{c:02x}:{d:02x}");
    let host_pid = host.pid.to_string();
    ip(
        switch,
        &[
            "link", "add", name, "type", "veth", "peer", "name", UPLINK, "address", &hardware,
            "netns", &host_pid,
        ],
    )?;
    ip(switch, &["link", "set", name, "master", BRIDGE, "up"])?;
    ip(
        host,
        &[
            "addr",
            "add",
            &format!("{address}/{PREFIX_LENGTH}"),
            "dev",
            UPLINK,
        ],
    )?;
    ip(host, &["link", "set", UPLINK, "up"])
}

/// Takes a host's cable out of the switch, or puts it back. Gives where its end was before.
pub fn set_cable(switch: Process, name: &str, cable: Cable) -> anyhow::Result<Cable> {
    let shown = run::stdout(&mut ip_command(switch, &["-json", "link", "show", name]))?;
    let links: Vec<Link> =
        serde_json::from_str(&shown).context("cannot read what `ip -json link` says")?;
    let plugged = links
        .iter()
        .any(|link| link.flags.iter().any(|flag| flag == "UP"));
    let state = match cable {
        Cable::In => "up",
        Cable::Out => "down",
    };
    ip(switch, &["link", "set", name, state])?;
    Ok(if plugged { Cable::In } else { Cable::Out })
}

/// What `ip -json link` says of one link.
#[derive(Deserialize)]
struct Link {
    flags: Vec<String>,
}

/// Where the end of a host's cable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// In the switch.
    In,
    /// Hanging loose.
    Out,
}
