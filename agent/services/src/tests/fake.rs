// SPDX-License-Identifier: Apache-2.0
//! Maps that check, after each single operation, that no program could read a dangling entry.

use std::collections::{BTreeMap, BTreeSet};

use knarr_ebpf_common::{BackendEntry, MapContents, MapOp, ServiceEntry, ServiceKey, TABLE_CHUNK};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FakeMaps {
    pub(super) services: BTreeMap<ServiceKey, ServiceEntry>,
    pub(super) slots: BTreeMap<(u32, u32, u32), u32>,
    pub(super) tables: BTreeMap<(u32, u32), Vec<u32>>,
    pub(super) backends: BTreeMap<u32, BackendEntry>,
    pub(super) purged_backends: Vec<u32>,
    pub(super) purged_affinity: Vec<u32>,
    /// Every set and generation that ever had slots: none is written again.
    written: BTreeSet<(u32, u32)>,
    service_id_high: u32,
    backend_id_high: u32,
}

impl FakeMaps {
    pub(super) fn apply(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.apply_one(op);
            self.check(op);
        }
    }

    /// Carries out operations on maps where number `full` does not fit: as `knarr-datapath` does then, half of it is
    /// written, and what would lead to it is left out.
    pub(super) fn apply_full(&mut self, ops: &[MapOp], full: usize) {
        let mut broken = BTreeSet::new();
        let mut broken_backend = None;
        for (index, op) in ops.iter().enumerate() {
            match op {
                MapOp::SetBackend { id, .. } if index == full => broken_backend = Some(*id),
                MapOp::SetSlots {
                    set,
                    generation,
                    backends,
                } => {
                    let is_broken = backends.iter().any(|id| Some(*id) == broken_backend);
                    if is_broken || index == full {
                        broken.insert((*set, *generation));
                    }
                    if !is_broken {
                        let len = if index == full {
                            backends.len() / 2
                        } else {
                            backends.len()
                        };
                        self.apply_one(&MapOp::SetSlots {
                            set: *set,
                            generation: *generation,
                            backends: backends[..len].to_vec(),
                        });
                    }
                }
                MapOp::SetTable {
                    set,
                    generation,
                    backends,
                } if index == full || backends.iter().any(|id| Some(*id) == broken_backend) => {
                    broken.insert((*set, *generation));
                }
                MapOp::SetService { .. } if index == full => {}
                MapOp::SetService { entry, .. }
                    if broken.contains(&(entry.set, entry.generation)) => {}
                _ => self.apply_one(op),
            }
            self.check(op);
        }
    }

    pub(super) fn apply_unchecked(&mut self, op: &MapOp) {
        self.apply_one(op);
    }

    fn apply_one(&mut self, op: &MapOp) {
        match op {
            MapOp::SetBackend { id, entry } => {
                self.backend_id_high = self.backend_id_high.max(*id);
                self.backends.insert(*id, *entry);
            }
            MapOp::SetSlots {
                set,
                generation,
                backends,
            } => {
                self.service_id_high = self.service_id_high.max(*set);
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
                self.service_id_high = self.service_id_high.max(entry.service).max(entry.set);
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

    /// What a restarted agent reads.
    pub(super) fn contents(&self) -> MapContents {
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
