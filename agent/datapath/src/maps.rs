// SPDX-License-Identifier: Apache-2.0
//! Typed access to the pinned maps, one entry or many at a time. Full maps become an error that names
//! the map and the flag that makes it larger.
//!
//! Used by `load` (writes), `inspect` (reads). No decisions about Services.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, Config, Counters, Flow, FlowKey,
    FragmentKey, FragmentPorts, MarkChunk, Plain, ServiceEntry, ServiceKey, SlotKey, SocketOrigin,
    TableChunk, TableKey,
};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::config::MapSizes;
use crate::error::DatapathError;
use crate::map_name::MapName;
use crate::sys::{self, Cursor, Known};

/// Entries handed to the kernel in one call: large enough that the calls do not show, small enough that
/// buffers stay below a few megabytes.
const BATCH: usize = 4_096;

/// Map types of linux/bpf.h that are used here.
pub(crate) mod map_type {
    pub(crate) const HASH: u32 = 1;
    pub(crate) const ARRAY: u32 = 2;
    pub(crate) const PERCPU_HASH: u32 = 5;
    pub(crate) const PERCPU_ARRAY: u32 = 6;
    pub(crate) const LRU_HASH: u32 = 9;
}

/// What a pinned map has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: MapName,
    pub(crate) map_type: u32,
    pub(crate) key_size: usize,
    pub(crate) value_size: usize,
    pub(crate) max_entries: Option<u32>,
}

fn wanted<K, V>(name: MapName, map_type: u32, max_entries: Option<u32>) -> Wanted {
    Wanted {
        name,
        map_type,
        key_size: size_of::<K>(),
        value_size: size_of::<V>(),
        max_entries,
    }
}

/// All maps that are pinned.
pub(crate) fn all(sizes: &MapSizes) -> Vec<Wanted> {
    use map_type::{ARRAY, HASH, LRU_HASH, PERCPU_ARRAY, PERCPU_HASH};
    let slots = sizes.backends.saturating_mul(4);
    vec![
        wanted::<ServiceKey, ServiceEntry>(MapName::Services, HASH, Some(sizes.services)),
        wanted::<SlotKey, u32>(MapName::Slots, HASH, Some(slots)),
        wanted::<TableKey, TableChunk>(MapName::Tables, HASH, Some(sizes.tables)),
        wanted::<u32, BackendEntry>(MapName::Backends, HASH, Some(sizes.backends)),
        wanted::<AffinityKey, AffinityEntry>(MapName::Affinity, LRU_HASH, Some(sizes.affinity)),
        wanted::<FlowKey, Flow>(MapName::Flows, LRU_HASH, Some(sizes.flows)),
        wanted::<FlowKey, Flow>(MapName::Nat, LRU_HASH, Some(sizes.flows)),
        wanted::<u32, MarkChunk>(MapName::Marks, ARRAY, None),
        wanted::<FragmentKey, FragmentPorts>(MapName::Fragments, LRU_HASH, None),
        wanted::<u32, Counters>(MapName::Counters, PERCPU_HASH, Some(sizes.services)),
        wanted::<u32, u64>(MapName::Stats, PERCPU_ARRAY, None),
        wanted::<u32, Config>(MapName::Config, ARRAY, None),
        wanted::<Address, u32>(MapName::NodeAddrs, HASH, None),
        wanted::<u64, Address>(MapName::Pods, HASH, None),
        wanted::<u32, u32>(MapName::Veths, HASH, None),
        wanted::<u32, u32>(MapName::Ids, ARRAY, None),
        wanted::<u64, SocketOrigin>(MapName::Sockets, HASH, Some(sizes.sockets)),
        wanted::<u32, MarkChunk>(MapName::Peers, ARRAY, None),
    ]
}

/// Where pins are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// The maps.
    pub(crate) maps: &'a Path,
    /// Larger maps that are about to take the place of some of them.
    pub(crate) larger: Option<&'a Path>,
}

impl Places<'_> {
    /// Where the map of this name is pinned.
    pub(crate) fn of(&self, name: MapName) -> PathBuf {
        let name = name.as_str();
        match self.larger.map(|larger| larger.join(name)) {
            Some(larger) if larger.exists() => larger,
            _ => self.maps.join(name),
        }
    }
}

/// The maps of now: they are replaced by larger ones while readers are at work.
#[derive(Clone, Debug)]
pub(crate) struct SharedMaps {
    now: Arc<RwLock<Arc<Maps>>>,
    /// Held while entries are copied into other maps, and while they are purged.
    whole: Arc<Mutex<()>>,
}

impl SharedMaps {
    pub(crate) fn new(maps: Maps) -> Self {
        Self {
            now: Arc::new(RwLock::new(Arc::new(maps))),
            whole: Arc::default(),
        }
    }

    /// A turn for what deletes entries beside the agent's own writes, or replaces maps: what is purged in maps that are
    /// just being copied would be in the copy for ever. Ask for [`Self::now`] after it.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.whole.lock()
    }

    /// The maps of now.
    pub(crate) fn now(&self) -> Arc<Maps> {
        self.now.read().clone()
    }

    pub(crate) fn replace(&self, maps: Maps) {
        *self.now.write() = Arc::new(maps);
    }
}

