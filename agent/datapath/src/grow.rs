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

use std::path::Path;

use knarr_ebpf_common::MapOp;

use crate::apply;
use crate::error::DatapathError;
use crate::load::{Datapath, attach_all, load_all, load_object};
use crate::map_name::MapName;
use crate::maps::{self, Maps, Places, Wanted};
use crate::pins::{forget_unfinished, growing, link_dir, pinned_maps};
use crate::sizes::{
    Entries, MapSize, grows, needs_beside, needs_of, needs_of_operations, plan_growth,
    plan_shrinking,
};

impl Datapath {
    /// Carries out operations, in larger maps where these are full.
    pub(crate) fn apply_with_room(&mut self, ops: &[MapOp]) -> Result<(), DatapathError> {
        self.grow_in_advance(&needs_of_operations(ops));
        let result = apply::apply(&self.maps.now(), ops);
        if !matches!(result, Err(DatapathError::MapFull { .. })) {
            return result;
        }
        let maps = self.maps.now();
        let used = Entries::from([
            (MapName::Services, maps.services.count()?),
            (MapName::Slots, maps.slots.count()?),
            (MapName::Tables, maps.tables.count()?),
            (MapName::Backends, maps.backends.count()?),
        ]);
        let needs = needs_beside(ops, &used);
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
    fn grow_in_advance(&mut self, needs: &Entries) {
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

    fn shrink_all_but(&mut self, needs: &Entries) -> Result<(), DatapathError> {
        if !grows(self.config.log) {
            return Ok(());
        }
        let targets = plan_shrinking(needs, &self.map_sizes());
        if targets.is_empty() {
            return Ok(());
        }
        tracing::info!(?targets, "maps that nothing needs are made small");
        self.replace(&targets)
    }

    fn grow(&mut self, needs: &Entries) -> Result<Grown, DatapathError> {
        if !grows(self.config.log) {
            return Ok(Grown::No);
        }
        let targets = plan_growth(needs, &self.map_sizes());
        if targets.is_empty() {
            return Ok(Grown::No);
        }
        tracing::debug!(?targets, "maps grow");
        self.replace(&targets)?;
        Ok(Grown::Yes)
    }

    /// The maps that may grow, with their sizes of now and their limits.
    fn map_sizes(&self) -> Vec<MapSize> {
        let now = self.maps.now();
        let with_limit = |map: Wanted| Some((map.name, map.max_entries?));
        maps::all(&self.config.sizes)
            .into_iter()
            .filter_map(with_limit)
            .filter_map(|(name, limit)| {
                let present = now.max_entries(name)?;
                Some(MapSize {
                    name,
                    present,
                    limit,
                })
            })
            .collect()
    }

    fn replace(&mut self, targets: &Entries) -> Result<(), DatapathError> {
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
            match targets.get(&map.name) {
                Some(size) => (larger.join(map.name.as_str()), Some(*size)),
                None => (map_dir.join(map.name.as_str()), None),
            }
        })?;
        let new = Maps::open(Places {
            maps: &map_dir,
            larger: Some(&larger),
        })?;
        for name in targets.keys() {
            copy(*name, old, &new, self.cpus)?;
        }
        load_all(&mut ebpf)?;
        let links = link_dir(&self.config.bpf_root);
        let swapped = attach_all(&mut ebpf, &self.config, &links, &new)
            .and_then(|()| add_new(targets, old, &new))
            .and_then(|()| {
                targets.keys().try_for_each(|name| {
                    let path = larger.join(name.as_str());
                    std::fs::rename(&path, map_dir.join(name.as_str()))
                        .map_err(file_error("rename", &path))
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
    fn go_back(&mut self, targets: &Entries, links: &Path, new: &Maps) {
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
fn add_new(targets: &Entries, from: &Maps, to: &Maps) -> Result<(), DatapathError> {
    targets.keys().try_for_each(|name| match *name {
        MapName::Affinity => to.affinity.add_from(&from.affinity),
        MapName::Flows => to.flows.add_from(&from.flows),
        MapName::Nat => to.nat.add_from(&from.nat),
        _ => Ok(()),
    })
}

/// Whether any map was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grown {
    Yes,
    No,
}

fn copy(name: MapName, old: &Maps, new: &Maps, cpus: usize) -> Result<(), DatapathError> {
    match name {
        MapName::Services => new.services.fill_from(&old.services),
        MapName::Counters => new.counters.fill_from_per_cpu(&old.counters, cpus),
        MapName::Slots => new.slots.fill_from(&old.slots),
        MapName::Backends => new.backends.fill_from(&old.backends),
        MapName::Tables => new.tables.fill_from(&old.tables),
        MapName::Affinity => new.affinity.fill_from(&old.affinity),
        MapName::Flows => new.flows.fill_from(&old.flows),
        MapName::Nat => new.nat.fill_from(&old.nat),
        _ => Ok(()),
    }
}
