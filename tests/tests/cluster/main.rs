// SPDX-License-Identifier: Apache-2.0
//! The tier `cluster`: Services, affinity, updates, faults under load, joining and images, against clusters of real
//! programs and kernel programs that `cargo xtask test cluster` brings up. Tests run side by side. A file whose tests
//! disturb others belongs to a group in `.config/nextest.toml`, which has a cluster of its own.

mod affinity;
mod agent_faults;
mod certificates;
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
