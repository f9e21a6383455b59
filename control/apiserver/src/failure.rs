// SPDX-License-Identifier: Apache-2.0
//! Why the API cannot be opened, and what ends it.

use std::sync::Arc;

use knarr_store::StoreError;
use tokio::task::JoinError;

/// Why the API cannot be opened over a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Reading what is stored failed.
    #[error("cannot read the stored objects")]
    Load(#[source] StoreError),
    /// Following the store failed.
    #[error("cannot watch the store")]
    Watch(#[source] StoreError),
    /// The objects that every cluster has could not be made.
    #[error("cannot create what every cluster has")]
    Bootstrap(#[source] crate::ApiError),
}

/// A task that the API depends on has ended although the API is in use: what it serves stands still.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} has ended")]
pub struct PartDied {
    pub(crate) what: &'static str,
    /// The panic; `None` where the store was closed underneath.
    #[source]
    pub(crate) cause: Option<Arc<JoinError>>,
}
