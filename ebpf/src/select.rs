// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Choosing a backend for a new connection; the same for sockets and for packets from outside, so that
//! affinity gives one client one answer on both paths.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, Counters, ServiceEntry, SlotKey, Stat,
    TABLE_CHUNK, TableKey, choose, hash,
};

use crate::maps::{AFFINITY, COUNTERS, SLOTS, TABLES, count};
use crate::read::{self, Found, READS_MAX};

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
    pub backend: BackendEntry,
}

/// This CPU's counters of a Service, made at first use.
///
/// The memory stays the map's until the program ends, and no other CPU writes it. Where the Service is removed meanwhile it
/// may become another Service's counters, and counts what happens here.
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
    // On the stack it would take an eighth of it, and a call to set it to 0.
    static FRESH: Counters = Counters {
        connects: 0,
        refused: 0,
        flows: 0,
        flows_refused: 0,
        packets_in: 0,
        packets_out: 0,
        affinity_hits: 0,
        next_slot: 0,
    };
    let fresh = &FRESH;
    if COUNTERS
        .insert(service, fresh, u64::from(BPF_NOEXIST))
        .is_err()
    {
        count(Stat::CountersInsertFailed);
    }
    let Some(made) = COUNTERS.get_ptr_mut(service) else {
        return core::ptr::null_mut();
    };
    // SAFETY: the helper takes no pointers.
    let start = unsafe { bpf_get_prandom_u32() };
    // Nodes do not all begin with the same backend.
    // SAFETY: see `counters`.
    unsafe { (*made).next_slot = u64::from(start) };
    made
}

#[inline(always)]
fn by_table(entry: &ServiceEntry, hash: u32) -> Option<u32> {
    let (chunk, index) = choose::table_position(entry.table_len, hash);
    let key = TableKey {
        set: entry.set,
        generation: entry.generation,
        chunk,
    };
    let chunk = TABLES.get_ptr(key)?;
    let index = index as usize & (TABLE_CHUNK - 1);
    // Another chunk's by now, perhaps: `go` finds out by the backend.
    Some(read::field!(chunk, backends[index]))
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
    let slot = SLOTS.get_ptr(key)?;
    // SAFETY: the memory stays the map's until the program ends, and a word is read whole. It may be another set's by
    // now: `go` finds out by the backend.
    Some(unsafe { read_volatile(slot) })
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
    let is_sticky = entry.affinity_seconds > 0;
    let key = AffinityKey {
        client: *client,
        service: entry.service,
    };
    let mut now = 0;
    let mut not_this = NO_BACKEND;
    let way = if is_sticky {
        // SAFETY: the helper takes no pointers.
        now = unsafe { bpf_ktime_get_ns() };
        match recall(entry, &key, now) {
            Recalled::Kept(choice) => {
                if let Some(counters) = counters {
                    // SAFETY: see `counters`.
                    unsafe { (*counters).affinity_hits += 1 };
                }
                return Some(choice);
            }
            // Its time is over, so the choice is free again.
            Recalled::RanOut(before) => {
                not_this = before;
                // SAFETY: the helper takes no pointers.
                Way::Slot(unsafe { bpf_get_prandom_u32() } >> 1)
            }
            // The first choice depends on the client alone, so every node and both paths make the same one.
            Recalled::Nothing => Way::by_hash(entry, hash::client(client)),
        }
    } else {
        match spread {
            Spread::InTurn => Way::Slot(turn(counters)),
            Spread::Hash(hash) => Way::by_hash(entry, hash),
        }
    };
    // Once in the code: it is long.
    let choice = backend_of(entry, way, not_this)?;
    if is_sticky {
        remember(&key, choice.id, now);
    }
    Some(choice)
}

#[inline(always)]
fn remember(key: &AffinityKey, backend: u32, now: u64) {
    let entry = AffinityEntry {
        last_used_ns: now,
        backend,
        reserved: 0,
    };
    if AFFINITY.insert(key, entry, u64::from(BPF_ANY)).is_err() {
        count(Stat::AffinityInsertFailed);
    }
}

/// What `AFFINITY` says of a client.
enum Recalled {
    /// It keeps this backend.
    Kept(Choice),
    /// It had this backend, until its time was over.
    RanOut(u32),
    /// Nothing that holds: no entry, or one of a backend that takes no new connections.
    Nothing,
}

#[inline(always)]
fn recall(entry: &ServiceEntry, key: &AffinityKey, now: u64) -> Recalled {
    let Some((remembered, place)) = read::affinity(key) else {
        return Recalled::Nothing;
    };
    let id = remembered.backend;
    if !choose::affinity_holds(entry, &remembered, now) {
        return Recalled::RanOut(id);
    }
    match read::backend(id, entry.service) {
        Found::Backend(backend) if choose::affinity_backend_fits(entry, &backend) => {
            if choose::renews_affinity(&backend) {
                // SAFETY: the memory stays the map's until the program ends. In the moment since it was checked it may
                // have become another client's, whose time then begins with this use instead of its own.
                let last_used = unsafe { &raw mut (*place).last_used_ns };
                // SAFETY: as above.
                unsafe { write_volatile(last_used, now) };
            }
            Recalled::Kept(Choice { id, backend })
        }
        _ => Recalled::Nothing,
    }
}

/// No backend has this id.
const NO_BACKEND: u32 = 0;

/// Which of a set's backends is meant.
#[derive(Clone, Copy)]
enum Way {
    /// The one of this slot, counted round.
    Slot(u32),
    /// The one of this hash in the consistent hash table.
    Table(u32),
}

impl Way {
    #[inline(always)]
    fn by_hash(entry: &ServiceEntry, hash: u32) -> Self {
        if entry.table_len > 0 {
            Self::Table(hash)
        } else {
            Self::Slot(hash)
        }
    }
}

/// The backend that is meant; where that is `not_this` and the set has others, the one in the next slot.
#[inline(always)]
fn backend_of(entry: &ServiceEntry, way: Way, not_this: u32) -> Option<Choice> {
    let (by_hash, mut number) = match way {
        Way::Slot(number) => (false, number),
        Way::Table(hash) => (true, hash),
    };
    let mut missing = Stat::SlotMissing;
    for _ in 0..READS_MAX {
        let id = if by_hash {
            by_table(entry, number)
        } else {
            by_slot(entry, number)
        };
        let Some(id) = id else { continue };
        if id == not_this && choose::usable_slots(entry).1 > 1 {
            number = number.wrapping_add(1);
            continue;
        }
        match read::backend(id, entry.service) {
            Found::Backend(backend) if choose::belongs(entry, &backend) => {
                return Some(Choice { id, backend });
            }
            Found::Missing => missing = Stat::BackendMissing,
            // What named it, or it itself, was given away while it was read.
            Found::Backend(_) | Found::Foreign => count(Stat::ElementMoved),
        }
    }
    count(missing);
    None
}

#[inline(always)]
fn turn(counters: Option<*mut Counters>) -> u32 {
    let Some(counters) = counters else {
        // SAFETY: the helper takes no pointers.
        return unsafe { bpf_get_prandom_u32() };
    };
    // SAFETY: see `counters`.
    let counters = unsafe { &mut *counters };
    counters.next_slot = counters.next_slot.wrapping_add(1);
    counters.next_slot as u32
}
