// SPDX-License-Identifier: Apache-2.0
//! The Service maps as values: they take operations as `knarr-datapath` does, and check after each one that no kernel program
//! could read an entry that leads nowhere. A check that fails panics.
//!
//! The planner's own tests drive it with plans; the fake of the agent's edges (`agent/src/edges/fake/services.rs`) drives it
//! as the kernel would be. Nothing outside tests calls it. Not here: decisions.

use std::collections::{BTreeMap, BTreeSet};

use knarr_ebpf_common::{BackendEntry, MapContents, MapOp, ServiceEntry, ServiceKey, TABLE_CHUNK};

/// What the maps hold, and what was purged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimulatedMaps {
    /// `SERVICES`.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// `SLOTS`: the backend by set, generation and slot.
    pub slots: BTreeMap<(u32, u32, u32), u32>,
    /// `TABLES`: the whole table by set and generation.
    pub tables: BTreeMap<(u32, u32), Vec<u32>>,
    /// `BACKENDS`.
    pub backends: BTreeMap<u32, BackendEntry>,
    /// Backends whose flows were purged, in order.
    pub purged_backends: Vec<u32>,
    /// Services whose affinity was purged, in order.
    pub purged_affinity: Vec<u32>,
    /// Every set and generation that ever had slots: none is written again.
    written: BTreeSet<(u32, u32)>,
    service_id_high: u32,
    backend_id_high: u32,
}

/// How many entries the maps have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Of `SERVICES`.
    pub services: usize,
    /// Of `SLOTS`.
    pub slots: usize,
    /// Of `BACKENDS`.
    pub backends: usize,
}

/// A map that had no room for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `SERVICES`.
    Services,
    /// `SLOTS`.
    Slots,
    /// `TABLES`.
    Tables,
    /// `BACKENDS`.
    Backends,
}

