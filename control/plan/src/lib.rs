// SPDX-License-Identifier: Apache-2.0
//! Every decision of the control plane as plain functions: no IO, no clock, no randomness.
#![forbid(unsafe_code)]

pub mod cidr;
pub mod deployment;
pub mod election;
pub mod endpoint_mirror;
pub mod endpoint_slice;
pub mod endpoints;
pub mod events;
pub mod expiry;
pub mod feed;
pub mod garbage;
pub mod join_tokens;
pub mod namespace;
pub mod node_events;
pub mod node_lifecycle;
pub mod owners;
pub mod pod_cidr;
pub mod pod_gc;
pub mod pods;
pub mod reason;
pub mod replica_set;
pub mod scheduler;
pub mod service_addresses;
pub mod trigger_time;
