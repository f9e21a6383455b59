// SPDX-License-Identifier: Apache-2.0
//! The words of the store: keys, revisions, ranges, transactions and events.
//!
//! Plain values without behaviour of an engine. They are the part of etcd v3's `rpc.proto` that the API server
//! uses, with the same meaning, so that an engine over a real etcd is a translation.

use std::fmt;

use bytes::Bytes;

/// The number of a change. 0 means "before any change".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of the change after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key as it stood at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
}

/// Which keys to read, and as of when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub start: Bytes,
    /// The first key after the range. Empty: the one key `start`.
    pub end: Bytes,
    /// The revision to read at; `None` is the newest.
    pub revision: Option<Revision>,
    /// At most so many keys.
    pub limit: Option<usize>,
}

impl Range {
    /// One key, newest value.
    #[must_use]
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self {
            start: key.into(),
            end: Bytes::new(),
            revision: None,
            limit: None,
        }
    }

    /// Every key that starts with `prefix`, newest values.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self {
            start,
            end,
            revision: None,
            limit: None,
        }
    }

    /// The same range as of `revision`.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// The same range, at most `limit` keys of it.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// The first key after all keys that start with `prefix`. For a prefix of only 0xff bytes (or none)
/// there is no such key; then the single byte 0 is returned, which as in etcd means "to the end".
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// What a range holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResult {
    /// The revision the keys were read at (the newest one, where none was asked for).
    pub revision: Revision,
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit left keys out.
    pub more: bool,
}

/// One condition of a transaction: the key was last written by this revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// [`KeyValue::mod_revision`]; `Revision(0)` is "does not exist".
    pub mod_revision: Revision,
}

impl Compare {
    /// The key was last written by `revision` (0: it does not exist).
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            key: key.into(),
            mod_revision: revision,
        }
    }

    /// The key does not exist.
    #[must_use]
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::mod_revision(key, Revision(0))
    }
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Gives a key that exists another value, at a revision of its own, and need not make it durable. Watches and
    /// reads see it like any other change. A key that does not exist stays so.
    ///
    /// An engine that keeps it in memory only loses it when its process ends: the key then has its last durable
    /// value again, and the store's revision is higher than any that was given out. Such an engine keeps only the
    /// newest volatile value of a key: reads at older revisions find the durable value before it, and a watch that
    /// starts in the past is given the newest. An engine without such a place writes it like [`Op::Put`].
    PutVolatile {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Deletes a key, if it exists.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// Writes `key`.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Writes `key` in memory only; see [`Op::PutVolatile`].
    #[must_use]
    pub fn put_volatile(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::PutVolatile {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Deletes `key`.
    #[must_use]
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key that the step is about.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::PutVolatile { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A compare-and-swap: if every comparison holds, all of `then` at one revision, else nothing. A transaction that
/// changes nothing takes no revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions, all of which must hold.
    pub compare: Vec<Compare>,
    /// Done when they hold. No two steps are about one key.
    pub then: Vec<Op>,
}

impl Txn {
    /// Unconditional steps.
    #[must_use]
    pub fn of(then: Vec<Op>) -> Self {
        Self {
            compare: Vec::new(),
            then,
        }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The store's revision after the transaction; the transaction's own if it changed something.
    pub revision: Revision,
    /// The keys whose comparison did not hold. None: every step was done; else nothing was.
    pub conflicts: Vec<Bytes>,
}

impl TxnResult {
    /// Whether every comparison held.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.conflicts.is_empty()
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was created or overwritten.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All changes that one revision made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes; each key once.
    pub events: Vec<Event>,
}
