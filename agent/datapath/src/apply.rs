// SPDX-License-Identifier: Apache-2.0
//! The one interpreter of map operations: carries them out in order, neighbours of one kind in batches.
//!
//! What does not fit into a map does not stop the rest, and nothing is ever pointed at a generation that
//! is not complete: such a Service keeps its old one. Called by [`crate::Datapath::apply`].

use std::collections::HashSet;

use knarr_ebpf_common::{
    BackendEntry, MapOp, Plain, ServiceEntry, ServiceKey, SlotKey, TABLE_CHUNK, TableChunk,
    TableKey,
};

use crate::error::DatapathError;
use crate::maps::{Map, Maps};

/// Indexes into the map `IDS`.
pub(crate) const IDS_SERVICE: u32 = 0;
pub(crate) const IDS_BACKEND: u32 = 1;

/// Carries out `ops`. The error is the first one; everything that could be done was done.
pub(crate) fn apply(maps: &Maps, ops: &[MapOp]) -> Result<(), DatapathError> {
    let mut run = Run {
        maps,
        broken_backends: HashSet::new(),
        broken_generations: HashSet::new(),
        first: None,
    };
    run.raise_ids(ops);
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let kind = std::mem::discriminant(op);
        let len = rest
            .iter()
            .take_while(|op| std::mem::discriminant(*op) == kind)
            .count();
        let (same, after) = rest.split_at(len);
        run.step(same);
        rest = after;
    }
    match run.first {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct Run<'a> {
    maps: &'a Maps,
    broken_backends: HashSet<u32>,
    broken_generations: HashSet<(u32, u32)>,
    first: Option<DatapathError>,
}

impl Run<'_> {
    fn note(&mut self, result: Result<(), DatapathError>) {
        if let Err(error) = result {
            self.first.get_or_insert(error);
        }
    }

    /// Remembers the highest ids before any of them is used, so that a crash in between cannot lead to
    /// their being given again.
    fn raise_ids(&mut self, ops: &[MapOp]) {
        let mut service = 0;
        let mut backend = 0;
        for op in ops {
            match op {
                MapOp::SetBackend { id, .. } => backend = backend.max(*id),
                MapOp::SetService { entry, .. } => {
                    service = service.max(entry.service).max(entry.set);
                }
                MapOp::SetSlots { set, .. } => service = service.max(*set),
                _ => {}
            }
        }
        for (index, high) in [(IDS_SERVICE, service), (IDS_BACKEND, backend)] {
            let result = self.maps.ids.get(&index).and_then(|known| {
                if known.unwrap_or_default() < high {
                    self.maps.ids.insert(&index, &high)?;
                }
                Ok(())
            });
            self.note(result);
        }
    }

    /// Operations of one kind.
    fn step(&mut self, ops: &[MapOp]) {
        match ops.first() {
            None => {}
            Some(MapOp::SetBackend { .. }) => self.set_backends(ops),
            Some(MapOp::SetSlots { .. }) => self.set_slots(ops),
            Some(MapOp::SetTable { .. }) => self.set_tables(ops),
            Some(MapOp::SetService { .. }) => self.set_services(ops),
            Some(_) => {
                let result = self.remove(ops);
                self.note(result);
            }
        }
    }

    fn set_backends(&mut self, ops: &[MapOp]) {
        let (keys, values): (Vec<u32>, Vec<BackendEntry>) = ops
            .iter()
            .filter_map(|op| match op {
                MapOp::SetBackend { id, entry } => Some((*id, *entry)),
                _ => None,
            })
            .unzip();
        if let Err((failed, error)) = self.maps.backends.insert_all(&keys, &values) {
            self.broken_backends.extend(failed);
            self.first.get_or_insert(error);
        }
    }

    fn set_slots(&mut self, ops: &[MapOp]) {
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for op in ops {
            let MapOp::SetSlots {
                set,
                generation,
                backends,
            } = op
            else {
                continue;
            };
            if self.is_broken(backends) {
                self.broken_generations.insert((*set, *generation));
                continue;
            }
            for (slot, backend) in (0..).zip(backends) {
                keys.push(SlotKey {
                    set: *set,
                    generation: *generation,
                    slot,
                });
                values.push(*backend);
            }
        }
        if let Err((failed, error)) = self.maps.slots.insert_all(&keys, &values) {
            self.broken_generations
                .extend(failed.iter().map(|key| (key.set, key.generation)));
            self.first.get_or_insert(error);
        }
    }

    fn set_tables(&mut self, ops: &[MapOp]) {
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for op in ops {
            let MapOp::SetTable {
                set,
                generation,
                backends,
            } = op
            else {
                continue;
            };
            if self.is_broken(backends) {
                self.broken_generations.insert((*set, *generation));
                continue;
            }
            for (chunk, places) in (0..).zip(backends.chunks_exact(TABLE_CHUNK)) {
                let mut entry = TableChunk {
                    backends: [0; TABLE_CHUNK],
                };
                entry.backends.copy_from_slice(places);
                keys.push(TableKey {
                    set: *set,
                    generation: *generation,
                    chunk,
                });
                values.push(entry);
            }
        }
        if let Err((failed, error)) = self.maps.tables.insert_all(&keys, &values) {
            self.broken_generations
                .extend(failed.iter().map(|key| (key.set, key.generation)));
            self.first.get_or_insert(error);
        }
    }

    fn is_broken(&self, backends: &[u32]) -> bool {
        !self.broken_backends.is_empty()
            && backends.iter().any(|id| self.broken_backends.contains(id))
    }

    fn set_services(&mut self, ops: &[MapOp]) {
        let (keys, values): (Vec<ServiceKey>, Vec<ServiceEntry>) = ops
            .iter()
            .filter_map(|op| match op {
                MapOp::SetService { key, entry } => Some((*key, *entry)),
                _ => None,
            })
            .filter(|(_, entry)| {
                !self
                    .broken_generations
                    .contains(&(entry.set, entry.generation))
            })
            .unzip();
        if let Err((_, error)) = self.maps.services.insert_all(&keys, &values) {
            self.first.get_or_insert(error);
        }
    }

    fn remove(&self, ops: &[MapOp]) -> Result<(), DatapathError> {
        let mut services = Vec::new();
        let mut slots = Vec::new();
        let mut tables = Vec::new();
        let mut backends = Vec::new();
        for op in ops {
            match op {
                MapOp::RemoveService { key } => services.push(*key),
                MapOp::RemoveSlots {
                    set,
                    generation,
                    count,
                } => {
                    slots.extend((0..*count).map(|slot| SlotKey {
                        set: *set,
                        generation: *generation,
                        slot,
                    }));
                }
                MapOp::RemoveTable {
                    set,
                    generation,
                    len,
                } => {
                    tables.extend((0..*len / TABLE_CHUNK as u32).map(|chunk| TableKey {
                        set: *set,
                        generation: *generation,
                        chunk,
                    }));
                }
                MapOp::RemoveBackend { id } => backends.push(*id),
                MapOp::PurgeBackends { ids } => {
                    purge_backends(self.maps, &ids.iter().copied().collect())?;
                }
                MapOp::PurgeServices { affinity, counters } => {
                    self.purge_affinity(affinity)?;
                    self.maps.counters.remove_all(counters)?;
                }
                MapOp::SetBackend { .. }
                | MapOp::SetSlots { .. }
                | MapOp::SetTable { .. }
                | MapOp::SetService { .. } => {}
            }
        }
        self.maps.services.remove_all(&services)?;
        self.maps.slots.remove_all(&slots)?;
        self.maps.tables.remove_all(&tables)?;
        self.maps.backends.remove_all(&backends)
    }

    fn purge_affinity(&self, services: &[u32]) -> Result<(), DatapathError> {
        if services.is_empty() {
            return Ok(());
        }
        let gone: HashSet<u32> = services.iter().copied().collect();
        remove_where(&self.maps.affinity, |key, _| gone.contains(&key.service))
    }
}

