// SPDX-License-Identifier: Apache-2.0
//! Keeps the log readable while strangers are refused: a line a second at most, and none longer than it needs to be.
//!
//! Anybody who reaches the port can be refused as often as they like.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Time between two lines about refused machines.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of a stranger's text in a log line; a node name that is usual fits.
const TEXT_BYTES_MAX: usize = 64;

/// Which refusals are logged.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    logged: Option<Instant>,
    left_out: u64,
}

impl Refusals {
    /// Whether a refusal at `now` gets a line: `Some` with the number of those before it that got none.
    pub(super) fn line(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        let soon = |logged: Instant| now.saturating_duration_since(logged) < EVERY;
        if state.logged.is_some_and(soon) {
            state.left_out += 1;
            return None;
        }
        state.logged = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

/// The beginning of `text`, as much as a log line takes.
pub(super) fn beginning(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
