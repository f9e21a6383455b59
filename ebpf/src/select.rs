// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Choosing a backend for a new connection; the same for sockets and for packets from outside, so that
//! affinity gives one client one answer on both paths.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, Counters, ServiceEntry, SlotKey, Stat,
    TABLE_CHUNK, TableKey, choose, hash,
};

use crate::maps::{AFFINITY, BACKENDS, COUNTERS, SLOTS, TABLES, count};

/// How a connection without affinity is spread.
#[derive(Clone, Copy)]
pub enum Spread {
    /// In turn, on each CPU by itself.
    InTurn,
    /// By this hash of the flow, the same on every node.
    Hash(u32),
}

/// A backend and its id.
#[derive(Clone, Copy)]
pub struct Choice {
    pub id: u32,
    /// In the map: a copy would take a part of the little stack there is.
    pub backend: &'static BackendEntry,
}

/// This CPU's counters of a Service, made at first use.
#[inline(always)]
pub fn counters(service: u32) -> Option<*mut Counters> {
    let found = counters_or_null(service);
    (!found.is_null()).then_some(found)
}

/// A function of its own, for the stack's sake.
#[inline(never)]
fn counters_or_null(service: u32) -> *mut Counters {
    if let Some(found) = COUNTERS.get_ptr_mut(service) {
        return found;
    }
    // SAFETY: the helper takes no pointers.
    let start = unsafe { bpf_get_prandom_u32() };
    let fresh = Counters {
        connects: 0,
        refused: 0,
        flows: 0,
        flows_refused: 0,
        packets_in: 0,
        packets_out: 0,
        affinity_hits: 0,
        // Nodes and CPUs do not all begin with the same backend.
        next_slot: u64::from(start),
    };
    if COUNTERS
        .insert(service, fresh, u64::from(BPF_NOEXIST))
        .is_err()
    {
        count(Stat::CountersInsertFailed);
    }
    COUNTERS
        .get_ptr_mut(service)
        .unwrap_or(core::ptr::null_mut())
}

#[inline(always)]
fn backend(id: u32) -> Option<&'static BackendEntry> {
    // SAFETY: entries of a map without preallocation stay valid, and as they are, until the program ends.
    unsafe { BACKENDS.get(id) }
}

#[inline(always)]
fn by_table(entry: &ServiceEntry, hash: u32) -> Option<u32> {
    let (chunk, index) = choose::table_position(entry.table_len, hash);
    let key = TableKey {
        set: entry.set,
        generation: entry.generation,
        chunk,
    };
    // SAFETY: entries of a map without preallocation stay valid until the program ends.
    let chunk = unsafe { TABLES.get(key) }?;
    chunk
        .backends
        .get(index as usize & (TABLE_CHUNK - 1))
        .copied()
}

#[inline(always)]
fn by_slot(entry: &ServiceEntry, number: u32) -> Option<u32> {
    let (first, usable) = choose::usable_slots(entry);
    if usable == 0 {
        return None;
    }
    let key = SlotKey {
        set: entry.set,
        generation: entry.generation,
        slot: first + number % usable,
    };
    // SAFETY: entries of a map without preallocation stay valid until the program ends.
    unsafe { SLOTS.get(key) }.copied()
}

/// The backend for a new connection of this client, `None` where the Service has none.
#[inline(always)]
pub fn select(
    entry: &ServiceEntry,
    client: &Address,
    spread: Spread,
    counters: Option<*mut Counters>,
) -> Option<Choice> {
    if choose::usable_slots(entry).1 == 0 {
        return None;
    }
    if entry.affinity_seconds > 0 {
        return with_affinity(entry, client, counters);
    }
    let id = match spread {
        Spread::InTurn => by_slot(entry, turn(counters)),
        Spread::Hash(hash) if entry.table_len > 0 => by_table(entry, hash),
        Spread::Hash(hash) => by_slot(entry, hash),
    };
    found(id)
}

#[inline(always)]
fn turn(counters: Option<*mut Counters>) -> u32 {
    let Some(counters) = counters else {
        // SAFETY: the helper takes no pointers.
        return unsafe { bpf_get_prandom_u32() };
    };
    // SAFETY: this CPU's own element; it lives until the program ends.
    let counters = unsafe { &mut *counters };
    counters.next_slot = counters.next_slot.wrapping_add(1);
    counters.next_slot as u32
}

#[inline(always)]
fn found(id: Option<u32>) -> Option<Choice> {
    let Some(id) = id else {
        count(Stat::SlotMissing);
        return None;
    };
    let Some(backend) = backend(id) else {
        count(Stat::BackendMissing);
        return None;
    };
    Some(Choice { id, backend })
}

#[inline(always)]
fn with_affinity(
    entry: &ServiceEntry,
    client: &Address,
    counters: Option<*mut Counters>,
) -> Option<Choice> {
    let key = AffinityKey {
        client: *client,
        service: entry.service,
    };
    // SAFETY: the helper takes no pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(remembered) = AFFINITY.get_ptr_mut(key) {
        // SAFETY: an LRU element may be given to another key meanwhile; the backend is checked below
        // before it is used, and a time written to a stranger's entry is off by one use at most.
        let remembered = unsafe { &mut *remembered };
        if choose::affinity_holds(entry, remembered, now)
            && let Some(backend) = backend(remembered.backend)
            && choose::affinity_backend_fits(entry, backend)
        {
            if choose::renews_affinity(backend) {
                remembered.last_used_ns = now;
            }
            if let Some(counters) = counters {
                // SAFETY: this CPU's own element; it lives until the program ends.
                unsafe { (*counters).affinity_hits += 1 };
            }
            return Some(Choice {
                id: remembered.backend,
                backend,
            });
        }
    }
    // The first choice depends on the client alone, so every node and both paths make the same one.
    let hash = hash::client(client);
    let id = if entry.table_len > 0 {
        by_table(entry, hash)
    } else {
        by_slot(entry, hash)
    };
    let choice = found(id)?;
    let remember = AffinityEntry {
        last_used_ns: now,
        backend: choice.id,
        reserved: 0,
    };
    if AFFINITY.insert(key, remember, u64::from(BPF_ANY)).is_err() {
        count(Stat::AffinityInsertFailed);
    }
    Some(choice)
}