/// Takes the purges of backends out of a plan: `(the rest, the ids)`. They walk whole maps, and they are
/// the only operations that may come late, for ids are not used again.
pub fn split_purges(mut ops: Vec<MapOp>) -> (Vec<MapOp>, Vec<u32>) {
    let mut purged = Vec::new();
    ops.retain_mut(|op| match op {
        MapOp::PurgeBackends { ids } => {
            purged.append(ids);
            false
        }
        _ => true,
    });
    (ops, purged)
}

/// Deletes affinity entries and flows that lead to these backends.
pub(crate) fn purge_backends(maps: &Maps, gone: &HashSet<u32>) -> Result<(), DatapathError> {
    remove_where(&maps.affinity, |_, entry| gone.contains(&entry.backend))?;
    for map in [&maps.flows, &maps.nat] {
        remove_where(map, |_, flow| gone.contains(&flow.backend_id))?;
    }
    Ok(())
}

fn remove_where<K: Plain, V: Plain>(
    map: &Map<K, V>,
    is_gone: impl Fn(&K, &V) -> bool,
) -> Result<(), DatapathError> {
    let mut found = Vec::new();
    map.visit(|keys, values| {
        let of_batch = keys.iter().zip(values);
        found.clear();
        found.extend(of_batch.filter(|(k, v)| is_gone(k, v)).map(|(k, _)| *k));
        map.remove_all(&found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_purges_of_backends_are_taken_out_of_a_plan() {
        let flip = MapOp::RemoveBackend { id: 1 };
        let affinity = MapOp::PurgeServices {
            affinity: vec![3],
            counters: Vec::new(),
        };
        let ops = vec![
            flip.clone(),
            MapOp::PurgeBackends { ids: vec![1, 2] },
            affinity.clone(),
            MapOp::PurgeBackends { ids: vec![4] },
        ];
        assert_eq!(split_purges(ops), (vec![flip, affinity], vec![1, 2, 4]));
    }
}
