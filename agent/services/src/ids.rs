// SPDX-License-Identifier: Apache-2.0
//! Ids that are not used again: a counter that goes on where the last run of the agent stopped, and needs
//! four thousand million allocations to come round, longer than any affinity or flow lives.

/// Gives out ids; 0 is never one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    last: u32,
}

impl Ids {
    /// Continues after the highest id that was ever given.
    pub(super) fn after(last: u32) -> Self {
        Self { last }
    }

    /// Never gives an id that is not higher than this.
    pub(super) fn raise(&mut self, last: u32) {
        self.last = self.last.max(last);
    }

    /// The next id.
    pub(super) fn next(&mut self) -> u32 {
        self.last = self.last.wrapping_add(1).max(1);
        self.last
    }
}
