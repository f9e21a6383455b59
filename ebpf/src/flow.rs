// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Connection tracking of our own: `FLOWS` finds a flow by the client's packets, `NAT` by the backend's.
//! Both hold the same whole record, so whichever half an LRU lost is written again from the other.
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is moved into a map call is copied to the stack, which is 512 bytes"
)]

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use knarr_ebpf_common::{FLOW_LOCAL, Flow, FlowKey, Stat, choose, hash, unmapped};

use crate::address;
use crate::maps::{self, FLOWS, NAT, Scratch, count};

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
    a.client == b.client
        && a.client_port_be == b.client_port_be
        && a.called == b.called
        && a.called_port_be == b.called_port_be
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
        packet_key,
        other_key: key,
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
        // SAFETY: the entry is read at once; if it changes meanwhile the insertion below decides anew.
        let Some(taken) = (unsafe { NAT.get(&*key) }) else {
            return MAP_FULL;
        };
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
    if found != FREE && !take_over(flow, key) {
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

/// Puts the flow in the place of another one, whose client's half goes with it: a late packet of that client
/// must not come back into a port that is another's now. `key` is the flow's backend side, before and after.
#[inline(always)]
fn take_over(flow: &Flow, key: &mut FlowKey) -> bool {
    // SAFETY: the entry is read at once; what changes in it meanwhile is another flow's end.
    if let Some(old) = unsafe { NAT.get(&*key) }
        && !same_client(old, flow)
    {
        write_client_key(key, old);
        // An LRU may have taken it already.
        let _gone = FLOWS.remove(&*key);
        write_backend_key(key, flow);
    }
    NAT.insert(&*key, flow, u64::from(BPF_ANY)).is_ok()
}

/// Takes a flow out, whose client's side is `scratch.packet_key`.
#[inline(always)]
pub fn leave(flow: &Flow, scratch: &mut Scratch) {
    write_backend_key(&mut scratch.other_key, flow);
    // An LRU may have taken either half already.
    let _gone = NAT.remove(&scratch.other_key);
    let _gone = FLOWS.remove(&scratch.packet_key);
}

/// After a packet from the client: notes time and TCP flags in both halves, and makes the backend's half
/// again if it is lost.
#[inline(always)]
pub fn touch_from_client(flow: &mut Flow, key: &mut FlowKey, tcp_flags: u8, now: u64) {
    note(flow, choose::after_client(flow.flags, tcp_flags), now);
    write_backend_key(key, flow);
    match NAT.get_ptr_mut(&*key) {
        // SAFETY: the element may be given to another flow meanwhile; a wrong time or flag there makes that
        // flow's port free a little sooner or later, and its own next packet puts both right.
        Some(other) => mirror(unsafe { &mut *other }, flow),
        None => rebuild(NAT.insert(&*key, &*flow, u64::from(BPF_ANY))),
    }
}

/// After a packet from the backend; the mirror image of [`touch_from_client`].
#[inline(always)]
pub fn touch_from_backend(flow: &mut Flow, key: &mut FlowKey, tcp_flags: u8, now: u64) {
    note(flow, choose::after_backend(flow.flags, tcp_flags), now);
    write_client_key(key, flow);
    match FLOWS.get_ptr_mut(&*key) {
        // SAFETY: the element may be given to another flow meanwhile, and that does no harm: see `touch_from_client`.
        Some(other) => mirror(unsafe { &mut *other }, flow),
        None => rebuild(FLOWS.insert(&*key, &*flow, u64::from(BPF_ANY))),
    }
}

#[inline(always)]
fn note(flow: &mut Flow, flags: u8, now: u64) {
    if flow.flags != flags || now.wrapping_sub(flow.last_seen_ns) > choose::FLOW_TOUCH_NS {
        flow.flags = flags;
        flow.last_seen_ns = now;
    }
}

#[inline(always)]
fn mirror(other: &mut Flow, flow: &Flow) {
    if other.flags != flow.flags || other.last_seen_ns != flow.last_seen_ns {
        other.flags = flow.flags;
        other.last_seen_ns = flow.last_seen_ns;
    }
}

#[inline(always)]
fn rebuild(inserted: Result<(), i32>) {
    match inserted {
        Ok(()) => count(Stat::FlowRebuilt),
        Err(_) => count(Stat::FlowInsertFailed),
    }
}
