// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Connection tracking of our own: `FLOWS` finds a flow by the client's packets, `NAT` by the backend's.
//! Both hold the same whole record, so whichever half an LRU lost is written again from the other.
//!
//! An element may be given to another flow at any time (see `read`). So a record is copied before it is used, and the
//! copy has to name the ends that were asked for. Times and flags are written in place, right after such a check: in
//! the moment between the two they may meet another flow, which then may look closed. Nothing that a flow is needed for
//! ends by that: packets of a closed flow are translated all the same, and only a SYN makes it give way.
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is moved into a map call is copied to the stack, which is 512 bytes"
)]

use core::mem::{align_of, size_of};
use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use knarr_ebpf_common::{Address, FLOW_LOCAL, Flow, FlowKey, Stat, choose, hash, unmapped};

use crate::address;
use crate::maps::{self, FLOWS, NAT, Scratch, count};
use crate::read::{READS_MAX, field, v4};

/// How many source ports are tried before a flow is given up. At three quarters of all ports taken, one
/// flow in ten thousand does not find one.
const PORT_TRIES: u32 = 32;

/// Writes down the client's side of a flow.
#[inline(always)]
fn write_client_key(key: &mut FlowKey, flow: &Flow) {
    // SAFETY: the addresses of keys and flows lie at multiples of four.
    unsafe { address::copy(&mut key.source, &flow.client) };
    // SAFETY: as above.
    unsafe { address::copy(&mut key.destination, &flow.called) };
    key.source_port_be = flow.client_port_be;
    key.destination_port_be = flow.called_port_be;
    key.protocol = flow.protocol;
}

/// Writes down the backend's side of a flow: what its replies look like.
#[inline(always)]
fn write_backend_key(key: &mut FlowKey, flow: &Flow) {
    // SAFETY: the addresses of keys and flows lie at multiples of four.
    unsafe { address::copy(&mut key.source, &flow.backend) };
    // SAFETY: as above.
    unsafe { address::copy(&mut key.destination, &flow.snat) };
    key.source_port_be = flow.backend_port_be;
    key.destination_port_be = flow.snat_port_be;
    key.protocol = flow.protocol;
}

#[inline(always)]
fn same_client(a: &Flow, b: &Flow) -> bool {
    a.client_port_be == b.client_port_be
        && a.called_port_be == b.called_port_be
        && same(&a.client, &b.client)
        && same(&a.called, &b.called)
}

#[inline(always)]
fn has_client_key(flow: &Flow, key: &FlowKey) -> bool {
    flow.client_port_be == key.source_port_be
        && flow.called_port_be == key.destination_port_be
        && flow.protocol == key.protocol
        && same(&flow.client, &key.source)
        && same(&flow.called, &key.destination)
}

#[inline(always)]
fn has_backend_key(flow: &Flow, key: &FlowKey) -> bool {
    flow.backend_port_be == key.source_port_be
        && flow.snat_port_be == key.destination_port_be
        && flow.protocol == key.protocol
        && same(&flow.backend, &key.source)
        && same(&flow.snat, &key.destination)
}

#[inline(always)]
fn same(a: &Address, b: &Address) -> bool {
    // SAFETY: the addresses of keys and flows lie at multiples of four.
    unsafe { address::same(a, b) }
}

const _: () = {
    assert!(size_of::<Flow>().is_multiple_of(size_of::<u64>()));
    assert!(align_of::<Flow>() >= align_of::<u64>());
};

/// Copies a record out of its map.
#[inline(always)]
fn copy(to: &mut Flow, from: *const Flow) {
    let (to, from) = ((&raw mut *to).cast::<u64>(), from.cast::<u64>());
    for at in 0..size_of::<Flow>() / size_of::<u64>() {
        // SAFETY: callers' `from` is from a lookup, so it is memory of its map until the program ends; `at` is in bounds.
        let word = unsafe { read_volatile(from.wrapping_add(at)) };
        // SAFETY: a word of a flow, of which any bits are one.
        unsafe { write_volatile(to.wrapping_add(at), word) };
    }
}

