// SPDX-License-Identifier: Apache-2.0
//! Reads the pinned maps for people: `knarr-agent service ls|get|trace`, `knarr-agent datapath check`, metrics and
//! tests.
//!
//! Works without a running agent and beside one. Writes nothing, except that it purges what leads to
//! backends that are gone, and what tests ask for by name.

use std::collections::HashSet;
use std::path::Path;

use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, Config, Counters, Flow, MapContents, Plain,
    ServiceEntry, ServiceKey, SlotKey, TableKey, choose,
};

use crate::apply;
use crate::check::{self, Report};
use crate::contents::{contents, stats};
use crate::error::DatapathError;
use crate::maps::{Map, Maps, Places, SharedMaps};
use crate::overflow::Room;
use crate::pins::pinned_maps;

/// One of the two records that each flow from outside has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Found by the client's packets.
    Client,
    /// Found by the backend's packets.
    Backend,
}

/// The pinned maps of a node.
#[derive(Clone, Debug)]
pub struct Inspector {
    maps: SharedMaps,
    cpus: usize,
}

impl Inspector {
    /// Opens the pins under a bpffs root.
    pub fn open(bpf_root: &Path) -> Result<Self, DatapathError> {
        Ok(Self {
            maps: SharedMaps::new(Maps::open(Places {
                maps: &pinned_maps(bpf_root),
                larger: None,
            })?),
            cpus: aya::util::nr_cpus().map_err(|(path, source)| DatapathError::File {
                action: "read",
                path: path.into(),
                source,
            })?,
        })
    }

    pub(crate) fn new(maps: SharedMaps, cpus: usize) -> Self {
        Self { maps, cpus }
    }

    /// Everything about Services.
    pub fn contents(&self) -> Result<MapContents, DatapathError> {
        contents(&self.maps.now())
    }

    /// What the agent told the programs about the node.
    pub fn config(&self) -> Result<Config, DatapathError> {
        Ok(self.maps.now().config.get(&0)?.unwrap_or_default())
    }

    /// The Service that answers for an address.
    pub fn service(&self, key: &ServiceKey) -> Result<Option<ServiceEntry>, DatapathError> {
        self.maps.now().services.get(key)
    }

    /// A backend.
    pub fn backend(&self, id: u32) -> Result<Option<BackendEntry>, DatapathError> {
        self.maps.now().backends.get(&id)
    }

    /// The backend id in a slot of the generation that a Service uses.
    pub fn slot(&self, entry: &ServiceEntry, slot: u32) -> Result<Option<u32>, DatapathError> {
        self.maps.now().slots.get(&SlotKey {
            set: entry.set,
            generation: entry.generation,
            slot,
        })
    }

    /// The backend id that the consistent hash table gives for a hash.
    pub fn by_table(&self, entry: &ServiceEntry, hash: u32) -> Result<Option<u32>, DatapathError> {
        if entry.table_len == 0 {
            return Ok(None);
        }
        let (chunk, index) = choose::table_position(entry.table_len, hash);
        let key = TableKey {
            set: entry.set,
            generation: entry.generation,
            chunk,
        };
        Ok(self
            .maps
            .now()
            .tables
            .get(&key)?
            .and_then(|chunk| chunk.backends.get(index as usize).copied()))
    }

    /// What is remembered about one client of a Service.
    pub fn affinity(
        &self,
        service: u32,
        client: &Address,
    ) -> Result<Option<AffinityEntry>, DatapathError> {
        self.maps.now().affinity.get(&AffinityKey {
            client: *client,
            service,
        })
    }

    /// All remembered clients.
    pub fn affinities(&self) -> Result<Vec<(AffinityKey, AffinityEntry)>, DatapathError> {
        self.maps.now().affinity.entries()
    }

    /// The counters of a Service port, summed over CPUs; `None` when it was never used.
    pub fn counters(&self, service: u32) -> Result<Option<Counters>, DatapathError> {
        Ok(self
            .maps
            .now()
            .counters
            .lookup_per_cpu(&service, self.cpus)?
            .map(|all| all.iter().fold(Counters::default(), sum)))
    }

