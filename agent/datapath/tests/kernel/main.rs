// SPDX-License-Identifier: Apache-2.0
//! The datapath as it really runs: this version's programs in this machine's kernel, between network
//! namespaces and in cgroups that the tests make and remove.
//!
//! Needs root, a cgroup v2 hierarchy and the built object; fails and says what is missing otherwise.
//! Touches neither the machine's root network namespace nor its root cgroup.
#![forbid(unsafe_code)]

mod affinity;
mod direct;
mod flows;
mod growth;
mod lab;
mod life;
mod node_port;
mod pod_network;
mod recycle;
mod socket;
mod speed;
mod spoof;
