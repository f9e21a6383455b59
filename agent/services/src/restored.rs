// SPDX-License-Identifier: Apache-2.0
//! What an earlier run left in the maps. A port that is wanted takes over its ids and generations
//! ([`Restored::adopt`]); once the desired set is complete the rest goes ([`Restored::prune`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use knarr_ebpf_common::{
    BackendEntry, MapContents, MapOp, SERVICE_LOCAL_ONLY, ServiceEntry, ServiceKey, TABLE_CHUNK,
};

use super::desired::{SetKind, Wanted};
use super::output::Output;
use super::port::{BackendState, PortState, SetState, Whole};
use super::{PortKey, Retired};

#[derive(Debug, Default)]
struct Found {
    keys: BTreeMap<ServiceKey, ServiceEntry>,
    backends: Vec<(u32, BackendEntry)>,
}

/// Entries that are not taken over yet.
#[derive(Debug, Default)]
pub(super) struct Restored {
    by_key: HashMap<ServiceKey, u32>,
    by_service: HashMap<u32, Found>,
    /// Slots and chunks by set and generation.
    slots: HashMap<(u32, u32), BTreeMap<u32, u32>>,
    chunks: HashMap<(u32, u32), BTreeSet<u32>>,
    /// Ids of backends that stand twice in the maps.
    doubles: Vec<u32>,
    generation_high: HashMap<u32, u32>,
}

impl Restored {
    pub(super) fn new(contents: &MapContents) -> Self {
        let mut restored = Self::default();
        for (key, entry) in &contents.services {
            restored.by_key.insert(*key, entry.service);
            let found = restored.by_service.entry(entry.service).or_default();
            found.keys.insert(*key, *entry);
            restored.saw(entry.set, entry.generation);
        }
        for (id, entry) in &contents.backends {
            let found = restored.by_service.entry(entry.service).or_default();
            found.backends.push((*id, *entry));
        }
        for (set, generation, slot, backend) in &contents.slots {
            restored
                .slots
                .entry((*set, *generation))
                .or_default()
                .insert(*slot, *backend);
            restored.saw(*set, *generation);
        }
        for (set, generation, chunk) in &contents.tables {
            let chunks = restored.chunks.entry((*set, *generation)).or_default();
            chunks.insert(*chunk);
            restored.saw(*set, *generation);
        }
        restored
    }

    fn saw(&mut self, set: u32, generation: u32) {
        let high = self.generation_high.entry(set).or_default();
        *high = (*high).max(generation);
    }

    /// The state of the Service port that answered at one of the wanted addresses. Each is given once.
    pub(super) fn adopt(&mut self, wanted: &Wanted) -> Option<PortState> {
        let id = wanted
            .keys
            .iter()
            .find_map(|(key, _, _)| self.by_key.get(key).copied())?;
        let found = self.by_service.remove(&id)?;
        for key in found.keys.keys() {
            self.by_key.remove(key);
        }
        let mut state = PortState::new(id);
        for entry in found.keys.values() {
            state.affinity_seconds = state.affinity_seconds.max(entry.affinity_seconds);
        }
        let newest = |kind: SetKind| {
            found
                .keys
                .values()
                .filter(|entry| set_kind(entry) == kind)
                .max_by_key(|entry| entry.generation)
                .copied()
        };
        state.cluster = newest(SetKind::Cluster).map(|entry| self.adopt_set(&entry));
        state.local = newest(SetKind::Local).map(|entry| self.adopt_set(&entry));
        for (id, entry) in found.backends {
            let double = state
                .backends
                .insert((entry.address, entry.port_be), BackendState { id, entry });
            self.doubles.extend(double.map(|backend| backend.id));
        }
        state.keys = found.keys.into_iter().collect();
        Some(state)
    }

    fn adopt_set(&mut self, entry: &ServiceEntry) -> SetState {
        let at = (entry.set, entry.generation);
        let slots = self.slots.remove(&at).unwrap_or_default();
        let chunks = self.chunks.remove(&at).unwrap_or_default();
        let chunks_wanted = entry.table_len / TABLE_CHUNK as u32;
        let whole = slots.keys().copied().eq(0..entry.count + entry.terminating)
            && chunks.iter().copied().eq(0..chunks_wanted);
        let high = self.generation_high.get(&entry.set).copied();
        let generation_high = high.unwrap_or(entry.generation);
        // A newer one was never flipped to and goes. The live one has to be the newest, or the next run of the agent
        // would give its number again.
        let whole = whole && generation_high == entry.generation;
        SetState {
            set: entry.set,
            generation: entry.generation,
            generation_high,
            // Where one is missing in between, its place in the list counts only for the removal.
            slots: match slots.keys().next_back() {
                Some(last) => (0..=*last)
                    .map(|slot| slots.get(&slot).copied().unwrap_or_default())
                    .collect(),
                None => Vec::new(),
            },
            count: entry.count,
            table_len: table_len(&chunks),
            whole: if whole { Whole::Yes } else { Whole::No },
        }
    }

    /// The address was written since the maps were read.
    pub(super) fn forget_key(&mut self, key: &ServiceKey) {
        if let Some(id) = self.by_key.remove(key)
            && let Some(found) = self.by_service.get_mut(&id)
        {
            found.keys.remove(key);
        }
    }

    /// Removes what was not taken over.
    pub(super) fn prune(&mut self, out: &mut Output, owners: &HashMap<ServiceKey, PortKey>) {
        let rest = std::mem::take(self);
        for (id, found) in rest.by_service {
            for key in found.keys.keys().filter(|key| !owners.contains_key(*key)) {
                out.removed_services
                    .push(MapOp::RemoveService { key: *key });
            }
            for (id, _) in found.backends {
                out.retired.push(Retired::OrphanBackend { id });
            }
            out.retired.push(Retired::Service { id });
        }
        for id in rest.doubles {
            out.retired.push(Retired::OrphanBackend { id });
        }
        for ((set, generation), slots) in rest.slots {
            let slots = slots.keys().next_back().map_or(0, |last| last + 1);
            out.retired.push(Retired::Generation {
                set,
                generation,
                slots,
                table_len: 0,
            });
        }
        for ((set, generation), chunks) in rest.chunks {
            out.retired.push(Retired::Generation {
                set,
                generation,
                slots: 0,
                table_len: table_len(&chunks),
            });
        }
    }
}

/// Places up to the last chunk that is there.
fn table_len(chunks: &BTreeSet<u32>) -> u32 {
    chunks.last().map_or(0, |last| last + 1) * TABLE_CHUNK as u32
}

fn set_kind(entry: &ServiceEntry) -> SetKind {
    match entry.flags & SERVICE_LOCAL_ONLY {
        0 => SetKind::Cluster,
        _ => SetKind::Local,
    }
}
