// SPDX-License-Identifier: Apache-2.0
//! Maps begin small and are replaced by larger ones when they are needed, up to the sizes that the operator allows.
//!
//! The kernel makes room for all buckets of a hash map with the map, 16 bytes for each entry that it may ever hold, and
//! for the entries of an LRU map too (`htab_map_alloc`, kernel/bpf/hashtab.c, Linux 6.18). At full size that is 80 MB,
//! on a node that may have ten Services.
//!
//! ```text
//! make the larger maps under growing/ -> copy -> programs that use them take the place of the attached ones
//!     -> copy what came meanwhile -> rename over the old pins
//! ```
//!
//! A crash in between leaves the old pins, which the next agent adopts, and `growing/`, which it removes. Only the agent
//! writes Services, slots, tables and backends, and it does nothing else meanwhile, so that old and new are the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use knarr_ebpf_common::{MapOp, SERVICE_NODE_PORT, ServiceEntry, TABLE_CHUNK};

use crate::apply;
use crate::config::ProgramLog;
use crate::error::DatapathError;
use crate::load::{Datapath, attach_all, link_dir, load_all, load_object, pin_root, pinned_maps};
use crate::maps::{self, Maps, Places, Wanted};

/// The first size of each map that grows: some hundred Services. Together they take a quarter of a megabyte.
const FIRST_SIZES: [(&str, u32); 8] = [
    ("SERVICES", 2_048),
    ("COUNTERS", 2_048),
    ("SLOTS", 8_192),
    ("BACKENDS", 4_096),
    ("TABLES", 2_048),
    // Nothing is in these until a Service needs them; then they get their full size, for the kernel programs fill them.
    ("AFFINITY", 128),
    ("FLOWS", 128),
    ("NAT", 128),
];
/// A map that is full gets room for this many times what is wanted now: two generations, and what comes next.
const SPARE: u32 = 2;

/// The size that a map is made with; none where the object says it.
pub(crate) fn first_size(map: &Wanted, log: ProgramLog) -> Option<u32> {
    let limit = map.max_entries?;
    // The programs' log is read from a map of the programs that were loaded first, so that these have to stay.
    let grows = log == ProgramLog::Off;
    let first = FIRST_SIZES.iter().find(|(name, _)| *name == map.name);
    Some(match first {
        Some((_, first)) if grows => limit.min(*first),
        _ => limit,
    })
}

fn growing(bpf_root: &Path) -> PathBuf {
    pin_root(bpf_root).join("growing")
}

/// Removes what an agent left that was killed while maps grew.
pub(crate) fn forget_unfinished(bpf_root: &Path) {
    let directory = growing(bpf_root);
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return;
    };
    for entry in entries.flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "a map that was begun cannot be removed");
        }
    }
}

/// Which maps have to have how many entries.
type Needs = BTreeMap<&'static str, u32>;

/// What Services like these need of the maps that kernel programs fill.
fn needs_of<'a>(entries: impl Iterator<Item = &'a ServiceEntry>) -> Needs {
    let mut needs = Needs::new();
    for entry in entries {
        if entry.flags & SERVICE_NODE_PORT != 0 {
            needs.extend([("FLOWS", u32::MAX), ("NAT", u32::MAX)]);
        }
        if entry.affinity_seconds > 0 {
            needs.insert("AFFINITY", u32::MAX);
        }
    }
    needs
}

/// How many entries operations write, by map.
fn written(ops: &[MapOp]) -> Needs {
    let mut needs = Needs::new();
    for op in ops {
        let (map, count) = match op {
            MapOp::SetService { .. } => ("SERVICES", 1),
            MapOp::SetBackend { .. } => ("BACKENDS", 1),
            MapOp::SetSlots { backends, .. } => ("SLOTS", backends.len()),
            MapOp::SetTable { backends, .. } => ("TABLES", backends.len() / TABLE_CHUNK),
            _ => continue,
        };
        let needed = needs.entry(map).or_default();
        *needed = needed.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }
    needs
}

/// The size that a map should have: none where it is large enough, or may not be larger.
fn target(present: u32, needed: u32, limit: u32) -> Option<u32> {
    if needed <= present || present >= limit {
        return None;
    }
    let ample = needed.saturating_mul(SPARE).checked_next_power_of_two();
    Some(ample.unwrap_or(u32::MAX).min(limit))
}

