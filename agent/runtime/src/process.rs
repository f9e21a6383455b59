// SPDX-License-Identifier: Apache-2.0
//! Processes by id and start time, so that a reused id is never mistaken. Called by all of the crate.