/// One pinned map.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    fd: OwnedFd,
    pub(crate) name: MapName,
    pub(crate) max_entries: u32,
    of: PhantomData<fn() -> (K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Opens a pinned map.
    fn open(places: Places<'_>, name: MapName) -> Result<Self, DatapathError> {
        let path = places.of(name);
        let directory = places.maps;
        let fd = sys::object_get(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => DatapathError::NotPermitted {
                what: "reading pinned maps",
                source,
            },
            _ => DatapathError::NotPinned {
                path: directory.to_owned(),
                source,
            },
        })?;
        let shape = sys::map_shape(fd.as_fd()).map_err(|source| DatapathError::Map {
            action: "describe",
            map: name.as_str(),
            source,
        })?;
        Ok(Self {
            fd,
            name,
            max_entries: shape.max_entries,
            of: PhantomData,
        })
    }

    fn error(&self, action: &'static str, source: io::Error) -> DatapathError {
        match source.raw_os_error() {
            Some(libc::E2BIG) => DatapathError::MapFull {
                map: self.name.as_str(),
                max_entries: self.max_entries,
                flag: self.name.flag(),
            },
            _ => DatapathError::Map {
                action,
                map: self.name.as_str(),
                source,
            },
        }
    }

    /// Writes one entry.
    pub(crate) fn insert(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        let value = std::slice::from_ref(value);
        sys::map_update(self.fd.as_fd(), key, value, Known::Replace)
            .map_err(|source| self.error("write", source))
    }

    /// Reads one entry.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        let mut value = sys::zeroed::<V>();
        self.read(key, std::slice::from_mut(&mut value))
            .map(|found| found.then_some(value))
    }

    /// Reads one entry of a per-CPU map.
    pub(crate) fn lookup_per_cpu(
        &self,
        key: &K,
        cpus: usize,
    ) -> Result<Option<Vec<V>>, DatapathError> {
        let mut values = vec![sys::zeroed::<V>(); cpus];
        self.read(key, &mut values)
            .map(|found| found.then_some(values))
    }

    fn read(&self, key: &K, into: &mut [V]) -> Result<bool, DatapathError> {
        match sys::map_lookup(self.fd.as_fd(), key, into) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(source) => Err(self.error("read", source)),
        }
    }

    /// Copies all entries of another map of the same kind into this one, which no program uses yet.
    pub(crate) fn fill_from(&self, old: &Self) -> Result<(), DatapathError> {
        old.visit(|keys, values| self.insert_all(keys, values).map_err(|(_, error)| error))
    }

    /// Adds what another map of the same kind has more than this one, which programs use: what these write meanwhile is
    /// newer and stays.
    pub(crate) fn add_from(&self, old: &Self) -> Result<(), DatapathError> {
        old.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let value = std::slice::from_ref(value);
                match sys::map_update(self.fd.as_fd(), key, value, Known::Keep) {
                    Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                    result => result.map_err(|source| self.error("write", source))?,
                }
            }
            Ok(())
        })
    }

    /// As [`Self::fill_from`], for a per-CPU map.
    pub(crate) fn fill_from_per_cpu(&self, old: &Self, cpus: usize) -> Result<(), DatapathError> {
        for key in old.keys()? {
            if let Some(values) = old.lookup_per_cpu(&key, cpus)? {
                sys::map_update(self.fd.as_fd(), &key, &values, Known::Replace)
                    .map_err(|source| self.error("write", source))?;
            }
        }
        Ok(())
    }

    /// Deletes one entry; a missing one is fine.
    pub(crate) fn remove(&self, key: &K) -> Result<(), DatapathError> {
        match sys::map_delete(self.fd.as_fd(), key) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            result => result.map_err(|source| self.error("delete from", source)),
        }
    }

    /// Writes many entries. An entry that does not fit does not stop the others: the keys that were not
    /// written come back with the first error.
    pub(crate) fn insert_all(
        &self,
        keys: &[K],
        values: &[V],
    ) -> Result<(), (Vec<K>, DatapathError)> {
        let mut failed = Vec::new();
        let mut first = None;
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let (mut keys, mut values) = (keys, values);
            while !keys.is_empty() {
                let Err((done, source)) = sys::map_update_batch(self.fd.as_fd(), keys, values)
                else {
                    break;
                };
                let done = done.min(keys.len() - 1);
                failed.push(keys[done]);
                first.get_or_insert_with(|| self.error("write", source));
                keys = &keys[done + 1..];
                values = &values[done + 1..];
            }
        }
        match first {
            Some(error) => Err((failed, error)),
            None => Ok(()),
        }
    }

    /// Deletes many entries; missing ones are fine.
    pub(crate) fn remove_all(&self, keys: &[K]) -> Result<(), DatapathError> {
        for keys in keys.chunks(BATCH) {
            let mut keys = keys;
            while !keys.is_empty() {
                match sys::map_delete_batch(self.fd.as_fd(), keys) {
                    Ok(()) => break,
                    Err((done, error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                        keys = keys.get(done + 1..).unwrap_or_default();
                    }
                    Err((_, source)) => return Err(self.error("delete from", source)),
                }
            }
        }
        Ok(())
    }

    /// All entries of a hash map.
    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>, DatapathError> {
        let mut entries = Vec::new();
        self.visit(|keys, values| {
            entries.extend(keys.iter().copied().zip(values.iter().copied()));
            Ok(())
        })?;
        Ok(entries)
    }

    /// Shows all entries of a hash map, some at a time in the same buffers: what is held in memory does
    /// not grow with the map. The kernel walks buckets, so entries may be deleted meanwhile.
    pub(crate) fn visit(
        &self,
        mut see: impl FnMut(&[K], &[V]) -> Result<(), DatapathError>,
    ) -> Result<(), DatapathError> {
        let mut keys = vec![sys::zeroed::<K>(); BATCH];
        let mut values = vec![sys::zeroed::<V>(); BATCH];
        let mut cursor = Cursor::default();
        loop {
            match sys::map_lookup_batch(self.fd.as_fd(), cursor, &mut keys, &mut values) {
                Ok((count, next)) => {
                    let count = count.min(keys.len());
                    see(&keys[..count], &values[..count])?;
                    match next {
                        Some(next) => cursor = next,
                        None => return Ok(()),
                    }
                }
                // One bucket has more entries than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    keys.resize(keys.len() * 2, sys::zeroed::<K>());
                    values.resize(values.len() * 2, sys::zeroed::<V>());
                }
                Err(source) => return Err(self.error("read", source)),
            }
        }
    }

    /// Number of entries of a hash map. The kernel keeps no count and hands out no keys alone.
    pub(crate) fn count(&self) -> Result<u32, DatapathError> {
        let mut count = 0_u32;
        self.visit(|keys, _| {
            count = count.saturating_add(u32::try_from(keys.len()).unwrap_or(u32::MAX));
            Ok(())
        })?;
        Ok(count)
    }

    /// All keys of any map, one by one.
    pub(crate) fn keys(&self) -> Result<Vec<K>, DatapathError> {
        let mut keys: Vec<K> = Vec::new();
        while let Some(key) = sys::map_next_key(self.fd.as_fd(), keys.last())
            .map_err(|source| self.error("read", source))?
        {
            keys.push(key);
            if keys.len() > self.max_entries as usize {
                break;
            }
        }
        Ok(keys)
    }
}

