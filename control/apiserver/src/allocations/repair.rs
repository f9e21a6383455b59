// SPDX-License-Identifier: Apache-2.0
//! What makes the keys of addresses and ports those of the stored Services.
//!
//! Every write keeps them so. What an earlier version has stored has no keys, and somebody may have written to the
//! store past the API. Each step is a transaction of its own that holds only for the Service and the key that it has
//! read, so servers that start at once do not disturb each other. Carried out by `core`.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_store::{Compare, Op, Revision, Txn};

use super::keys::{Item, Owners};
use super::{Allocations, Held, items_of};
use crate::object::Object;
use crate::registry::Kind;

/// Which stored Services the caches show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Every one.
    All,
    /// Those that can be read. Keys without a Service may be those of one that cannot.
    Readable,
}

impl Allocations {
    /// The transactions that write the keys that are missing and delete those that no Service holds.
    pub(crate) fn plan_repair(
        &self,
        kind: &Kind,
        services: &[Arc<Object>],
        known: Known,
    ) -> Vec<Txn> {
        let mut wanted: BTreeMap<Item, Owners> = BTreeMap::new();
        let mut revisions: BTreeMap<String, Revision> = BTreeMap::new();
        for service in services {
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
        let taken = self.0.lock();
        let mut steps = Vec::new();
        for (item, owners) in &wanted {
            let found = taken.held.get(item);
            if found.is_some_and(|held| owners.iter().all(|owner| held.owners.has(owner))) {
                continue;
            }
            steps.push(step(kind, *item, found, Some(owners), &revisions));
        }
        if known == Known::Readable {
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
