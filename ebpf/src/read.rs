// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reading elements of maps: a copy, and a check that the copy belongs to what was asked for.
//!
//! A pointer that a lookup returns stays valid memory of its map until the program ends, and no more than that. A hash
//! element that is deleted or replaced may hold another key's value at once: since Linux 6.1 it goes back to
//! `bpf_mem_alloc`, which gives it to the next insert on that CPU, and an LRU map does the same with its own list. So a
//! value is copied once, by volatile reads (the compiler may not read a field again later), and then the copy is checked:
//!
//! - by what stands in it, where it names its owner: a backend its Service, a flow its two ends (`flow`);
//! - else by a second lookup. A key that leads to the same element before and after the copy led to it all the time,
//!   but for an element that was given to another key and back again between two instructions of a program.
//!
//! What fails the check is read again, [`READS_MAX`] times in all.
//!
//! A lookup may also miss a key that is there: it stands on the element that was replaced, which holds another key
//! already and still points to the end of the old bucket. So a miss that would be an error is looked at again too.

use core::mem::{align_of, offset_of};
use core::ptr::read_volatile;

use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, ServiceEntry, ServiceKey, SocketOrigin,
    Stat, mapped,
};

use crate::maps::{AFFINITY, BACKENDS, PODS, SERVICES, SOCKETS, count};

// Where fields lie that are read by words.
const _: () = {
    assert!(offset_of!(BackendEntry, address) == 0);
    assert!(offset_of!(BackendEntry, port_be) == 16);
    assert!(offset_of!(BackendEntry, state) == 18);
    assert!(offset_of!(BackendEntry, flags) == 19);
    assert!(offset_of!(BackendEntry, service) == 20);
    assert!(align_of::<SocketOrigin>() >= align_of::<u32>());
    assert!(offset_of!(SocketOrigin, vip).is_multiple_of(4));
    assert!(offset_of!(SocketOrigin, backend).is_multiple_of(4));
};

/// How often an element is read that changes meanwhile. A change takes a system call, and a read some nanoseconds.
pub const READS_MAX: u32 = 3;

/// Reads one field of an element.
macro_rules! field {
    ($element:expr, $($field:tt)+) => {{
        // SAFETY: `$element` came from a lookup of this program, so it is memory of its map, in bounds and aligned.
        let field = unsafe { &raw const (*$element).$($field)+ };
        // SAFETY: as above; the field is a plain integer, and any bits are one.
        unsafe { core::ptr::read_volatile(field) }
    }};
}
pub(crate) use field;

/// How often a lookup has to miss before it is believed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// Nearly always there is nothing.
    Once = 1,
    /// Nearly always there is something.
    Twice = 2,
}

/// What answers for an address and port; 0 where nothing does. A function of its own, for its code is long.
#[inline(never)]
fn service_or_zero(key: &ServiceKey, to: &mut ServiceEntry, misses_max: u32) -> u32 {
    let mut misses = 0;
    for _ in 0..READS_MAX {
        let Some(found) = SERVICES.get_ptr(key) else {
            misses += 1;
            if misses == misses_max {
                return 0;
            }
            continue;
        };
        to.set = field!(found, set);
        to.service = field!(found, service);
        to.generation = field!(found, generation);
        to.count = field!(found, count);
        to.terminating = field!(found, terminating);
        to.affinity_seconds = field!(found, affinity_seconds);
        to.table_len = field!(found, table_len);
        to.flags = field!(found, flags);
        if SERVICES.get_ptr(key) == Some(found) {
            return 1;
        }
        count(Stat::ElementMoved);
    }
    0
}

/// Whether something answers for an address and port, and what that is.
#[inline(always)]
pub fn service(key: &ServiceKey, to: &mut ServiceEntry, miss: Miss) -> bool {
    service_or_zero(key, to, miss as u32) != 0
}

