// SPDX-License-Identifier: Apache-2.0
//! Encodings that are kept for watchers, so that an object that a hundred watchers get is encoded once.
//!
//! The JSON of an object is in the object and not here. Everything here can be made again: an entry that was pushed out
//! costs time, and nothing else. Lists and single objects are not kept, because their readers come one by one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::Format;
use crate::ApiError;

/// What is kept of all resources together, in bytes. An event goes to all its watchers within moments, so this is a
/// burst of some thousand objects; a watcher that is further behind than that encodes for itself.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// What an encoding holds beside its bytes: its places in the map and in the queue.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Which encoding of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Encoding {
    pub(crate) format: Format,
    /// Which view of the object: the watched kind, and the version of `meta.k8s.io` where only metadata is sent.
    pub(crate) api_version: Arc<str>,
    pub(crate) kind: Arc<str>,
}

/// The address of an object's JSON, and the encoding. The entry holds the JSON, so no other object has its address.
type Key = (usize, Encoding);

#[derive(Debug)]
struct Entry {
    json: Bytes,
    /// `None` where it cannot be encoded.
    encoded: OnceLock<Option<Bytes>>,
}

impl Entry {
    /// As if the encoding were as long as the JSON, since it is made later.
    fn held_bytes(&self) -> usize {
        2 * self.json.len() + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Key, Arc<Entry>>,
    /// The oldest first.
    order: VecDeque<Key>,
    held_bytes: usize,
    watchers: usize,
}

/// The encodings that are kept.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<State>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Counts a watcher of encodings for as long as the answer lives. Without watchers nothing is kept.
    pub(crate) fn watcher(self: &Arc<Self>) -> Watcher {
        self.lock().watchers += 1;
        Watcher(Arc::clone(self))
    }

    /// The encoding of an object's JSON, made by `encode` where no other watcher has asked for it.
    fn encoded(
        &self,
        encoding: &Encoding,
        json: &Bytes,
        encode: impl Fn() -> Result<Bytes, ApiError>,
    ) -> Result<Bytes, ApiError> {
        let key = (json.as_ptr().addr(), encoding.clone());
        let entry = self.lock().entry(key, json);
        // Other watchers of the same encoding wait here for the first one, without the lock.
        match entry.encoded.get_or_init(|| encode().ok()) {
            Some(encoded) => Ok(encoded.clone()),
            // It cannot be encoded: once more, for the reason.
            None => encode(),
        }
    }
}

impl State {
    fn entry(&mut self, key: Key, json: &Bytes) -> Arc<Entry> {
        if let Some(entry) = self.entries.get(&key) {
            return Arc::clone(entry);
        }
        let entry = Arc::new(Entry {
            json: json.clone(),
            encoded: OnceLock::new(),
        });
        self.held_bytes += entry.held_bytes();
        self.entries.insert(key.clone(), Arc::clone(&entry));
        self.order.push_back(key);
        while self.held_bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            if let Some(entry) = self.entries.remove(&oldest) {
                self.held_bytes -= entry.held_bytes();
            }
        }
        entry
    }
}

/// A watcher of encodings.
#[derive(Debug)]
pub(crate) struct Watcher(Arc<Kept>);

impl Watcher {
    /// The encoding of an object's JSON, made by `encode` where no other watcher has asked for it.
    pub(crate) fn encoded(
        &self,
        encoding: &Encoding,
        json: &Bytes,
        encode: impl Fn() -> Result<Bytes, ApiError>,
    ) -> Result<Bytes, ApiError> {
        self.0.encoded(encoding, json, encode)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.watchers -= 1;
        if state.watchers == 0 {
            *state = State::default();
        }
    }
}

#[cfg(test)]
mod tests;
