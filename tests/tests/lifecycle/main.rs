// SPDX-License-Identifier: Apache-2.0
//! The lab itself: certificates of a cluster that has run for a while, what `demo` shows, that `down` leaves nothing, and
//! that `bench` measures what it says. The last three take the cluster away, so these are the last thing that `cargo xtask
//! test cluster` runs.

mod certificates;
mod demo;
mod down;
mod machine;
mod measuring;
