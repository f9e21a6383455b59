// SPDX-License-Identifier: Apache-2.0
//! The recent past of the feed: numbered changes, so that a node that was away a moment can go on.
//!
//! One log for all nodes; each reader picks what is for it. Bounded by count and by bytes: a node that was
//! away for longer gets a snapshot instead.

use std::collections::VecDeque;

use knarr_api::feed::Change;
use knarr_control_plan::feed::{Audience, Outgoing};
use prost::Message;

/// A rolling restart of a few hundred pods fits; a longer absence costs one snapshot.
const ENTRIES_MAX: usize = 8_192;
/// Keeps the log's share of the idle process small.
const BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Debug)]
struct Entry {
    version: u64,
    audience: Audience,
    change: Change,
    bytes: usize,
}

/// Numbered changes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// Version of the newest change ever appended.
    version: u64,
    /// Newest version that was dropped from the front.
    forgotten: u64,
    bytes: usize,
}

/// A piece of the log for one node.
#[derive(Debug, PartialEq)]
pub(super) struct Piece {
    /// Everything for this node up to here is in `changes`.
    pub version: u64,
    pub changes: Vec<Change>,
}

impl Log {
    /// Version of the newest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Numbers a change and keeps it.
    pub fn append(&mut self, outgoing: Outgoing) {
        self.version += 1;
        let bytes = outgoing.change.encoded_len();
        self.bytes += bytes;
        self.entries.push_back(Entry {
            version: self.version,
            audience: outgoing.audience,
            change: outgoing.change,
            bytes,
        });
        while self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.forgotten = oldest.version;
        }
    }

    /// True when everything after `version` is still here.
    pub fn reaches(&self, version: u64) -> bool {
        version >= self.forgotten && version <= self.version
    }

    /// What `node` has to know after `version`, at most `limit` changes; `None` when that is forgotten.
    pub fn since(&self, version: u64, node: &str, limit: usize) -> Option<Piece> {
        if !self.reaches(version) {
            return None;
        }
        let start = self
            .entries
            .partition_point(|entry| entry.version <= version);
        let mut piece = Piece {
            version: self.version,
            changes: Vec::new(),
        };
        for entry in self.entries.range(start..) {
            if !entry.audience.includes(node) {
                continue;
            }
            if piece.changes.len() == limit {
                piece.version = entry.version - 1;
                break;
            }
            piece.changes.push(entry.change.clone());
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests;
