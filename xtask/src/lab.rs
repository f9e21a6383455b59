// SPDX-License-Identifier: Apache-2.0
//! The lab: "hosts" made of namespaces, joined by a switch that is one more namespace. This file holds what a
//! host is called and where it is in the lab's network; the parts below make, enter and remove hosts.
//! It knows nothing of Knarr: `up` decides what runs on a host.

pub mod boot;
pub mod cgroup;
pub mod enter;
pub mod host;
pub mod machine;
pub mod network;
pub mod state;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::paths;

/// The control plane's host.
pub const CONTROL: &str = "control";
/// The host outside the cluster.
pub const CLIENT: &str = "client";
/// The namespace that stands for the network between the hosts.
pub const SWITCH: &str = "switch";
/// How a host's own network card is called on the host.
pub const UPLINK: &str = "eth0";
/// 198.18.0.0/15 is set aside for benchmarks (RFC 2544), so no real network is shadowed.
pub const PREFIX_LENGTH: u8 = 15;
/// Ranges that never leave a host by any but a route that the product made (the testbed's first safety rule).
pub const UNREACHABLE: [&str; 4] = ["10.96.0.0/12", "10.244.0.0/16", "fd00::/8", "64:ff9b::/96"];

/// What a lab host is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// Joins the others, runs nothing.
    Switch,
    /// Runs the control plane.
    Control,
    /// Runs an agent.
    Node,
    /// Stands outside the cluster.
    Client,
}

impl HostKind {
    /// Where the host's kept data shows up on the host.
    pub fn data_mount(self) -> Option<&'static str> {
        match self {
            Self::Control => Some("/var/lib/knarr-control"),
            Self::Node => Some("/var/lib/knarr"),
            Self::Switch | Self::Client => None,
        }
    }
}

/// How a node is called.
pub fn node_name(number: u32) -> String {
    format!("node-{number}")
}

/// Where a host is in the lab's network. The switch has no address.
pub fn address(name: &str) -> Option<Ipv4Addr> {
    match name {
        CONTROL => Some(Ipv4Addr::new(198, 18, 0, 10)),
        CLIENT => Some(Ipv4Addr::new(198, 18, 0, 20)),
        _ => {
            let number: u8 = name.strip_prefix("node-")?.parse().ok()?;
            Some(Ipv4Addr::new(198, 18, 1, number))
        }
    }
}

/// Where a host's files are kept.
pub fn home(name: &str) -> PathBuf {
    paths::up().join(name)
}

#[cfg(test)]
mod tests;
