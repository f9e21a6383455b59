// SPDX-License-Identifier: Apache-2.0
//! Which addresses and ports Services get.
//!
//! What is taken, and a random number, are arguments: the API server has the one, its caller makes the other.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

use crate::cidr::Cidr;

/// Addresses at the start of the range are given out last, so that people can choose among them; at
/// least and at most so many (KEP-3070).
const STATIC_ADDRESSES: (u128, u128) = (16, 256);
/// The same for node ports (KEP-3668).
const STATIC_PORTS: (u128, u128) = (16, 128);

/// Why a client's choice is refused, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// A cluster IP.
    #[error(
        "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
    )]
    Address {
        /// The choice.
        address: IpAddr,
        /// What could be chosen from.
        range: Cidr,
    },
    /// A node port.
    #[error("provided port is not in the valid range. The range of valid ports is {first}-{last}")]
    Port {
        /// The first port that could be chosen.
        first: u16,
        /// The last one.
        last: u16,
    },
}

/// Whether a Service may have this address: neither the first nor the last of the range.
pub fn check_cluster_ip(range: &Cidr, address: IpAddr) -> Result<(), OutOfRange> {
    let offset = range.offset_of(address);
    if offset.is_some_and(|offset| offsets(range).contains(&offset)) {
        return Ok(());
    }
    let range = *range;
    Err(OutOfRange::Address { address, range })
}

/// An address that is not `taken`; `None` when all are. Where the search starts is up to `random`.
pub fn plan_cluster_ip(
    range: &Cidr,
    random: u128,
    taken: &dyn Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let free = |offset| range.at(offset).is_some_and(|address| !taken(address));
    let low = static_share(range.size() / 16, STATIC_ADDRESSES);
    pick(offsets(range), low, random, &free).and_then(|offset| range.at(offset))
}

/// Whether a Service may have this node port.
pub fn check_node_port(ports: &RangeInclusive<u16>, port: u16) -> Result<(), OutOfRange> {
    if ports.contains(&port) {
        return Ok(());
    }
    let (first, last) = (*ports.start(), *ports.end());
    Err(OutOfRange::Port { first, last })
}

/// A node port that is not `taken`; `None` when all are. Where the search starts is up to `random`.
pub fn plan_node_port(
    ports: &RangeInclusive<u16>,
    random: u128,
    taken: &dyn Fn(u16) -> bool,
) -> Option<u16> {
    let (first, last) = (u128::from(*ports.start()), u128::from(*ports.end()));
    let port = |offset: u128| u16::try_from(first + offset).ok();
    let free = |offset| port(offset).is_some_and(|port| !taken(port));
    let size = (last + 1).saturating_sub(first);
    let low = static_share(size / 32, STATIC_PORTS);
    pick(0..size, low, random, &free).and_then(port)
}

fn offsets(range: &Cidr) -> Range<u128> {
    // A range of one address has none to give.
    1..range.size().saturating_sub(1)
}

fn static_share(share: u128, (min, max): (u128, u128)) -> u128 {
    share.clamp(min, max)
}

/// A free offset: from `low` on if there is one, else below it; where to start looking is up to `random`.
fn pick(
    offsets: Range<u128>,
    low: u128,
    random: u128,
    free: &dyn Fn(u128) -> bool,
) -> Option<u128> {
    // A range too small for a lower band has none.
    let middle = if low + offsets.start < offsets.end {
        offsets.start.max(low)
    } else {
        offsets.start
    };
    [middle..offsets.end, offsets.start..middle]
        .into_iter()
        .filter(|band| !band.is_empty())
        .find_map(|band| {
            let size = band.end - band.start;
            let start = band.start + random % size;
            (start..band.end)
                .chain(band.start..start)
                .find(|offset| free(*offset))
        })
}

#[cfg(test)]
mod tests;
