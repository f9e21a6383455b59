// SPDX-License-Identifier: Apache-2.0
//! Every decision of a node as plain functions: pod life cycle, restarts, probes, phase and conditions,
//! resources to cgroup values, environment and volumes.
//!
//! Not here: Services (`knarr-services`), sockets, files, clocks, threads, randomness. Time comes in as milliseconds since 1970.
//! Called by `knarr-agent`, whose `apply.rs` is the one interpreter of what is decided here.
#![forbid(unsafe_code)]

pub mod admission;
pub mod backoff;
pub mod container;
pub mod env;
pub mod identity;
pub mod node;
pub mod observed;
pub mod pod;
pub mod probe;
pub mod reason;
pub mod record;
pub mod resources;
pub mod retry;
pub mod sandbox;
pub mod secret;
pub mod signal;
pub mod simulated;
pub mod spec;
pub mod status;
pub mod storage;
pub mod support;
pub mod sysctls;
pub mod volumes;

/// Milliseconds since 1970, UTC.
pub type Millis = i64;

/// Seconds of an object, in milliseconds. The API takes any number of them, also one that does not fit:
/// then it is as many milliseconds as there are, and what is due that late is never due.
pub(crate) fn ms_of_seconds(seconds: i64) -> Millis {
    seconds.saturating_mul(1_000)
}
