// SPDX-License-Identifier: Apache-2.0
//! The words of the store: keys, revisions, ranges, transactions and events.
//!
//! Plain values without behaviour of an engine. They follow etcd v3's `rpc.proto` in meaning, so
//! that an engine over a real etcd is a translation and nothing more.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// The number of a change. The first change of a new store is 1; 0 means "before any change".
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

/// The number of a lease, unique in the life of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One key as it stood at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty in the event of a deletion.
    pub value: Bytes,
    /// The revision that created the key (most recently, when it was deleted in between).
    pub create_revision: Revision,
    /// The revision that wrote this value.
    pub mod_revision: Revision,
    /// How many times the key was written since its creation; 0 for a deletion.
    pub version: u64,
    /// The lease whose end deletes the key.
    pub lease: Option<LeaseId>,
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

/// How a comparison relates what is stored to what is given: `stored RELATION given`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// stored == given
    Equal,
    /// stored != given
    NotEqual,
    /// stored > given
    Greater,
    /// stored < given
    Less,
}

/// What of a key is compared. A key that does not exist has revisions and version 0 and no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// [`KeyValue::mod_revision`]; `Revision(0)` is "does not exist".
    ModRevision(Revision),
    /// [`KeyValue::create_revision`].
    CreateRevision(Revision),
    /// [`KeyValue::version`].
    Version(u64),
    /// [`KeyValue::value`]. False for a key that does not exist, unless the relation is `NotEqual`.
    Value(Bytes),
}

/// One condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key.
    pub key: Bytes,
    /// What is compared, and with what.
    pub target: Target,
    /// How.
    pub relation: Relation,
}

impl Compare {
    /// The key was last written by `revision` (0: it does not exist).
    #[must_use]
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self {
            key: key.into(),
            target: Target::ModRevision(revision),
            relation: Relation::Equal,
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
    /// Writes a key. A key can be written only once in a transaction.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// Deletes the key when this lease ends; `None` detaches it from its lease.
        lease: Option<LeaseId>,
    },
    /// Gives a key that exists another value in memory only, at a revision of its own. Watches and reads see it like
    /// any other change. The value is gone when the process ends: the key then has its last durable value again,
    /// and the store's revision is higher than any that was given out. The next `Put` or `Delete` of the key ends
    /// it too. A key that does not exist stays so.
    ///
    /// Only the newest volatile value of a key is kept: reads at older revisions find the durable value before it,
    /// and a watch that starts in the past is given the newest.
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
    /// Deletes every key from `start` up to `end`.
    DeleteRange {
        /// The first key.
        start: Bytes,
        /// The first key after the range.
        end: Bytes,
    },
    /// Reads, seeing the steps before it.
    Range(Range),
}

impl Op {
    /// Writes `key` without a lease.
    #[must_use]
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
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
}

/// A compare-and-swap: if every comparison holds, all of `then`, else all of `otherwise`, at one
/// revision. A transaction that changes nothing takes no revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions, all of which must hold.
    pub compare: Vec<Compare>,
    /// Done when they hold.
    pub then: Vec<Op>,
    /// Done when one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// Unconditional steps.
    #[must_use]
    pub fn of(then: Vec<Op>) -> Self {
        Self {
            then,
            ..Self::default()
        }
    }
}

/// What one step of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// The key was written; `previous` is what it was before.
    Put {
        /// The key before this write.
        previous: Option<KeyValue>,
    },
    /// The keys that were deleted, as they were.
    Delete {
        /// The deleted keys.
        deleted: Vec<KeyValue>,
    },
    /// What was read.
    Range(RangeResult),
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// The store's revision after the transaction; the transaction's own if it changed something.
    pub revision: Revision,
    /// Whether the comparisons held.
    pub succeeded: bool,
    /// One for each step that was done.
    pub responses: Vec<OpResult>,
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or overwritten.
    Put,
    /// Deleted.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key after the change; for a deletion only `key` and `mod_revision` say something.
    pub kv: KeyValue,
    /// The key before the change.
    pub prev: Option<KeyValue>,
}

/// All changes that one revision made inside a watched range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The revision.
    pub revision: Revision,
    /// Its changes, in the order in which the transaction made them.
    pub events: Vec<Event>,
}

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    pub(crate) ttl: Duration,
}
