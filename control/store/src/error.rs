// SPDX-License-Identifier: Apache-2.0
//! What can go wrong with a store, told apart by what the caller can do about it.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use knarr_base::blocking::Panicked;

use crate::Revision;

/// Why a store could not be opened. None of these is worth a retry without somebody's help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file was written by a newer program.
    #[error(
        "{path} has format version {found}, and this program knows versions up to {supported}: \
         start the newer program again, or restore the file from a backup made with this one",
        path = path.display()
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// The version in the file.
        found: u64,
        /// The newest version that this program reads.
        supported: u64,
    },
    /// Another process has the file open.
    #[error(
        "{path} is in use by another process: stop the other knarr-control, or give this one its own --data-dir",
        path = path.display()
    )]
    Locked {
        /// The store's file.
        path: PathBuf,
    },
    /// The file is no store of this program.
    #[error("{path} is not a Knarr store: {reason}", path = path.display())]
    NotAStore {
        /// The store's file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The file or the machine is damaged, full or forbids access.
    #[error("cannot open the store {path}", path = path.display())]
    Engine {
        /// The store's file.
        path: PathBuf,
        /// The engine's own words.
        #[source]
        source: Box<redb::Error>,
    },
}

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The history asked for is gone. Not retryable: list again and watch from there.
    #[error("revision {requested} has been compacted")]
    Compacted {
        /// What was asked for.
        requested: Revision,
    },
    /// A revision that does not exist yet was asked for.
    #[error("revision {requested} is in the future, the newest is {newest}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// The reader of a watch did not keep up and missed events. List again and watch from there.
    #[error("the watch fell behind and was ended")]
    WatchLagged,
    /// The disk is full. What was acknowledged is safe; retry when there is space again.
    #[error("the disk that holds the store is full: free some space, nothing acknowledged is lost")]
    DiskFull,
    /// Reading or writing failed. Whether an unacknowledged write took place is unknown.
    #[error("the store failed")]
    Io(#[source] Arc<dyn Error + Send + Sync>),
    /// Two steps of a transaction are about one key.
    #[error("duplicate key in a transaction: {0}")]
    DuplicateKey(String),
    /// A key or value is too long.
    #[error("{what} of {size} bytes is over the store's limit of {limit} bytes")]
    TooLarge {
        /// `key`, `value` or `transaction`.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A transaction has more steps or comparisons than the engine takes.
    #[error("a transaction of {steps} steps is over the store's limit of {limit}")]
    TooManySteps {
        /// How many it has.
        steps: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The store is closed or closing.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// A failure of reading or writing, with what caused it.
    pub(crate) fn io(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Io(Arc::from(cause.into()))
    }

    /// Whether the same call may succeed later without the caller changing it.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Io(_))
    }

    /// Whether a write that failed with this may have taken place, or may still: the commit was under way, or
    /// the answer was lost. Every other error has changed nothing.
    #[must_use]
    pub fn leaves_outcome_unknown(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Io(_) | Self::Closed)
    }
}

impl From<Panicked> for StoreError {
    fn from(panicked: Panicked) -> Self {
        Self::io(panicked)
    }
}