/// Copies the flow of a client's packets to `flow`; where its record is.
#[inline(always)]
pub fn of_client(key: &FlowKey, flow: &mut Flow) -> Option<*mut Flow> {
    for _ in 0..READS_MAX {
        let found = FLOWS.get_ptr_mut(key)?;
        copy(flow, found);
        if has_client_key(flow, key) {
            return Some(found);
        }
        count(Stat::ElementMoved);
    }
    None
}

/// Copies the flow of a backend's packets to `flow`; where its record is.
#[inline(always)]
pub fn of_backend(key: &FlowKey, flow: &mut Flow) -> Option<*mut Flow> {
    for _ in 0..READS_MAX {
        let found = NAT.get_ptr_mut(key)?;
        copy(flow, found);
        if has_backend_key(flow, key) {
            return Some(found);
        }
        count(Stat::ElementMoved);
    }
    None
}

/// What [`enter`] answers; plain numbers, because it is a call of its own.
pub const ENTERED: i32 = 0;
/// No source port was free among those tried.
pub const PORTS_EXHAUSTED: i32 = 1;
/// A map refused the entry.
pub const MAP_FULL: i32 = 2;

/// What the search for a source port found: nothing, one that was free and is taken, one whose flow may go.
const NONE: u32 = 0;
const FREE: u32 = 1;
const USED: u32 = 2;

/// Enters the flow in `scratch.flow`, whose client's side is `scratch.packet_key`. `snat_port_be` is the
/// port to try first; the one found is left in it. The order of ports depends on the flow alone, so a
/// flow whose client half was lost finds its old port. The longer it looks, the sooner a half-open flow gives
/// way to it; an established one never does.
#[inline(never)]
pub fn enter(scratch: &mut Scratch, first: u16, last: u16, now: u64) -> i32 {
    let Scratch {
        flow,
        taken,
        packet_key,
        other_key: key,
        ..
    } = scratch;
    write_backend_key(key, flow);
    let width = u32::from(last.saturating_sub(first)) + 1;
    let mut place = hash::flow(packet_key) % width;
    let mut found = NONE;
    for tries in 0..PORT_TRIES {
        if NAT.insert(&*key, &*flow, u64::from(BPF_NOEXIST)).is_ok() {
            found = FREE;
            break;
        }
        if of_backend(key, taken).is_none() {
            return MAP_FULL;
        }
        if same_client(taken, flow) || choose::gives_way(taken, tries, now) {
            found = USED;
            break;
        }
        place = (place + 1) % width;
        flow.snat_port_be = (first + place as u16).to_be();
        key.destination_port_be = flow.snat_port_be;
    }
    if found == NONE {
        return PORTS_EXHAUSTED;
    }
    // After the loop, where the kernel's verifier looks at it once.
    if found != FREE && !take_over(flow, taken, key) {
        return MAP_FULL;
    }
    if FLOWS
        .insert(&*packet_key, &*flow, u64::from(BPF_ANY))
        .is_err()
    {
        return MAP_FULL;
    }
    if flow.flags & FLOW_LOCAL != 0 {
        maps::mark(
            u32::from_ne_bytes(unmapped(&flow.backend)),
            flow.backend_port_be,
        );
    }
    ENTERED
}

/// Puts the flow in the place of `old`, whose client's half goes with it: a late packet of that client must not come back
/// into a port that is another's now. `key` is the backend side of both, before and after.
#[inline(always)]
fn take_over(flow: &Flow, old: &Flow, key: &mut FlowKey) -> bool {
    if !same_client(old, flow) {
        write_client_key(key, old);
        // An LRU may have taken it already.
        let _gone = FLOWS.remove(&*key);
        write_backend_key(key, flow);
    }
    NAT.insert(&*key, flow, u64::from(BPF_ANY)).is_ok()
}

/// Takes the flow in `scratch.flow` out.
#[inline(always)]
pub fn leave(scratch: &mut Scratch) {
    let Scratch {
        flow,
        other_key: key,
        ..
    } = scratch;
    // An LRU may have taken either half already.
    write_backend_key(key, flow);
    let _gone = NAT.remove(&*key);
    write_client_key(key, flow);
    let _gone = FLOWS.remove(&*key);
}

