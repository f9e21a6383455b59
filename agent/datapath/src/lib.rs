// SPDX-License-Identifier: Apache-2.0
//! The node's side of the datapath: loads, pins, attaches and upgrades the eBPF programs, writes their
//! maps, makes pod networks and routes over netlink, and reads everything back for people.
//!
//! It decides nothing about Services: `knarr-agent-plan` turns desired Services into [`MapOp`]s, and
//! [`Datapath::apply`] carries them out in order. Called by `knarr-agent` and by the tests. Everything
//! here acts on the network namespace of the calling thread, which is the node's.
#![deny(unsafe_code)]

mod address;
mod apply;
mod attach;
pub mod check;
pub mod config;
mod contents;
pub mod costs;
pub mod error;
pub mod explain;
mod grow;
pub mod inspect;
pub mod load;
mod logs;
mod map_name;
mod maps;
pub mod names;
mod netns;
pub mod network;
pub mod overflow;
pub mod pins;
mod sizes;
mod snat;
mod sys;
pub mod view;

pub use apply::split_purges;
pub use config::{DatapathConfig, MapSizes, ProgramLog, TcHook};
pub use error::DatapathError;
pub use knarr_ebpf_common::{MapContents, MapOp};
pub use load::Datapath;
pub use network::{Changed, Network, NetworkChanges, NodeRoute, PodNetwork, Strangers};
