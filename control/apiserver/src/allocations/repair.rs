// SPDX-License-Identifier: Apache-2.0
//! Makes the keys of addresses and ports those of the stored Services, before anything is given out.
//!
//! Every write keeps them so. What an earlier version has stored has no keys, and somebody may have written to the
//! store past the API. Each step is a transaction of its own that holds only for the Service and the key that it has
//! read, so servers that start at once do not disturb each other. Called when the API server opens.

use std::collections::BTreeMap;

use knarr_store::{Compare, Op, Revision, StoreError, Txn};

use super::keys::{Item, Owners};
use super::{Held, items_of, lock};
use crate::core::Core;
use crate::registry::Kind;

/// Steps under way at once; they share the store's commits.
const STEPS_AT_ONCE: usize = 256;
/// Rounds until the keys are as they should be. Another server that repairs or writes meanwhile costs one.
const ROUNDS_MAX: usize = 16;

impl Core {
    /// Writes the keys that are missing and deletes those that no Service holds.
    pub(crate) async fn repair_allocations(&self) -> Result<(), StoreError> {
        let registry = self.registry();
        let Some(kind) = registry.stored().find(|kind| super::allocates(kind)) else {
            return Ok(());
        };
        for _ in 0..ROUNDS_MAX {
            let steps = self.plan_repair(kind);
            if steps.is_empty() {
                return Ok(());
            }
            tracing::info!(
                keys = steps.len(),
                "writing down which Services hold which addresses and ports"
            );
            let mut newest = 0;
            for some in steps.chunks(STEPS_AT_ONCE) {
                let writes = some.iter().map(|step| self.store.txn(step.clone()));
                for done in futures::future::try_join_all(writes).await? {
                    newest = newest.max(done.revision.0);
                }
            }
            // Where the caches do not get there in time, the next round finds the same steps to do.
            drop(self.wait_for(newest).await);
        }
        tracing::warn!("which Services hold which addresses and ports keeps changing");
        Ok(())
    }

    fn plan_repair(&self, kind: &Kind) -> Vec<Txn> {
        let Ok(services) = self.cache(kind) else {
            return Vec::new();
        };
        let mut wanted: BTreeMap<Item, Owners> = BTreeMap::new();
        let mut revisions: BTreeMap<String, Revision> = BTreeMap::new();
        for service in services.list() {
            let owner = service.meta.key();
            for item in items_of(&service.value()) {
                let owners = wanted
                    .entry(item)
                    .and_modify(|owners| *owners = owners.with(&owner))
                    .or_insert_with(|| Owners::one(&owner));
                if owners.iter().count() > 1 {
                    tracing::warn!(item = item.key(), ?owners, "two Services hold the same");
                }
            }
            revisions.insert(owner, Revision(service.meta.resource_version));
        }
        let taken = self.allocations.0.lock();
        let mut steps = Vec::new();
        for (item, owners) in &wanted {
            let found = taken.held.get(item);
            if found.is_some_and(|held| owners.iter().all(|owner| held.owners.has(owner))) {
                continue;
            }
            steps.push(step(kind, *item, found, Some(owners), &revisions));
        }
        // A Service that cannot be read keeps what it has.
        if self.has_unreadable_of(kind) {
            return steps;
        }
        for (item, held) in &taken.held {
            if !wanted.contains_key(item) {
                steps.push(step(kind, *item, Some(held), None, &revisions));
            }
        }
        steps
    }
}

/// Makes the key `item` that of `wanted`, if neither it nor any of the Services has changed.
fn step(
    kind: &Kind,
    item: Item,
    found: Option<&Held>,
    wanted: Option<&Owners>,
    revisions: &BTreeMap<String, Revision>,
) -> Txn {
    let read = Revision(found.map_or(0, |held| held.revision));
    let mut compare = vec![Compare::mod_revision(item.key(), read)];
    let named = found.map(|held| &held.owners).into_iter().chain(wanted);
    let mut owners: Vec<&str> = named.flat_map(Owners::iter).collect();
    owners.sort_unstable();
    owners.dedup();
    for owner in owners {
        let stored = format!("{}{owner}", kind.prefix);
        let read = revisions.get(owner).copied().unwrap_or_default();
        compare.push(Compare::mod_revision(stored, read));
    }
    let then = vec![match wanted {
        Some(owners) => Op::put(item.key(), owners.to_value()),
        None => Op::delete(item.key()),
    }];
    Txn { compare, then }
}
