// SPDX-License-Identifier: Apache-2.0
//! The node's program: joins the cluster, keeps the node feed, runs a worker for each pod, carries
//! Services into the datapath, and reports.
//!
//! ```text
//! feed -> desired (journal on disk) -> pods -> workers: fetch, plan, apply -> outbox -> feed
//!                                   -> services: plan -> eBPF maps, routes
//! node, events ------------------------------------------------------------> outbox
//! ```
//!
//! Not here: decisions (`knarr-agent-plan`), containers (`knarr-runtime`), eBPF and netlink
//! (`knarr-datapath`). `main` calls [`cli::main`]; tests call the parts.
#![forbid(unsafe_code)]

mod addresses;
pub mod cli;
pub mod clock;
pub mod config;
pub mod datapath;
pub mod desired;
pub mod edges;
pub mod events;
pub mod feed;
pub mod files;
pub mod health;
pub mod join;
mod limits;
pub mod logging;
pub mod machine;
pub mod memory;
pub mod metrics;
pub mod node;
mod object;
pub mod outbox;
pub mod pods;
pub mod probes;
mod ranges;
pub mod services;
pub mod signals;
mod start;
pub mod streams;
pub mod volumes;

pub use start::run;
