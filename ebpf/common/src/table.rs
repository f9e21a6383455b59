// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Consistent hash tables after the Maglev paper (Eisenbud et al., NSDI 2016, section 3.4), over a power
//! of two instead of a prime: an odd step visits every place of such a table just as well.
//!
//! Pure; built by the planner from endpoint addresses, so every node builds the same table.

use crate::hash;
use crate::types::{Address, TABLE_CHUNK};

/// Places per backend that the table aims at; the busiest backend then has about 1 % more than the least.
const PLACES_PER_BACKEND: usize = 100;

/// The largest table: 65,536 places are 1,024 chunks, written in about a millisecond.
const LEN_MAX: usize = 1 << 16;

/// An endpoint that takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Address of the endpoint; with the port its identity on every node.
    pub address: Address,
    /// Port, network order.
    pub port_be: u16,
    /// The id that this node gave it; what the table holds.
    pub backend: u32,
}

/// Number of places for so many members: 0 for none.
pub fn len_for(members: usize) -> usize {
    match members {
        0 => 0,
        1 => TABLE_CHUNK,
        n => (n * PLACES_PER_BACKEND)
            .next_power_of_two()
            .clamp(TABLE_CHUNK, LEN_MAX),
    }
}

/// Fills a table: backend ids by place. The order of `members` does not matter.
pub fn build(members: &[Member]) -> Vec<u32> {
    let len = len_for(members.len());
    if len == 0 {
        return Vec::new();
    }
    if let [only] = members {
        return vec![only.backend; len];
    }
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by_key(|member| (member.address, member.port_be.swap_bytes()));
    let mask = len - 1;
    let mut next: Vec<(usize, usize)> = sorted
        .iter()
        .map(|member| {
            let offset = hash::endpoint(1, &member.address, member.port_be) as usize & mask;
            let step = (hash::endpoint(2, &member.address, member.port_be) as usize & mask) | 1;
            (offset, step)
        })
        .collect();
    let mut places: Vec<Option<u32>> = vec![None; len];
    let mut filled = 0;
    'fill: loop {
        for (member, (place, step)) in sorted.iter().zip(next.iter_mut()) {
            while places[*place].is_some() {
                *place = (*place + *step) & mask;
            }
            places[*place] = Some(member.backend);
            filled += 1;
            if filled == len {
                break 'fill;
            }
        }
    }
    places.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
