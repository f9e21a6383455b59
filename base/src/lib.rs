// SPDX-License-Identifier: Apache-2.0
//! What every crate needs and no crate should own: error chains, blocking calls, pauses, signals, memory.
//!
//! Nothing of Kubernetes' objects is here (`knarr-api`), and no decision. It uses no other crate of ours, and any crate
//! may use it. What needs tokio stands behind the feature `async`.

#[cfg(feature = "async")]
pub mod blocking;
pub mod error;
pub mod jitter;
pub mod memory;
#[cfg(feature = "async")]
pub mod signals;
mod sys;

pub use error::chain;
pub use jitter::jitter;
