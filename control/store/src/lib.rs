// SPDX-License-Identifier: Apache-2.0
//! A revisioned key-value store with etcd v3's meaning: one trait, [`Store`], and its engines.
//!
//! Every change gets the next revision; ranges can be read as of an older revision; a watch starts
//! at a revision and misses nothing; a transaction is a compare-and-swap over several keys. What it
//! is not: it knows nothing of Kubernetes objects, of their names or their encoding. The API server
//! is its only caller.
//!
//! [`Embedded`] is the engine inside the process: one file, durable when it acknowledges, one writer
//! with group commit, and no write at all while nothing changes.

#![forbid(unsafe_code)]

mod embedded;
mod error;
mod store;
mod types;

pub use embedded::{Embedded, HISTORY_BYTES, Options, WriterDied};
pub use error::{OpenError, StoreError};
pub use store::{Stats, Store, WatchStream};
pub use types::{
    Compare, Event, EventKind, KeyValue, LeaseId, Op, OpResult, Range, RangeResult, Relation,
    Revision, Target, Txn, TxnResult, WatchBatch, prefix_end,
};
