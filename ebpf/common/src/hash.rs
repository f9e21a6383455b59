// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The hash that spreads clients over consistent hash tables. Every node has to come to the same answer
//! for the same client, so there is no seed and the input is bytes in network order.
//!
//! Called by the kernel programs for each new flow and by `service trace` to foretell their choice.

use crate::types::{Address, FlowKey, MARK_CHUNK, MARK_CHUNKS};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes one word into a state; a multiply and a shift, cheap on the BPF machine.
#[inline(always)]
pub const fn mix(state: u64, word: u64) -> u64 {
    let folded = (state ^ word).wrapping_mul(PRIME);
    folded ^ (folded >> 29)
}

/// Spreads the state over all bits at the end.
#[inline(always)]
pub const fn finish(state: u64) -> u32 {
    let mut x = state;
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^= x >> 33;
    (x >> 16) as u32
}

#[inline(always)]
const fn halves(address: &Address) -> (u64, u64) {
    let a = address;
    (
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

/// Hash of a client by its address alone: what affinity starts from, on every node and on every path.
#[inline(always)]
pub const fn client(address: &Address) -> u32 {
    let (high, low) = halves(address);
    finish(mix(mix(OFFSET, high), low))
}

/// Hash of a flow from outside by client address and port and by the port called. The address called is
/// left out, so a client that is moved to another node's address keeps its backend.
#[inline(always)]
pub const fn flow(key: &FlowKey) -> u32 {
    let (high, low) = halves(&key.source);
    let ports = ((key.source_port_be.swap_bytes() as u64) << 32)
        | ((key.destination_port_be.swap_bytes() as u64) << 8)
        | key.protocol as u64;
    finish(mix(mix(mix(OFFSET, high), low), ports))
}

/// Place of an endpoint of this node in `MARKS`: `(chunk, index in the chunk)`. Address and port as they stand
/// in a packet.
#[inline(always)]
pub const fn mark(address: u32, port_be: u16) -> (u32, usize) {
    let hash = finish(mix(OFFSET, ((address as u64) << 16) | port_be as u64));
    let place = hash as usize % (MARK_CHUNK * MARK_CHUNKS as usize);
    ((place / MARK_CHUNK) as u32, place % MARK_CHUNK)
}

/// Hash of an endpoint with a seed, for the order in which it takes places of a table.
#[inline(always)]
pub const fn endpoint(seed: u64, address: &Address, port_be: u16) -> u32 {
    let (high, low) = halves(address);
    finish(mix(
        mix(mix(mix(OFFSET, seed), high), low),
        port_be.swap_bytes() as u64,
    ))
}
