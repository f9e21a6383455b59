// SPDX-License-Identifier: Apache-2.0
//! The verbs, once for all kinds: get, create, replace, patch and delete over cache and store.
//!
//! Called by the HTTP handlers and by the in-process client. A write reads from the cache, decides, and
//! swaps by the revision it read, so nothing is locked and no update is lost.

use bytes::Bytes;

use crate::client::{DeleteParams, Propagation};
use crate::object::splice_version;
use crate::registry::Kind;

mod create;
mod delete;
mod pods;
mod read;
mod scale;
mod update;
mod write;

pub(crate) use scale::scale_of;
pub(crate) use update::{check_place, check_uid};

/// Attempts of a write whose object keeps changing underneath, when the caller named no version.
const SWAP_ATTEMPTS_MAX: usize = 64;

/// Whether a write is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum DryRun {
    /// The write takes place.
    #[default]
    None,
    /// Everything but the write.
    All,
}

/// Options of creations and updates.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: DryRun,
}

/// Options of deletions.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: DryRun,
}

impl From<&DeleteParams> for DeleteOptions {
    fn from(params: &DeleteParams) -> Self {
        Self {
            uid: params.uid.clone(),
            resource_version: params.resource_version.clone(),
            grace_period_seconds: params.grace_period_seconds,
            propagation: params.propagation,
            dry_run: DryRun::None,
        }
    }
}

/// What a write left behind.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The object as served, in the requested view.
    pub(crate) bytes: Bytes,
    /// What the client should be warned about.
    pub(crate) warnings: Vec<String>,
}

/// What a deletion left behind.
#[derive(Debug, Clone)]
pub(crate) struct Deleted {
    /// The object as it was last, in the requested view.
    pub(crate) bytes: Bytes,
    /// Uid of the object.
    pub(crate) uid: String,
    /// True when the object is gone; false when its deletion has begun.
    pub(crate) gone: Gone,
}

/// How far a deletion got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// The object is removed.
    Now,
    /// Grace or finalizers keep it.
    Later,
}

/// Stored bytes as served in `kind`'s view at `revision` (0: a dry run, which has none).
pub(crate) fn served(kind: &Kind, stored: &[u8], revision: u64) -> Bytes {
    let bytes = if revision == 0 {
        Bytes::copy_from_slice(stored)
    } else {
        splice_version(stored, revision)
    };
    in_view(kind, bytes)
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