impl Datapath {
    /// Carries out operations, in larger maps where these are full.
    pub(crate) fn apply_with_room(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        let flips = ops.iter().filter_map(|op| match op {
            MapOp::SetService { entry, .. } => Some(entry),
            _ => None,
        });
        self.grow_in_advance(&needs_of(flips));
        let result = apply::apply(&self.maps.now(), ops);
        if !matches!(result, Err(DatapathError::MapFull { .. })) {
            return result;
        }
        let maps = self.maps.now();
        let mut needs = written(ops);
        for (map, count) in [
            ("SERVICES", maps.services.count()?),
            ("SLOTS", maps.slots.count()?),
            ("TABLES", maps.tables.count()?),
            ("BACKENDS", maps.backends.count()?),
        ] {
            let needed = needs.entry(map).or_default();
            *needed = needed.saturating_add(count);
        }
        // One counter for each Service port.
        needs.insert("COUNTERS", needs["SERVICES"]);
        match self.grow(&needs) {
            // Operations that were done already can be repeated.
            Ok(Grown::Yes) => apply::apply(&self.maps.now(), ops),
            Ok(Grown::No) => result,
            // All that fitted was carried out, so the full map is what is reported.
            Err(error) => {
                warn_of_growth(&error);
                result
            }
        }
    }

    /// Grows maps that kernel programs will fill. Without it these hold less; that is no reason to hold back the
    /// operations, by which dead endpoints go. It is tried again with the next change of such a Service.
    fn grow_in_advance(&mut self, needs: &Needs) {
        if let Err(error) = self.grow(needs) {
            warn_of_growth(&error);
        }
    }

    /// What an earlier agent left may need larger maps than it was allowed, or may have maps that nothing needs: earlier
    /// versions made all of them at full size.
    pub(crate) fn fit_to_known(&mut self) {
        let services = match self.maps.now().services.entries() {
            Ok(services) => services,
            Err(error) => return warn_of_growth(&error),
        };
        let needs = needs_of(services.iter().map(|(_, entry)| entry));
        self.grow_in_advance(&needs);
        if let Err(error) = self.shrink_all_but(&needs) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "maps that nothing needs stay large"
            );
        }
    }

    fn shrink_all_but(&mut self, needs: &Needs) -> Result<(), DatapathError> {
        // See `first_size`.
        if self.config.log != ProgramLog::Off {
            return Ok(());
        }
        let old = self.maps.now();
        let present: Needs = [
            ("AFFINITY", old.affinity.max_entries),
            ("FLOWS", old.flows.max_entries),
            ("NAT", old.nat.max_entries),
        ]
        .into();
        let targets: Needs = maps::all(&self.config.sizes)
            .iter()
            .filter(|map| !needs.contains_key(map.name))
            .filter_map(|map| {
                let first = first_size(map, self.config.log)?;
                (*present.get(map.name)? > first).then_some((map.name, first))
            })
            .collect();
        if targets.is_empty() {
            return Ok(());
        }
        tracing::info!(?targets, "maps that nothing needs are made small");
        self.replace(&targets)
    }

    fn grow(&mut self, needs: &Needs) -> Result<Grown, DatapathError> {
        // See `first_size`.
        if self.config.log != ProgramLog::Off {
            return Ok(Grown::No);
        }
        let old = self.maps.now();
        let present: Needs = [
            ("SERVICES", old.services.max_entries),
            ("COUNTERS", old.counters.max_entries),
            ("SLOTS", old.slots.max_entries),
            ("BACKENDS", old.backends.max_entries),
            ("TABLES", old.tables.max_entries),
            ("AFFINITY", old.affinity.max_entries),
            ("FLOWS", old.flows.max_entries),
            ("NAT", old.nat.max_entries),
        ]
        .into();
        let targets: Needs = maps::all(&self.config.sizes)
            .iter()
            .filter_map(|map| {
                let (needed, present) = (needs.get(map.name)?, present.get(map.name)?);
                Some((map.name, target(*present, *needed, map.max_entries?)?))
            })
            .collect();
        if targets.is_empty() {
            return Ok(Grown::No);
        }
        tracing::debug!(?targets, "maps grow");
        drop(old);
        self.replace(&targets)?;
        Ok(Grown::Yes)
    }

    fn replace(&mut self, targets: &Needs) -> Result<(), DatapathError> {
        let shared = self.maps.clone();
        let _turn = shared.turn();
        let old = &*shared.now();
        let map_dir = pinned_maps(&self.config.bpf_root);
        let larger = growing(&self.config.bpf_root);
        let file_error = |action: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| DatapathError::File {
                action,
                path,
                source,
            }
        };
        forget_unfinished(&self.config.bpf_root);
        std::fs::create_dir_all(&larger).map_err(file_error("make", &larger))?;
        let mut ebpf = load_object(&self.config, &self.object, |map| {
            match targets.get(map.name) {
                Some(size) => (larger.join(map.name), Some(*size)),
                None => (map_dir.join(map.name), None),
            }
        })?;
        let new = Maps::open(Places {
            maps: &map_dir,
            larger: Some(&larger),
        })?;
        for name in targets.keys() {
            copy(name, old, &new, self.cpus)?;
        }
        load_all(&mut ebpf)?;
        let links = link_dir(&self.config.bpf_root);
        let swapped = attach_all(&mut ebpf, &self.config, &links, &new)
            .and_then(|()| add_new(targets, old, &new))
            .and_then(|()| {
                targets.keys().try_for_each(|name| {
                    let path = larger.join(name);
                    std::fs::rename(&path, map_dir.join(name)).map_err(file_error("rename", &path))
                })
            });
        if let Err(error) = swapped {
            self.go_back(targets, &links, &new);
            return Err(error);
        }
        self.ebpf = ebpf;
        self.maps.replace(new);
        Ok(())
    }

    /// Attaches the programs of the old maps again, where those of the new ones could not all be attached: some of them may
    /// be, and would look into maps that are not written any more.
    fn go_back(&mut self, targets: &Needs, links: &Path, new: &Maps) {
        let old = self.maps.now();
        // The uplink that is missing is missing for these too. They come last, and all others are attached by then.
        if let Err(error) = attach_all(&mut self.ebpf, &self.config, links, &old) {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "attaching the programs of before"
            );
        }
        if let Err(error) = add_new(targets, new, &old) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "some flows of this moment are lost"
            );
        }
    }
}

