// SPDX-License-Identifier: Apache-2.0
//! What the tests of whole clusters share: the real kubectl, commands on lab hosts, load with a report, waiting with
//! a bound, and faults that are undone. The tests themselves are in `tests/tests/`; `cargo xtask test` brings the
//! cluster up and runs them. Helpers panic, as assertions do, and say what they were about.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod faults;
pub mod hosts;
pub mod kubectl;
pub mod lab;
pub mod load;
pub mod manifests;
pub mod outcome;
pub mod wait;

pub use cluster::Cluster;
pub use kubectl::Kubectl;
pub use load::{From, Load, Report};
pub use outcome::Outcome;
pub use wait::{eventually, stays};