    /// Flows from outside.
    pub fn flows(&self) -> Result<Vec<Flow>, DatapathError> {
        Ok(self
            .maps
            .now()
            .flows
            .entries()?
            .into_iter()
            .map(|(_, flow)| flow)
            .collect())
    }

    /// Addresses on which NodePorts hold.
    pub fn node_addresses(&self) -> Result<Vec<Address>, DatapathError> {
        self.maps.now().node_addrs.keys()
    }

    /// Addresses of the pods whose sockets are told apart.
    pub fn pods(&self) -> Result<Vec<Address>, DatapathError> {
        Ok(self
            .maps
            .now()
            .pods
            .entries()?
            .into_iter()
            .map(|(_, address)| address)
            .collect())
    }

    /// Compares what the Service maps point to with what is there. Walks the maps.
    pub fn check(&self) -> Result<Report, DatapathError> {
        check::check(&self.maps.now())
    }

    /// Sums of the programs' statistics, by name.
    pub fn stats(&self) -> Result<Vec<(&'static str, u64)>, DatapathError> {
        stats(&self.maps.now(), self.cpus)
    }

    /// Entries and sizes of the maps: (name, entries, max entries). Walks the maps: milliseconds for big
    /// ones, which hold nobody up.
    pub fn usage(&self) -> Result<Vec<(&'static str, u32, u32)>, DatapathError> {
        let maps = &*self.maps.now();
        Ok(vec![
            usage(&maps.services)?,
            usage(&maps.slots)?,
            usage(&maps.tables)?,
            usage(&maps.backends)?,
            usage(&maps.affinity)?,
            usage(&maps.flows)?,
            usage(&maps.nat)?,
            usage(&maps.sockets)?,
        ])
    }

    /// How many entries the maps that the kernel programs fill can hold.
    pub fn room(&self) -> Result<Room, DatapathError> {
        let config = self.config()?;
        let maps = self.maps.now();
        Ok(Room {
            flows: maps.flows.max_entries,
            affinity: maps.affinity.max_entries,
            counters: maps.counters.max_entries,
            sockets: maps.sockets.max_entries,
            snat_ports: (config.snat_port_first, config.snat_port_last),
        })
    }

    /// Deletes affinity entries and flows that lead to these backends. Only for ids that no slot names any
    /// more; they are not used again, so it may run beside anything else. Only maps do not grow meanwhile.
    pub fn purge_backends(&self, gone: &HashSet<u32>) -> Result<(), DatapathError> {
        let _turn = self.maps.turn();
        apply::purge_backends(&self.maps.now(), gone)
    }

    /// Deletes the slots that an address leads to, as a mistake of the agent would; for tests
    /// of what people are told then.
    pub fn break_service(&self, entry: &ServiceEntry) -> Result<(), DatapathError> {
        let slots: Vec<SlotKey> = (0..entry.count + entry.terminating)
            .map(|slot| SlotKey {
                set: entry.set,
                generation: entry.generation,
                slot,
            })
            .collect();
        self.maps.now().slots.remove_all(&slots)
    }

    /// Deletes one half of all flow records, as an LRU under pressure does; for tests of their rebuilding.
    pub fn forget_flows(&self, half: Half) -> Result<usize, DatapathError> {
        let maps = self.maps.now();
        let map = match half {
            Half::Client => &maps.flows,
            Half::Backend => &maps.nat,
        };
        let keys: Vec<_> = map.entries()?.into_iter().map(|(key, _)| key).collect();
        map.remove_all(&keys)?;
        Ok(keys.len())
    }
}

fn usage<K: Plain, V: Plain>(map: &Map<K, V>) -> Result<(&'static str, u32, u32), DatapathError> {
    Ok((map.name.as_str(), map.count()?, map.max_entries))
}

fn sum(mut total: Counters, one: &Counters) -> Counters {
    total.connects += one.connects;
    total.refused += one.refused;
    total.flows += one.flows;
    total.flows_refused += one.flows_refused;
    total.packets_in += one.packets_in;
    total.packets_out += one.packets_out;
    total.affinity_hits += one.affinity_hits;
    total
}
