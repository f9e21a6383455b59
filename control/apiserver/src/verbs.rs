// SPDX-License-Identifier: Apache-2.0
//! The verbs, once for all kinds: get, create, replace, patch and delete over cache and store.
//!
//! Called by the HTTP handlers and by the in-process client. A write reads from the cache, decides, and
//! swaps by the revision it read, so nothing is locked and no update is lost. All writes share one pipeline
//! (`write.rs`).

use std::sync::Arc;

use bytes::Bytes;

use crate::admission::DryRun;
use crate::identity::Caller;
use crate::object::splice_version;
use crate::registry::Kind;

mod commit;
mod read;
mod scale;
mod steps;
mod volatile;
mod write;

pub(crate) use scale::scale_of;
pub(crate) use write::{Next, check_place, check_uid};

/// Why an update with an old resourceVersion is refused.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";
/// The manager that the in-process client writes as.
const IN_PROCESS_MANAGER: &str = "knarr-control";

/// How a write is asked for.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: DryRun,
    /// The `fieldManager`, or what the user agent calls itself.
    pub(crate) manager: String,
    /// Who asks.
    pub(crate) caller: Arc<Caller>,
}

impl WriteOptions {
    /// Those of a call inside the process.
    pub(crate) fn in_process() -> Self {
        Self {
            dry_run: DryRun::None,
            manager: IN_PROCESS_MANAGER.to_owned(),
            caller: Caller::in_process(),
        }
    }
}

/// What happens to the objects that a deleted object owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a deletion asks for besides.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
}

/// What a write left behind.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The object as served, in the requested view; of one that is gone, as it was last.
    pub(crate) bytes: Bytes,
    /// What the client should be warned about.
    pub(crate) warnings: Vec<String>,
    /// Uid of the object, where it was there before.
    pub(crate) uid: String,
    /// How far a deletion got; `None` where the write was none.
    pub(crate) gone: Option<Gone>,
}

/// How far a deletion got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The object is removed.
    Now,
    /// Grace or finalizers keep it.
    Later,
}

/// Stored bytes as served at `revision` (0: a dry run, which has none).
fn served(stored: &Bytes, revision: u64) -> Bytes {
    if revision == 0 {
        stored.clone()
    } else {
        splice_version(stored, revision)
    }
}

/// Served bytes of the stored kind as `kind` shows them.
pub(crate) fn in_view(kind: &Kind, bytes: Bytes) -> Bytes {
    if !kind.is_view() {
        return bytes;
    }
    let value = serde_json::from_slice(&bytes).unwrap_or_default();
    let view = kind.strategy.as_view(value);
    serde_json::to_vec(&view).map_or(bytes, Bytes::from)
}
