// SPDX-License-Identifier: Apache-2.0
//! The scheduler and the controllers, and the one runner that drives them all.
//!
//! A controller is a file here that registers in [`CONTROLLERS`]: it says what it watches, and its reconcile fetches,
//! has a function of `knarr-control-plan` decide, and applies the plan through the API's in-process client. The runner
//! gives it informers, a queue with back-off, leadership, metrics and supervision. Wired by `knarr-control`.

#![forbid(unsafe_code)]

mod clock;
mod controller;
mod deployment;
mod endpoint_mirror;
mod endpoint_slice;
mod endpoints;
mod expiry;
mod garbage;
mod informer;
mod informers;
pub mod leadership;
mod metadata;
mod metrics;
mod namespace;
mod node_lifecycle;
mod nodes;
mod pod_cidr;
mod pod_gc;
mod pods;
mod queue;
mod recorder;
mod reflector;
mod replica_set;
mod runner;
mod scheduler;
mod service_account;
mod services;
mod settings;
mod shared;

pub use informer::name_of;
pub use leadership::{Elector, Leadership};
pub use metrics::Metrics;
pub use reflector::{Reflector, WatchEvent};
pub use runner::{Register, Runner};
pub use settings::{Heartbeats, Settings};

/// Every controller of the cluster. A new one is a file and a line here.
pub const CONTROLLERS: &[Register] = &[
    scheduler::register,
    replica_set::register,
    deployment::register,
    endpoint_slice::register,
    endpoints::register,
    endpoint_mirror::register,
    node_lifecycle::register,
    pod_gc::register,
    pod_cidr::register,
    garbage::register,
    namespace::register,
    service_account::register,
    expiry::register_events,
    expiry::register_tokens,
];

#[cfg(test)]
mod tests;
