// SPDX-License-Identifier: Apache-2.0
//! What every crate needs and no crate should own: error chains, blocking calls, pauses, quantities, classes of service,
//! signals, memory, and the reference of flags.
//!
//! No type of Kubernetes' objects is here (`knarr-api`); two rules that both programs need are (`qos`, `stop_signal`). It uses no other crate of ours, and any
//! crate may use it. What needs tokio stands behind the feature `async`, what needs clap behind `flags`.

#[cfg(feature = "async")]
pub mod blocking;
pub mod error;
#[cfg(feature = "flags")]
pub mod flags;
pub mod jitter;
pub mod memory;
pub mod qos;
pub mod quantity;
#[cfg(feature = "async")]
pub mod signals;
pub mod stop_signal;
mod sys;

pub use error::chain;
pub use jitter::jitter;
