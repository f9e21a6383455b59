// SPDX-License-Identifier: Apache-2.0
//! The runtime against the real kernel: namespaces, cgroups, overlays, libcontainer.
//!
//! Every test runs in a host of its own (`harness`): it needs root and says so when it has none.

#[path = "runtime/adoption.rs"]
mod adoption;
#[path = "runtime/containers.rs"]
mod containers;
#[path = "runtime/harness.rs"]
mod harness;
#[path = "runtime/image.rs"]
mod image;
#[path = "runtime/images.rs"]
mod images;
#[path = "runtime/limits.rs"]
mod limits;
#[path = "runtime/sandboxes.rs"]
mod sandboxes;
#[path = "runtime/shutdown.rs"]
mod shutdown;
#[path = "runtime/volumes.rs"]
mod volumes;