impl SimulatedMaps {
    /// Carries out operations on maps that have room.
    pub fn apply(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.apply_one(op);
            self.check(op);
        }
    }

    /// Carries out operations on maps of this size. As in `knarr-datapath`, what does not fit stops nothing else, what would
    /// lead to it is left out, and the first map that was full is the answer.
    pub fn apply_within(&mut self, ops: &[MapOp], room: &Room) -> Result<(), Full> {
        self.apply_where(ops, |maps, _, op| match op {
            MapOp::SetBackend { id, .. } if maps.backends.contains_key(id) => usize::MAX,
            MapOp::SetBackend { .. } => room.backends.saturating_sub(maps.backends.len()),
            MapOp::SetSlots { .. } => room.slots.saturating_sub(maps.slots.len()),
            MapOp::SetService { key, .. } if maps.services.contains_key(key) => usize::MAX,
            MapOp::SetService { .. } => room.services.saturating_sub(maps.services.len()),
            _ => usize::MAX,
        })
    }

    /// Carries out operations on maps where number `full` does not fit; of slots, half are written.
    pub fn apply_full(&mut self, ops: &[MapOp], full: usize) -> Result<(), Full> {
        self.apply_where(ops, |_, index, op| match op {
            _ if index != full => usize::MAX,
            MapOp::SetSlots { backends, .. } => backends.len() / 2,
            _ => 0,
        })
    }

    /// `fits` says how many entries of an operation have room.
    fn apply_where(
        &mut self,
        ops: &[MapOp],
        fits: impl Fn(&Self, usize, &MapOp) -> usize,
    ) -> Result<(), Full> {
        let mut broken_backends = BTreeSet::new();
        let mut broken_generations = BTreeSet::new();
        let mut first = Ok(());
        for op in ops {
            self.raise_ids(op);
        }
        for (index, op) in ops.iter().enumerate() {
            let fit = fits(self, index, op);
            let leads_nowhere =
                |backends: &[u32]| backends.iter().any(|id| broken_backends.contains(id));
            let full = match op {
                MapOp::SetBackend { id, .. } if fit == 0 => {
                    broken_backends.insert(*id);
                    Some(Full::Backends)
                }
                MapOp::SetSlots {
                    set,
                    generation,
                    backends,
                }
                | MapOp::SetTable {
                    set,
                    generation,
                    backends,
                } if leads_nowhere(backends) => {
                    broken_generations.insert((*set, *generation));
                    None
                }
                MapOp::SetSlots {
                    set,
                    generation,
                    backends,
                } if fit < backends.len() => {
                    broken_generations.insert((*set, *generation));
                    self.apply_one(&MapOp::SetSlots {
                        set: *set,
                        generation: *generation,
                        backends: backends[..fit].to_vec(),
                    });
                    Some(Full::Slots)
                }
                MapOp::SetTable {
                    set, generation, ..
                } if fit == 0 => {
                    broken_generations.insert((*set, *generation));
                    Some(Full::Tables)
                }
                MapOp::SetService { entry, .. }
                    if broken_generations.contains(&(entry.set, entry.generation)) =>
                {
                    None
                }
                MapOp::SetService { .. } if fit == 0 => Some(Full::Services),
                _ => {
                    self.apply_one(op);
                    None
                }
            };
            if let Some(full) = full {
                first = first.and(Err(full));
            }
            self.check(op);
        }
        first
    }

    /// Carries out an operation that leaves the maps as a crash in the middle of a plan does.
    pub fn apply_unchecked(&mut self, op: &MapOp) {
        self.apply_one(op);
    }

    /// The backends that answer for an address, active ones first; none where the maps do not have the address.
    pub fn answer(&self, key: &ServiceKey) -> Option<Vec<&BackendEntry>> {
        let entry = self.services.get(key)?;
        let slots = 0..entry.count + entry.terminating;
        let ids = slots.map(|slot| self.slots[&(entry.set, entry.generation, slot)]);
        Some(ids.map(|id| &self.backends[&id]).collect())
    }

    /// The highest ids are remembered before any of them is used, whether or not it fits.
    fn raise_ids(&mut self, op: &MapOp) {
        match op {
            MapOp::SetBackend { id, .. } => self.backend_id_high = self.backend_id_high.max(*id),
            MapOp::SetSlots { set, .. } => self.service_id_high = self.service_id_high.max(*set),
            MapOp::SetService { entry, .. } => {
                self.service_id_high = self.service_id_high.max(entry.service).max(entry.set);
            }
            _ => {}
        }
    }

    fn apply_one(&mut self, op: &MapOp) {
        self.raise_ids(op);
        match op {
            MapOp::SetBackend { id, entry } => {
                self.backends.insert(*id, *entry);
            }
            MapOp::SetSlots {
                set,
                generation,
                backends,
            } => {
                assert!(
                    backends.is_empty() || self.written.insert((*set, *generation)),
                    "generation {generation} of set {set} is written a second time"
                );
                for (slot, backend) in (0..).zip(backends) {
                    self.slots.insert((*set, *generation, slot), *backend);
                }
            }
            MapOp::SetTable {
                set,
                generation,
                backends,
            } => {
                assert_eq!(backends.len() % TABLE_CHUNK, 0);
                self.tables.insert((*set, *generation), backends.clone());
            }
            MapOp::SetService { key, entry } => {
                self.services.insert(*key, *entry);
            }
            MapOp::RemoveService { key } => {
                assert!(self.services.remove(key).is_some(), "{key:?} was not there");
            }
            MapOp::RemoveSlots {
                set,
                generation,
                count,
            } => {
                for slot in 0..*count {
                    let slot = self.slots.remove(&(*set, *generation, slot));
                    assert!(slot.is_some(), "a slot of {set}/{generation} was not there");
                }
            }
            MapOp::RemoveTable {
                set,
                generation,
                len,
            } => {
                let table = self.tables.remove(&(*set, *generation));
                assert_eq!(table.map(|table| table.len()), Some(*len as usize));
            }
            MapOp::RemoveBackend { id } => {
                assert!(
                    self.backends.remove(id).is_some(),
                    "backend {id} was not there"
                );
            }
            MapOp::PurgeBackends { ids } => self.purged_backends.extend(ids),
            MapOp::PurgeServices { affinity, .. } => self.purged_affinity.extend(affinity),
        }
    }

    fn check(&self, after: &MapOp) {
        for (key, entry) in &self.services {
            for slot in 0..entry.count + entry.terminating {
                let id = self.slots.get(&(entry.set, entry.generation, slot));
                let Some(id) = id else {
                    panic!("after {after:?}, {key:?} leads to slot {slot}, which is missing");
                };
                assert!(
                    self.backends.contains_key(id),
                    "after {after:?}, {key:?} leads to backend {id}, which is missing"
                );
            }
            if entry.table_len > 0 {
                let table = &self.tables[&(entry.set, entry.generation)];
                assert_eq!(table.len(), entry.table_len as usize);
                assert!(table.iter().all(|id| self.backends.contains_key(id)));
            }
        }
    }

    /// What an agent reads when it starts, or after an operation failed.
    pub fn contents(&self) -> MapContents {
        MapContents {
            services: self.services.iter().map(|(k, v)| (*k, *v)).collect(),
            slots: self
                .slots
                .iter()
                .map(|((set, generation, slot), id)| (*set, *generation, *slot, *id))
                .collect(),
            tables: self
                .tables
                .iter()
                .flat_map(|((set, generation), table)| {
                    (0..(table.len() / TABLE_CHUNK) as u32).map(|chunk| (*set, *generation, chunk))
                })
                .collect(),
            backends: self.backends.iter().map(|(k, v)| (*k, *v)).collect(),
            service_id_high: self.service_id_high,
            backend_id_high: self.backend_id_high,
        }
    }
}
