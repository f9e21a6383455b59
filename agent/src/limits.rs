// SPDX-License-Identifier: Apache-2.0
//! How many streams a node has at a time. `streams` keeps to it, and `join` makes room for as many calls on the connection.

/// Streams at a time; each holds a file and small queues.
pub const STREAMS_MAX: usize = 64;
/// Streams at a time that are refused because there are too many.
pub const REFUSALS_MAX: usize = 16;
/// Calls that streams make on one connection at a time.
pub const STREAMS_AT_ONCE_MAX: u32 = (STREAMS_MAX + REFUSALS_MAX) as u32;