fn warn_of_growth(error: &DatapathError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "maps cannot grow and are used as they are"
    );
}

/// Adds what programs wrote into the old maps after these were copied.
fn add_new(targets: &Needs, from: &Maps, to: &Maps) -> Result<(), DatapathError> {
    targets.keys().try_for_each(|name| match *name {
        "AFFINITY" => to.affinity.add_from(&from.affinity),
        "FLOWS" => to.flows.add_from(&from.flows),
        "NAT" => to.nat.add_from(&from.nat),
        _ => Ok(()),
    })
}

/// Whether any map was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grown {
    Yes,
    No,
}

fn copy(name: &str, old: &Maps, new: &Maps, cpus: usize) -> Result<(), DatapathError> {
    match name {
        "SERVICES" => new.services.fill_from(&old.services),
        "COUNTERS" => new.counters.fill_from_per_cpu(&old.counters, cpus),
        "SLOTS" => new.slots.fill_from(&old.slots),
        "BACKENDS" => new.backends.fill_from(&old.backends),
        "TABLES" => new.tables.fill_from(&old.tables),
        "AFFINITY" => new.affinity.fill_from(&old.affinity),
        "FLOWS" => new.flows.fill_from(&old.flows),
        "NAT" => new.nat.fill_from(&old.nat),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_grows_only_when_it_is_too_small_and_never_over_its_limit() {
        assert_eq!(target(1_024, 1_024, 65_536), None);
        assert_eq!(target(1_024, 1_025, 65_536), Some(4_096));
        assert_eq!(target(1_024, 60_000, 65_536), Some(65_536));
        assert_eq!(target(1_024, u32::MAX, 50_000), Some(50_000));
        assert_eq!(target(65_536, 70_000, 65_536), None);
        assert_eq!(target(8, 9, 8), None);
    }

    #[test]
    fn every_map_that_grows_begins_below_the_default_and_below_a_smaller_limit() {
        let defaults = maps::all(&crate::MapSizes::default());
        for (name, first) in FIRST_SIZES {
            let map = defaults.iter().find(|map| map.name == name);
            let map = map.expect("a map of ours");
            assert_eq!(first_size(map, ProgramLog::Off), Some(first), "{name}");
            let small = Wanted {
                max_entries: Some(8),
                ..*map
            };
            assert_eq!(first_size(&small, ProgramLog::Off), Some(8), "{name}");
            assert_eq!(first_size(map, ProgramLog::Debug), map.max_entries);
        }
    }
}
