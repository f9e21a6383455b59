// SPDX-License-Identifier: Apache-2.0
//! Containers on one node: images, sandboxes, libcontainer in a helper process, cgroups, logs.
//!
//! The shape (see the crate's modules for each part):
//!
//! ```text
//! knarr-agent ── Runtime ── Sandbox ──unix socket── shim (own process, one per pod, survives the agent)
//!                                                    ├─ pause       owns net, ipc, uts
//!                                                    └─ containers  made by libcontainer in a short-lived child
//! ```
//!
//! What it is asked for and what it reports are values of `knarr-pod`. Not here: Kubernetes objects and decisions
//! (`agent/plan`), pod networks (`agent/datapath`), the loops
//! that call this (`agent`). The binary that embeds this crate calls [`shim_main`] for its hidden `shim`
//! subcommand before it starts any thread.

#![deny(unsafe_code)]

pub mod cgroup;
mod clock;
mod id;
pub mod image;
pub mod logs;
mod path_name;
mod process;
mod program;
mod protocol;
mod runtime;
mod sandbox;
mod shim;
#[allow(unsafe_code)]
mod sys;
mod tree;
pub mod volume;

pub use cgroup::CgroupLayout;
pub use image::{Image, ImageError, ImageName, ImageStore, ImagesStamp};
pub use runtime::{Pruned, Runtime, RuntimeConfig, RuntimeError, check_sandbox};
pub use sandbox::{Sandbox, SandboxError, check_container};
pub use shim::shim_main;
