// SPDX-License-Identifier: Apache-2.0
//! What is newer than the file: values that were written with [`crate::Op::PutVolatile`], and the newest revision.
//!
//! The writer changes it after each group; readers take a [`View`] before they begin a read transaction. Everything
//! durable up to the view's head is in the file by then. What the file has beyond that head is not looked at, because
//! the view does not know which volatile changes lie between.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::bounds::bounds;
use crate::{KeyValue, Revision};

/// Keys whose newest value is in memory only.
pub(super) type Values = BTreeMap<Bytes, KeyValue>;
/// Volatile values that a group of transactions wrote, or (`None`) made obsolete by a durable write.
pub(super) type Changes = BTreeMap<Bytes, Option<KeyValue>>;

/// The newest revision, and the values that only memory has.
#[derive(Debug)]
pub(super) struct Overlay {
    state: Mutex<View>,
}

/// A part of the overlay as of its newest revision.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Every change up to this revision is in the file or in `values`, unless a later one replaced it.
    pub(super) head: Revision,
    pub(super) values: Values,
}

impl Overlay {
    pub(super) fn new(head: Revision) -> Self {
        Self {
            state: Mutex::new(View {
                head,
                values: Values::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.state.lock()
    }

    /// The newest revision, durable or not.
    pub(super) fn head(&self) -> Revision {
        self.lock().head
    }

    /// The volatile value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<KeyValue> {
        self.lock().values.get(key).cloned()
    }

    /// The part inside a range of keys.
    pub(super) fn view(&self, start: &[u8], end: &[u8]) -> View {
        let state = self.lock();
        let mut values = Values::new();
        if !state.values.is_empty()
            && let Some(bounds) = bounds(start, end)
        {
            let inside = state
                .values
                .range::<[u8], (Bound<&[u8]>, Bound<&[u8]>)>(bounds);
            values.extend(inside.map(|(key, value)| (key.clone(), value.clone())));
        }
        View {
            head: state.head,
            values,
        }
    }

    /// What a group changed, up to its last revision.
    pub(super) fn apply(&self, changes: Changes, head: Revision) {
        let mut state = self.lock();
        state.head = state.head.max(head);
        for (key, value) in changes {
            match value {
                Some(value) => drop(state.values.insert(key, value)),
                None => drop(state.values.remove(&key)),
            }
        }
    }

    /// The file turned out to be at `head` already: keeps the values that `is_newest` says nothing in it replaces.
    pub(super) fn catch_up<E>(
        &self,
        head: Revision,
        is_newest: impl Fn(&KeyValue) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut state = self.lock();
        let mut obsolete = Vec::new();
        for (key, value) in &state.values {
            if !is_newest(value)? {
                obsolete.push(key.clone());
            }
        }
        for key in obsolete {
            state.values.remove(&key);
        }
        state.head = state.head.max(head);
        Ok(())
    }
}
