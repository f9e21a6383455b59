// SPDX-License-Identifier: Apache-2.0
//! Compares what the Service maps point to with what is there: slots, chunks of tables, backends. The kernel programs
//! refuse a connection that meets a missing entry, so each one found is an error of the agent.
//!
//! Reads only. Called by `knarr-agent datapath check`, `service get` and `service trace`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;

use knarr_ebpf_common::{
    SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_INTERNAL, ServiceEntry, ServiceKey, SlotKey, TABLE_CHUNK,
    TableChunk, TableKey,
};

use crate::address::v4;
use crate::error::DatapathError;
use crate::maps::Maps;

/// Something that an address of a Service leads to and that is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingEntry {
    /// The address.
    pub key: ServiceKey,
    /// Service id.
    pub service: u32,
    /// Set id.
    pub set: u32,
    /// Generation.
    pub generation: u32,
    /// What is missing.
    pub missing: Missing,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Missing {
    /// Entries of `SLOTS`: these, of so many.
    Slots(Vec<u32>, u32),
    /// Entries of `TABLES`: these chunks, of so many.
    Chunks(Vec<u32>, u32),
    /// Entries of `BACKENDS` that slots or places of the table name.
    Backends(Vec<u32>),
}

impl fmt::Display for MissingEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u16::from_be(self.key.port_be);
        match self.key.scope {
            SCOPE_CLUSTER_IP => write!(f, "{}:{number}", v4(&self.key.vip))?,
            SCOPE_NODE_PORT_INTERNAL => write!(f, "NodePort {number} from inside")?,
            _ => write!(f, "NodePort {number} from outside")?,
        }
        write!(
            f,
            " leads to generation {} of set {}, where ",
            self.generation, self.set
        )?;
        match &self.missing {
            Missing::Slots(slots, of) => {
                write!(f, "of {of} slots these are missing: {}", list(slots))
            }
            Missing::Chunks(chunks, of) => {
                let chunks = list(chunks);
                write!(f, "of {of} chunks of the table these are missing: {chunks}")
            }
            Missing::Backends(ids) => write!(f, "these backends are missing: {}", list(ids)),
        }
    }
}

/// Numbers for people, many of them shortened.
fn list(numbers: &[u32]) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<String> = numbers.iter().take(SHOWN).map(u32::to_string).collect();
    if numbers.len() > SHOWN {
        text.push(format!("and {} more", numbers.len() - SHOWN));
    }
    text.join(", ")
}

/// What was looked at, and what is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Addresses of Services.
    pub addresses: usize,
    /// Slots that they lead to.
    pub slots: usize,
    /// Chunks of tables that they lead to.
    pub chunks: usize,
    /// Backends in the map.
    pub backends: usize,
    /// What is missing, sorted by address.
    pub missing_entries: Vec<MissingEntry>,
}

/// What one generation has, of those that addresses lead to.
#[derive(Debug, Default)]
struct Found {
    slots: BTreeMap<u32, u32>,
    chunks: BTreeSet<u32>,
    /// What its slots and places name and `BACKENDS` has not.
    lost: BTreeSet<u32>,
}

/// Looks at all Services. The addresses are read first: what they lead to stays for seconds after an agent that is at
/// work has flipped them, so nothing is reported missing that is there.
pub(crate) fn check(maps: &Maps) -> Result<Report, DatapathError> {
    let services = maps.services.entries()?;
    let backends: HashSet<u32> = maps.backends.entries()?.iter().map(|(id, _)| *id).collect();
    let mut search = Search::new(&services, &backends);
    maps.slots.visit(|keys, values| {
        for (key, backend) in keys.iter().zip(values) {
            search.slot(key, *backend);
        }
        Ok(())
    })?;
    maps.tables.visit(|keys, values| {
        for (key, chunk) in keys.iter().zip(values) {
            search.chunk(key, chunk);
        }
        Ok(())
    })?;
    Ok(search.report(services))
}

struct Search<'a> {
    backends: &'a HashSet<u32>,
    found: HashMap<(u32, u32), Found>,
}

impl<'a> Search<'a> {
    fn new(services: &[(ServiceKey, ServiceEntry)], backends: &'a HashSet<u32>) -> Self {
        let found = services
            .iter()
            .map(|(_, entry)| ((entry.set, entry.generation), Found::default()))
            .collect();
        Self { backends, found }
    }

    fn slot(&mut self, key: &SlotKey, backend: u32) {
        if let Some(found) = self.found.get_mut(&(key.set, key.generation)) {
            found.slots.insert(key.slot, backend);
            if !self.backends.contains(&backend) {
                found.lost.insert(backend);
            }
        }
    }

