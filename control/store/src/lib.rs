// SPDX-License-Identifier: Apache-2.0
//! A revisioned key-value store with etcd v3's meaning: one trait, [`Store`], and its engines.
//!
//! Every change gets the next revision; ranges can be read as of an older revision; a watch starts
//! at a revision and misses nothing; a transaction is a compare-and-swap over several keys. What it
//! is not: it knows nothing of Kubernetes objects, of their names or their encoding. The API server
//! is its only caller.
//!
//! [`Embedded`] is the engine inside the process: one file, durable when it acknowledges, one writer
//! with group commit, and no write at all while nothing changes. [`Etcd`] is the engine over an etcd, which several
//! processes share. One suite of tests (`tests/conformance`) holds both to what [`Store`] promises.

#![forbid(unsafe_code)]

mod embedded;
mod error;
mod etcd;
mod store;
mod types;

pub use embedded::{Embedded, HISTORY_BYTES, Options};
pub use error::{OpenError, StoreError};
pub use etcd::Etcd;
pub use store::{Sharing, Stats, Store, StoreDied, WatchStream};
pub use types::{
    Compare, Event, KeyValue, Op, Range, RangeResult, Revision, Txn, TxnResult, WatchBatch,
    prefix_end,
};
