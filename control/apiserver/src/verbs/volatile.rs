// SPDX-License-Identifier: Apache-2.0
//! Changes that are in memory only: heartbeats. They take no part in the write pipeline, so neither admission nor
//! validation sees them; see [`crate::Client::write_in_memory`].

use knarr_store::{Compare, Op, Revision, Txn};
use serde_json::Value;

use super::MODIFIED;
use super::commit::Swapped;
use super::write::SWAP_ATTEMPTS_MAX;
use crate::ApiError;
use crate::core::Core;
use crate::object::encode;
use crate::registry::Kind;

impl Core {
    /// Changes an object in memory only.
    pub(crate) async fn write_in_memory(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        change: &(dyn Fn(&mut Value) + Send + Sync),
    ) -> Result<(), ApiError> {
        let stored = kind.stored();
        let store_key = stored.store_key(namespace, name);
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let current = self
                .current(kind, namespace, name)
                .await?
                .ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))?;
            let old = current.value();
            let mut new = old.clone();
            change(&mut new);
            if new == old {
                return Ok(());
            }
            let read = Revision(current.meta.resource_version);
            let compare = Compare::mod_revision(store_key.clone(), read);
            let op = Op::put_volatile(store_key.clone(), encode(stored, &new));
            let txn = Txn {
                compare: vec![compare],
                then: vec![op],
            };
            match self.swap(txn, Vec::new()).await? {
                Swapped::At(_) => return Ok(()),
                Swapped::Overtaken { seen, .. } => self.wait_for(seen).await?,
            }
        }
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            name,
            MODIFIED,
        ))
    }
}