/// Room for an entry.
pub const NO_SERVICE: ServiceEntry = ServiceEntry {
    set: 0,
    service: 0,
    generation: 0,
    count: 0,
    terminating: 0,
    affinity_seconds: 0,
    table_len: 0,
    flags: 0,
    reserved: 0,
};

/// What a lookup of a backend found.
pub enum Found {
    /// The backend.
    Backend(BackendEntry),
    /// Nothing.
    Missing,
    /// A backend of another Service: the element, or the one that named the id, was given away meanwhile.
    Foreign,
}

/// The backend of an id, if it is one of this Service.
#[inline(always)]
pub fn backend(id: u32, service: u32) -> Found {
    let Some(found) = BACKENDS.get_ptr(id) else {
        return Found::Missing;
    };
    // The fields from `port_be` to `service` are eight bytes, read at once; the address is read before and after them, so
    // that a replacement in between shows.
    let before = v4(found.cast());
    // SAFETY: the last eight of the 24 bytes that the lookup found; values of maps lie at multiples of eight.
    let rest = unsafe { read_volatile(found.cast::<u64>().wrapping_add(2)) }.to_ne_bytes();
    let after = v4(found.cast());
    let copy = BackendEntry {
        address: mapped(before),
        port_be: u16::from_ne_bytes([rest[0], rest[1]]),
        state: rest[2],
        flags: rest[3],
        service: u32::from_ne_bytes([rest[4], rest[5], rest[6], rest[7]]),
    };
    if before == after && copy.service == service {
        Found::Backend(copy)
    } else {
        Found::Foreign
    }
}

/// What is remembered about a client, and where, for the time of its last use.
#[inline(always)]
pub fn affinity(key: &AffinityKey) -> Option<(AffinityEntry, *mut AffinityEntry)> {
    for _ in 0..READS_MAX {
        let found = AFFINITY.get_ptr_mut(key)?;
        let copy = AffinityEntry {
            last_used_ns: field!(found, last_used_ns),
            backend: field!(found, backend),
            reserved: 0,
        };
        if AFFINITY.get_ptr_mut(key) == Some(found) {
            return Some((copy, found));
        }
        count(Stat::ElementMoved);
    }
    None
}

/// The address of the pod whose network namespace has this cookie.
#[inline(always)]
pub fn pod(netns_cookie: u64) -> Option<Address> {
    for _ in 0..READS_MAX {
        let found = PODS.get_ptr(netns_cookie)?;
        let address = v4(found);
        if PODS.get_ptr(netns_cookie) == Some(found) {
            return Some(mapped(address));
        }
        count(Stat::ElementMoved);
    }
    None
}

/// What the socket with this cookie was told to connect to.
#[inline(always)]
pub fn origin(cookie: u64) -> Option<Origin> {
    for _ in 0..READS_MAX {
        let found = SOCKETS.get_ptr(cookie)?;
        // SAFETY: a field of the element that the lookup found, named and not read.
        let vip = unsafe { &raw const (*found).vip };
        // SAFETY: as above.
        let backend = unsafe { &raw const (*found).backend };
        let copy = Origin {
            vip: v4(vip),
            backend: v4(backend),
            vip_port_be: field!(found, vip_port_be),
            backend_port_be: field!(found, backend_port_be),
        };
        if SOCKETS.get_ptr(cookie) == Some(found) {
            return Some(copy);
        }
        count(Stat::ElementMoved);
    }
    None
}

/// The part of a `SocketOrigin` that its reader needs.
#[derive(Clone, Copy)]
pub struct Origin {
    pub vip: [u8; 4],
    pub backend: [u8; 4],
    pub vip_port_be: u16,
    pub backend_port_be: u16,
}

/// The IPv4 address in an address of an element.
#[inline(always)]
pub fn v4(address: *const Address) -> [u8; 4] {
    // SAFETY: the callers' addresses are in elements that their lookups found, at multiples of four; the word is the last
    // of four.
    unsafe { read_volatile(address.cast::<u32>().wrapping_add(3)) }.to_ne_bytes()
}
