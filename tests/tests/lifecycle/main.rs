// SPDX-License-Identifier: Apache-2.0
//! The lab itself: what `demo` shows, and that `down` leaves nothing. These take the cluster away, so they are the last
//! thing that `cargo xtask test cluster` runs; each brings up what it needs.

mod demo;
mod down;
mod machine;
