// SPDX-License-Identifier: Apache-2.0
//! The tier `kubectl`: what people and scripts do with the real kubectl, and the messages they get when it is wrong.
//! Run by `cargo xtask test kubectl` against a running cluster; tests run beside each other.

mod access;
mod bad_bodies;
mod bad_input;
mod controllers;
mod discovery;
mod helm;
mod reading;
mod services;
mod writing;
