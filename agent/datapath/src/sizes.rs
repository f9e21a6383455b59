// SPDX-License-Identifier: Apache-2.0
//! Which maps are made larger or smaller, and how large: plain functions over sizes and counts.
//!
//! Not here: reading sizes, copying entries and swapping programs (`grow`). `load` asks for first sizes.

use std::collections::BTreeMap;

use knarr_ebpf_common::{MapOp, SERVICE_NODE_PORT, ServiceEntry, TABLE_CHUNK};

use crate::config::ProgramLog;
use crate::map_name::MapName;
use crate::maps::Wanted;

/// Entries by map.
pub(crate) type Entries = BTreeMap<MapName, u32>;

/// The first size of each map that grows: some hundred Services. Together they take a quarter of a megabyte.
const FIRST_SIZES: [(MapName, u32); 8] = [
    (MapName::Services, 2_048),
    (MapName::Counters, 2_048),
    (MapName::Slots, 8_192),
    (MapName::Backends, 4_096),
    (MapName::Tables, 2_048),
    // These are empty until a Service needs them. Then they get their full size, because the kernel programs fill them.
    (MapName::Affinity, 128),
    (MapName::Flows, 128),
    (MapName::Nat, 128),
];
/// A map that is full gets room for this many times what is wanted now: two generations, and what comes next.
const SPARE: u32 = 2;

/// A map that may grow, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapSize {
    /// Its name.
    pub(crate) name: MapName,
    /// The entries that it has room for.
    pub(crate) present: u32,
    /// The entries that the operator allows.
    pub(crate) limit: u32,
}

/// The size that a map is made with; none where the object says it.
pub(crate) fn first_size(map: &Wanted, log: ProgramLog) -> Option<u32> {
    let limit = map.max_entries?;
    Some(if grows(log) {
        begin_with(map.name, limit).unwrap_or(limit)
    } else {
        limit
    })
}

/// The programs' log is read from a map of the programs that were loaded first, so these have to stay while there is one.
pub(crate) fn grows(log: ProgramLog) -> bool {
    log == ProgramLog::Off
}

/// The size that a map begins with; none for a map that never grows.
fn begin_with(name: MapName, limit: u32) -> Option<u32> {
    let (_, first) = FIRST_SIZES.iter().find(|(known, _)| *known == name)?;
    Some(limit.min(*first))
}

/// What Services like these need of the maps that kernel programs fill.
pub(crate) fn needs_of<'a>(services: impl Iterator<Item = &'a ServiceEntry>) -> Entries {
    let mut needs = Entries::new();
    for entry in services {
        if entry.flags & SERVICE_NODE_PORT != 0 {
            needs.extend([(MapName::Flows, u32::MAX), (MapName::Nat, u32::MAX)]);
        }
        if entry.affinity_seconds > 0 {
            needs.insert(MapName::Affinity, u32::MAX);
        }
    }
    needs
}

/// What operations need of the maps that kernel programs fill.
pub(crate) fn needs_of_operations(ops: &[MapOp]) -> Entries {
    needs_of(ops.iter().filter_map(|op| match op {
        MapOp::SetService { entry, .. } => Some(entry),
        _ => None,
    }))
}

/// What operations need of the maps that user space fills, beside the entries that are there.
pub(crate) fn needs_beside(ops: &[MapOp], used: &Entries) -> Entries {
    let mut needs = used.clone();
    for op in ops {
        let (map, count) = match op {
            MapOp::SetService { .. } => (MapName::Services, 1),
            MapOp::SetBackend { .. } => (MapName::Backends, 1),
            MapOp::SetSlots { backends, .. } => (MapName::Slots, backends.len()),
            MapOp::SetTable { backends, .. } => (MapName::Tables, backends.len() / TABLE_CHUNK),
            _ => continue,
        };
        let needed = needs.entry(map).or_default();
        *needed = needed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
    // One counter for each Service port.
    if let Some(services) = needs.get(&MapName::Services).copied() {
        needs.insert(MapName::Counters, services);
    }
    needs
}

/// The new sizes of the maps that are too small for what is needed, up to their limits.
pub(crate) fn plan_growth(needs: &Entries, maps: &[MapSize]) -> Entries {
    maps.iter()
        .filter_map(|map| {
            let needed = *needs.get(&map.name)?;
            if needed <= map.present || map.present >= map.limit {
                return None;
            }
            let ample = needed.saturating_mul(SPARE).checked_next_power_of_two();
            Some((map.name, ample.unwrap_or(u32::MAX).min(map.limit)))
        })
        .collect()
}

/// The new sizes of the maps that kernel programs fill, where nothing needs them and they are larger than at the start.
pub(crate) fn plan_shrinking(needs: &Entries, maps: &[MapSize]) -> Entries {
    maps.iter()
        .filter(|map| !needs.contains_key(&map.name))
        .filter(|map| matches!(map.name, MapName::Affinity | MapName::Flows | MapName::Nat))
        .filter_map(|map| {
            let first = begin_with(map.name, map.limit)?;
            (map.present > first).then_some((map.name, first))
        })
        .collect()
}

#[cfg(test)]
mod tests;
