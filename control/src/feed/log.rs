// SPDX-License-Identifier: Apache-2.0
//! The recent past of the feed: numbered changes, so that a node that was away a moment can go on.
//!
//! One log for all nodes; each reader picks what is for it. Bounded by count, by bytes and by time: a node that was
//! away for longer gets a snapshot instead. Each change is kept encoded, in one allocation: a burst would otherwise leave
//! thousands of small ones that hold pages of the heap. Whole objects are not kept here but looked up in the view when they
//! are told, as they are then: otherwise one large ConfigMap would push out what every other node has yet to read.

use std::collections::VecDeque;

use knarr_api::feed::Change;
use knarr_control_plan::feed::{Audience, Body, FeedView, Outgoing};
use prost::Message;

/// A rolling restart of two hundred pods fits; a longer absence costs one snapshot.
const ENTRIES_MAX: usize = 4_096;
/// Keeps the log's share of the idle process small.
const BYTES_MAX: usize = 2 * 1024 * 1024;
/// So many of the newest changes stay without regard to their age: a node that was away for long while little happened
/// goes on.
const ENTRIES_KEPT: usize = 256;

/// What a piece of the log may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub changes: usize,
    /// One change may be larger by itself.
    pub bytes: usize,
}

#[derive(Debug)]
enum Told {
    /// An encoded [`Change`].
    Change(Box<[u8]>),
    Body(Body),
}

#[derive(Debug)]
struct Entry {
    version: u64,
    audience: Audience,
    told: Told,
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
    /// Version of the newest change at the last [`Log::trim`].
    trimmed_at: u64,
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
        let Outgoing {
            audience,
            change,
            body,
        } = outgoing;
        let (told, bytes) = match body {
            // Names are short, and the number of entries is bounded.
            Some(body) => (Told::Body(body), 0),
            None => {
                let encoded = change.encode_to_vec().into_boxed_slice();
                let bytes = encoded.len();
                (Told::Change(encoded), bytes)
            }
        };
        self.bytes += bytes;
        self.entries.push_back(Entry {
            version: self.version,
            audience,
            told,
            bytes,
        });
        self.forget_while(|log| log.entries.len() > ENTRIES_MAX || log.bytes > BYTES_MAX);
    }

    /// Forgets what was here at the last call already, except the newest [`ENTRIES_KEPT`]. Whether there are more than
    /// those still, so that it is worth coming again.
    pub fn trim(&mut self) -> bool {
        let old = std::mem::replace(&mut self.trimmed_at, self.version);
        self.forget_while(|log| {
            let is_old = |entry: &Entry| entry.version <= old;
            log.entries.len() > ENTRIES_KEPT && log.entries.front().is_some_and(is_old)
        });
        self.entries.shrink_to(self.entries.len() * 2);
        self.entries.len() > ENTRIES_KEPT
    }

    fn forget_while(&mut self, too_much: impl Fn(&Self) -> bool) {
        while too_much(self) {
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

    /// What `node` has to know after `version`, within `limits`; `None` when that is forgotten. `view` is what all
    /// changes of this log have led to.
    pub fn since(
        &self,
        version: u64,
        node: &str,
        limits: Limits,
        view: &FeedView,
    ) -> Option<Piece> {
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
        let mut bytes = 0;
        for entry in self.entries.range(start..) {
            if !entry.audience.includes(node) {
                continue;
            }
            let change = match &entry.told {
                // What was encoded here can be decoded.
                Told::Change(encoded) => Change::decode(&**encoded).unwrap_or_default(),
                Told::Body(body) => match view.again(body, node) {
                    Some(change) => change,
                    None => continue,
                },
            };
            bytes += change.encoded_len();
            let is_full = piece.changes.len() == limits.changes || bytes > limits.bytes;
            if is_full && !piece.changes.is_empty() {
                piece.version = entry.version - 1;
                break;
            }
            piece.changes.push(change);
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests;
