// SPDX-License-Identifier: Apache-2.0
//! The node's side of the datapath: loads, pins, attaches and upgrades the eBPF programs, writes their
//! maps, makes pod networks and routes over netlink, and reads everything back for people.
//!
//! It decides nothing about Services: `knarr-agent-plan` turns desired Services into [`MapOp`]s, and
//! [`Datapath::apply`] carries them out in order. Called by `knarr-agent` and by the tests. Everything
//! here acts on the network namespace of the calling thread, which is the node's.
#![deny(unsafe_code)]

mod apply;
mod attach;
pub mod check;
pub mod config;
pub mod costs;
pub mod error;
pub mod explain;
mod grow;
pub mod inspect;
pub mod load;
mod logs;
mod maps;
pub mod names;
mod netns;
pub mod network;
pub mod overflow;
mod snat;
mod sys;
pub mod view;

pub use apply::split_purges;
pub use config::{Cidr, DatapathConfig, MapSizes, ProgramLog, TcHook};
pub use error::DatapathError;
pub use knarr_ebpf_common::{MapContents, MapOp};
pub use load::Datapath;
pub use network::{Changed, Network, NetworkChanges, NodeRoute, PodNetwork, Strangers};

/// Allocations from here on that have a mapping of their own, which goes back to the kernel as soon as it is freed. The
/// allocator's own bound at the start; unlike that one it does not grow with what is freed.
const MAPPING_BYTES: i32 = 128 * 1024;

/// Lets all threads of this process allocate from one heap. glibc gives each thread one of its own otherwise, in which
/// what a burst leaves behind lies scattered: twice the memory for the same Services. To be called before any thread
/// starts.
pub fn keep_memory_together() {
    sys::keep_memory_together(MAPPING_BYTES);
}

/// Gives freed memory of this process back to the kernel; takes some milliseconds. For after a burst.
pub fn trim_memory() {
    sys::trim_memory();
}
