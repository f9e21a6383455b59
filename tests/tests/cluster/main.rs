// SPDX-License-Identifier: Apache-2.0
//! The tier `cluster`: Services, affinity, updates, faults under load, joining and images, against a cluster of real
//! programs and kernel programs that `cargo xtask test cluster` brings up. One test at a time, because faults disturb
//! everybody.

mod affinity;
mod agent_faults;
mod chaos;
mod control_faults;
mod deleted_node;
mod explain;
mod full_disk;
mod host_faults;
mod idle;
mod images;
mod join;
mod own_ways;
mod pod_rules;
mod pods;
mod refused_starts;
mod rolling_update;
mod services;
mod xtask_failures;
