// SPDX-License-Identifier: Apache-2.0
//! The scheduler and the controllers, and the one runner that drives them all.
//!
//! A controller fetches what it needs, has `knarr-control-plan` decide, and applies the plan through the API's
//! in-process client. Wired by `knarr-control`.

#![forbid(unsafe_code)]

pub mod leadership;

pub use leadership::{Elector, Leadership};
