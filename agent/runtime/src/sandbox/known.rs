// SPDX-License-Identifier: Apache-2.0
//! What the agent knows of a sandbox, and from whom: from its shim as long as there is one, and afterwards
//! from what the shim has left (`loss`).
//!
//! ```text
//! Shim ──its shim is gone──> Remains
//! ```

use crate::protocol::Snapshot;

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Known {
    pub snapshot: Snapshot,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Shim,
    Remains,
}

/// Whether anything is known now that was not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Learned {
    Something,
    Nothing,
}

impl Known {
    /// From a state file.
    pub fn new(snapshot: Snapshot) -> Known {
        Known {
            snapshot,
            source: Source::Shim,
        }
    }

    /// Takes what a shim says, unless something newer was heard of it. What comes when the shim is known to
    /// be gone was said before it went.
    pub fn hear(&mut self, new: Snapshot) -> Learned {
        if self.source == Source::Remains || new.version <= self.snapshot.version {
            return Learned::Nothing;
        }
        self.snapshot = new;
        Learned::Something
    }

    /// Takes what has become of a sandbox whose shim is gone. Versions are the shim's own count, and the
    /// file that this was made from may be behind what the shim had told.
    pub fn settle(&mut self, last: Snapshot) -> Learned {
        self.source = Source::Remains;
        if self.snapshot == last {
            return Learned::Nothing;
        }
        self.snapshot = last;
        Learned::Something
    }
}

#[cfg(test)]
mod tests;
