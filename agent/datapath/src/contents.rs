// SPDX-License-Identifier: Apache-2.0
//! What all maps hold together, and the programs' statistics. Read by `load` for its owner and by `inspect` for people.

use knarr_ebpf_common::{MapContents, Stat};

use crate::apply::{IDS_BACKEND, IDS_SERVICE};
use crate::error::DatapathError;
use crate::maps::Maps;

/// What the maps hold.
pub(crate) fn contents(maps: &Maps) -> Result<MapContents, DatapathError> {
    Ok(MapContents {
        services: maps.services.entries()?,
        slots: maps
            .slots
            .entries()?
            .into_iter()
            .map(|(key, backend)| (key.set, key.generation, key.slot, backend))
            .collect(),
        tables: maps
            .tables
            .keys()?
            .into_iter()
            .map(|key| (key.set, key.generation, key.chunk))
            .collect(),
        backends: maps.backends.entries()?,
        service_id_high: maps.ids.get(&IDS_SERVICE)?.unwrap_or_default(),
        backend_id_high: maps.ids.get(&IDS_BACKEND)?.unwrap_or_default(),
    })
}

/// Sums of the programs' statistics, by name.
pub(crate) fn stats(maps: &Maps, cpus: usize) -> Result<Vec<(&'static str, u64)>, DatapathError> {
    Stat::NAMES
        .iter()
        .map(|(stat, name)| {
            let values = maps.stats.lookup_per_cpu(&(*stat as u32), cpus)?;
            Ok((*name, values.unwrap_or_default().iter().sum()))
        })
        .collect()
}