/// The maps that user space reads and writes.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) services: Map<ServiceKey, ServiceEntry>,
    pub(crate) slots: Map<SlotKey, u32>,
    pub(crate) tables: Map<TableKey, TableChunk>,
    pub(crate) backends: Map<u32, BackendEntry>,
    pub(crate) affinity: Map<AffinityKey, AffinityEntry>,
    pub(crate) flows: Map<FlowKey, Flow>,
    pub(crate) nat: Map<FlowKey, Flow>,
    pub(crate) marks: Map<u32, MarkChunk>,
    pub(crate) sockets: Map<u64, SocketOrigin>,
    pub(crate) counters: Map<u32, Counters>,
    pub(crate) stats: Map<u32, u64>,
    pub(crate) config: Map<u32, Config>,
    pub(crate) node_addrs: Map<Address, u32>,
    pub(crate) pods: Map<u64, Address>,
    pub(crate) veths: Map<u32, u32>,
    pub(crate) ids: Map<u32, u32>,
}

impl Maps {
    /// Opens all of them.
    pub(crate) fn open(places: Places<'_>) -> Result<Self, DatapathError> {
        Ok(Self {
            services: Map::open(places, MapName::Services)?,
            slots: Map::open(places, MapName::Slots)?,
            tables: Map::open(places, MapName::Tables)?,
            backends: Map::open(places, MapName::Backends)?,
            affinity: Map::open(places, MapName::Affinity)?,
            flows: Map::open(places, MapName::Flows)?,
            nat: Map::open(places, MapName::Nat)?,
            marks: Map::open(places, MapName::Marks)?,
            sockets: Map::open(places, MapName::Sockets)?,
            counters: Map::open(places, MapName::Counters)?,
            stats: Map::open(places, MapName::Stats)?,
            config: Map::open(places, MapName::Config)?,
            node_addrs: Map::open(places, MapName::NodeAddrs)?,
            pods: Map::open(places, MapName::Pods)?,
            veths: Map::open(places, MapName::Veths)?,
            ids: Map::open(places, MapName::Ids)?,
        })
    }

    /// The size of a map that may grow.
    pub(crate) fn max_entries(&self, name: MapName) -> Option<u32> {
        Some(match name {
            MapName::Services => self.services.max_entries,
            MapName::Counters => self.counters.max_entries,
            MapName::Slots => self.slots.max_entries,
            MapName::Backends => self.backends.max_entries,
            MapName::Tables => self.tables.max_entries,
            MapName::Affinity => self.affinity.max_entries,
            MapName::Flows => self.flows.max_entries,
            MapName::Nat => self.nat.max_entries,
            _ => return None,
        })
    }
}