/// After a packet from the client: notes time and TCP flags in both halves, and makes the backend's half
/// again if it is lost. `flow` is a copy of the client's half, `own` is where that is.
#[inline(always)]
pub fn touch_from_client(
    own: *mut Flow,
    flow: &mut Flow,
    key: &mut FlowKey,
    tcp_flags: u8,
    now: u64,
) {
    write_backend_key(key, flow);
    let other = NAT.get_ptr_mut(&*key);
    let flags = choose::after_client(flow.flags, tcp_flags);
    if touch(own, other, flow, flags, now) == Half::Lost {
        rebuild(NAT.insert(&*key, &*flow, u64::from(BPF_ANY)));
    }
}

/// After a packet from the backend; the mirror image of [`touch_from_client`].
#[inline(always)]
pub fn touch_from_backend(
    own: *mut Flow,
    flow: &mut Flow,
    key: &mut FlowKey,
    tcp_flags: u8,
    now: u64,
) {
    write_client_key(key, flow);
    let other = FLOWS.get_ptr_mut(&*key);
    let flags = choose::after_backend(flow.flags, tcp_flags);
    if touch(own, other, flow, flags, now) == Half::Lost {
        rebuild(FLOWS.insert(&*key, &*flow, u64::from(BPF_ANY)));
    }
}

/// What a lookup of the other half found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    /// It, or another flow in its place.
    There,
    /// Nothing.
    Lost,
}

/// Writes flags and time where they are news. Flags are only ever added, and both halves get what either has: packets of
/// both directions are handled at the same time on two CPUs, and none of them may take the other's FIN away.
#[inline(always)]
fn touch(own: *mut Flow, other: Option<*mut Flow>, flow: &mut Flow, flags: u8, now: u64) -> Half {
    let mut merged = flags;
    let mut other_flags = flags;
    let mut other_seen = flow.last_seen_ns;
    let other = match other {
        None => None,
        Some(found) if is_of_client(found, flow) => {
            other_flags = field!(found, flags);
            other_seen = field!(found, last_seen_ns);
            merged |= other_flags;
            Some(found)
        }
        // Another flow has this port now.
        Some(_) => return Half::There,
    };
    let seen =
        if merged != flow.flags || now.wrapping_sub(flow.last_seen_ns) > choose::FLOW_TOUCH_NS {
            now
        } else {
            flow.last_seen_ns
        };
    if merged != flow.flags || seen != flow.last_seen_ns {
        write(own, merged, seen);
        flow.flags = merged;
        flow.last_seen_ns = seen;
    }
    let Some(other) = other else {
        return Half::Lost;
    };
    if merged != other_flags || seen != other_seen {
        write(other, merged, seen);
    }
    Half::There
}

/// Whether a record is of this client. Its ports and the last words of its addresses say so: an IPv4 address is no more.
#[inline(always)]
fn is_of_client(found: *const Flow, flow: &Flow) -> bool {
    // SAFETY: a field of the element that the lookup found, named and not read.
    let client = unsafe { &raw const (*found).client };
    // SAFETY: as above.
    let called = unsafe { &raw const (*found).called };
    field!(found, client_port_be) == flow.client_port_be
        && field!(found, called_port_be) == flow.called_port_be
        && v4(client) == unmapped(&flow.client)
        && v4(called) == unmapped(&flow.called)
}

#[inline(always)]
fn write(to: *mut Flow, flags: u8, seen: u64) {
    let flags = field!(to, flags) | flags;
    // SAFETY: `to` is from a lookup, so it is memory of its map until the program ends. Whose record it is was checked just
    // now; what becomes of a flow that has taken its place since is said at the top.
    let flags_there = unsafe { &raw mut (*to).flags };
    // SAFETY: as above.
    unsafe { write_volatile(flags_there, flags) };
    // SAFETY: as above.
    let seen_there = unsafe { &raw mut (*to).last_seen_ns };
    // SAFETY: as above.
    unsafe { write_volatile(seen_there, seen) };
}

#[inline(always)]
fn rebuild(inserted: Result<(), i32>) {
    match inserted {
        Ok(()) => count(Stat::FlowRebuilt),
        Err(_) => count(Stat::FlowInsertFailed),
    }
}
