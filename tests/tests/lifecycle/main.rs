// SPDX-License-Identifier: Apache-2.0
//! The lab itself: what `demo` shows, that `down` leaves nothing, and that `bench` measures what it says. These tests make
//! their lab and take it away, so they are in a group of their own (`.config/nextest.toml`).

mod demo;
mod down;
mod machine;
mod measuring;
