// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The language that the kernel programs and user space share: map keys and values, and every decision
//! about a packet or a connect that can be made without a kernel helper.
//!
//! It is not a place for IO: the programs (`ebpf`) and the loader (`agent/datapath`) bring the maps.
//! Without the feature `user` the crate is `no_std` and holds only what the BPF target needs.
#![cfg_attr(not(feature = "user"), no_std)]

pub mod choose;
pub mod hash;
pub mod link_local;
pub mod types;

#[cfg(feature = "user")]
pub mod ops;
#[cfg(feature = "user")]
pub mod table;

pub use types::*;

#[cfg(feature = "user")]
pub use ops::{MapContents, MapOp};

/// Version of the layout of all maps. It is part of the pin path (`BPF_ROOT/knarr/v1`), so programs
/// never meet maps of another layout.
pub const LAYOUT_VERSION: u32 = 1;