    fn chunk(&mut self, key: &TableKey, chunk: &TableChunk) {
        if let Some(found) = self.found.get_mut(&(key.set, key.generation)) {
            found.chunks.insert(key.chunk);
            let lost = chunk.backends.iter();
            found
                .lost
                .extend(lost.filter(|id| !self.backends.contains(*id)));
        }
    }

    fn report(self, services: Vec<(ServiceKey, ServiceEntry)>) -> Report {
        let mut report = Report {
            addresses: services.len(),
            slots: self.found.values().map(|found| found.slots.len()).sum(),
            chunks: self.found.values().map(|found| found.chunks.len()).sum(),
            backends: self.backends.len(),
            missing_entries: Vec::new(),
        };
        for (key, entry) in services {
            let Some(found) = self.found.get(&(entry.set, entry.generation)) else {
                continue;
            };
            let slots = entry.count + entry.terminating;
            let chunks = entry.table_len / TABLE_CHUNK as u32;
            let absent_slots = (0..slots).filter(|slot| !found.slots.contains_key(slot));
            let absent_chunks = (0..chunks).filter(|chunk| !found.chunks.contains(chunk));
            let missing = [
                Missing::Slots(absent_slots.collect(), slots),
                Missing::Chunks(absent_chunks.collect(), chunks),
                Missing::Backends(found.lost.iter().copied().collect()),
            ];
            for missing in missing {
                let (Missing::Slots(numbers, _)
                | Missing::Chunks(numbers, _)
                | Missing::Backends(numbers)) = &missing;
                if numbers.is_empty() {
                    continue;
                }
                report.missing_entries.push(MissingEntry {
                    key,
                    service: entry.service,
                    set: entry.set,
                    generation: entry.generation,
                    missing,
                });
            }
        }
        report.missing_entries.sort();
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_ebpf_common::{PROTOCOL_TCP, mapped};

    fn service(count: u32, table_len: u32) -> (ServiceKey, ServiceEntry) {
        let key = ServiceKey {
            vip: mapped([10, 96, 0, 7]),
            port_be: 80_u16.to_be(),
            protocol: PROTOCOL_TCP,
            scope: SCOPE_CLUSTER_IP,
        };
        let entry = ServiceEntry {
            set: 2,
            service: 1,
            generation: 5,
            count,
            terminating: 1,
            affinity_seconds: 0,
            table_len,
            flags: 0,
            reserved: 0,
        };
        (key, entry)
    }

    fn slot(generation: u32, slot: u32) -> SlotKey {
        SlotKey {
            set: 2,
            generation,
            slot,
        }
    }

    fn missing_entries(backends: &[u32], slots: &[(SlotKey, u32)], chunks: &[u32]) -> Vec<String> {
        let services = vec![service(2, 128)];
        let backends = backends.iter().copied().collect();
        let mut search = Search::new(&services, &backends);
        for (key, backend) in slots {
            search.slot(key, *backend);
        }
        for chunk in chunks {
            let key = TableKey {
                set: 2,
                generation: 5,
                chunk: *chunk,
            };
            let places = TableChunk {
                backends: [10; TABLE_CHUNK],
            };
            search.chunk(&key, &places);
        }
        let report = search.report(services);
        report
            .missing_entries
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_whole_service_has_no_holes_and_other_generations_do_not_count() {
        let slots = [
            (slot(5, 0), 10),
            (slot(5, 1), 11),
            (slot(5, 2), 12),
            (slot(4, 0), 99),
        ];
        assert_eq!(missing_entries(&[10, 11, 12], &slots, &[0, 1]), [""; 0]);
    }

    #[test]
    fn slots_chunks_and_backends_that_are_missing_are_named() {
        let slots = [(slot(4, 0), 10), (slot(5, 1), 11)];
        let at = "10.96.0.7:80 leads to generation 5 of set 2, where";
        assert_eq!(
            missing_entries(&[10], &slots, &[1]),
            [
                format!("{at} of 3 slots these are missing: 0, 2"),
                format!("{at} of 2 chunks of the table these are missing: 0"),
                format!("{at} these backends are missing: 11"),
            ]
        );
    }

    #[test]
    fn many_numbers_are_shortened() {
        let numbers: Vec<u32> = (0..20).collect();
        assert_eq!(list(&numbers), "0, 1, 2, 3, 4, 5, 6, 7, and 12 more");
    }
}
