// SPDX-License-Identifier: Apache-2.0
//! A map that knows how many bytes of a fresh journal its entries take, so that a rewrite is due when most of the file is
//! out of date, not only when it has grown.
//!
//! Not here: the file (`disk`), the messages of a fresh one (`fresh`). Used by the desired state alone.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use knarr_api::feed::PeerSet;
use prost::Message;

use super::packed::{PackedEndpoint, PackedKey, PackedService};
use super::{ObjectEntry, PodEntry};

/// What a change has beside the bytes of its key and its packed value: tags and lengths, its own (8 bytes) and those of
/// at most five fields of the key (10) and of a long object (6).
const CHANGE_OVERHEAD_BYTES: usize = 32;

/// Bytes in the journal, without tags and lengths.
pub(super) trait Weight {
    fn weight(&self) -> usize;
}

/// An ordered map with the sum of its entries' bytes.
pub(super) struct Weighed<K, V> {
    entries: BTreeMap<K, V>,
    bytes: usize,
}

impl<K, V> Default for Weighed<K, V> {
    fn default() -> Self {
        Weighed {
            entries: BTreeMap::new(),
            bytes: 0,
        }
    }
}

impl<K: Ord + Weight, V: Weight> Weighed<K, V> {
    /// The bytes that the entries take in a fresh journal, rather too many than too few.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let key_bytes = key.weight();
        self.bytes += entry_bytes(key_bytes, &value);
        if let Some(old) = self.entries.insert(key, value) {
            self.bytes -= entry_bytes(key_bytes, &old);
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let old = self.entries.remove(key)?;
        self.bytes -= entry_bytes(key.weight(), &old);
        Some(old)
    }
}

impl<K, V> Deref for Weighed<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.entries
    }
}

fn entry_bytes(key_bytes: usize, value: &impl Weight) -> usize {
    key_bytes + value.weight() + CHANGE_OVERHEAD_BYTES
}

impl Weight for String {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for (String, String) {
    fn weight(&self) -> usize {
        self.0.len() + self.1.len()
    }
}

impl Weight for (String, String, String) {
    fn weight(&self) -> usize {
        self.0.len() + self.1.len() + self.2.len()
    }
}

impl Weight for PackedKey {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for PackedEndpoint {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for PackedService {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl Weight for PodEntry {
    fn weight(&self) -> usize {
        self.json.len()
    }
}

impl Weight for Arc<ObjectEntry> {
    fn weight(&self) -> usize {
        self.set.object_json.len()
    }
}

impl Weight for PeerSet {
    fn weight(&self) -> usize {
        self.encoded_len()
    }
}
