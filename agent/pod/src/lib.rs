// SPDX-License-Identifier: Apache-2.0
//! What a node's plans and its container runtime say to each other: sandbox, container, image and stream as plain values.
//!
//! The plans (`knarr-agent-plan`) make these values, the runtime (`knarr-runtime`) carries them out and reports back.
//! They also travel between the agent and the shims of running pods as JSON: names of fields and variants stay, a new
//! field has a default. Not here: Kubernetes objects, decisions, effects.
#![forbid(unsafe_code)]

mod container;
mod image;
mod sandbox;
mod state;
mod stream;

pub use container::{
    Access, ContainerSpec, Escalation, ImageGroups, LastWords, Mount, MountSource, Privilege,
    Propagation, RootUser, Seccomp, Shutdown, User,
};
pub use image::ImageConfig;
pub use knarr_base::qos::QosClass;
pub use sandbox::{IpcMode, LogPolicy, NetworkMode, PidMode, Resources, SandboxSpec};
pub use state::{
    CgroupStats, ContainerPhase, ContainerState, ExitReason, SandboxState, StartReason, Timestamp,
};
pub use stream::{LogStream, LogTimestamps};
