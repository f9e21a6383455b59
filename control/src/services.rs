// SPDX-License-Identifier: Apache-2.0
//! Which addresses and ports Services get: ranges and chance. What is taken the API server knows.
//!
//! Implements a trait of `knarr_apiserver::ApiConfig`; wired by `lib.rs`.

use std::net::IpAddr;

use knarr_apiserver::ServiceAllocator;
use rand::Rng;

use crate::config::{Cidr, Ports};

/// Addresses at the start of the range are given out last, so that people can choose among them; at
/// least and at most so many (KEP-3070).
const STATIC_ADDRESSES: (u64, u64) = (16, 256);
/// The same for node ports (KEP-3668).
const STATIC_PORTS: (u64, u64) = (16, 128);

/// Gives out cluster IPs and node ports from the configured ranges.
#[derive(Debug, Clone, Copy)]
pub struct ServiceRanges {
    /// Cluster IPs.
    pub addresses: Cidr,
    /// Node ports.
    pub ports: Ports,
}

impl ServiceRanges {
    /// The offsets of addresses that can be given out: neither the first nor the last of the range.
    fn offsets(&self) -> std::ops::Range<u64> {
        1..self.addresses.size() - 1
    }
}

impl ServiceAllocator for ServiceRanges {
    fn check_cluster_ip(&self, address: IpAddr) -> Result<(), String> {
        let offset = self.addresses.offset(address);
        if offset.is_some_and(|offset| self.offsets().contains(&offset)) {
            return Ok(());
        }
        let range = self.addresses;
        Err(format!(
            "failed to allocate IP {address}: the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}"
        ))
    }

    fn next_cluster_ip(&self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let address = |offset| self.addresses.nth(offset).map(IpAddr::V4);
        let free = |offset: u64| address(offset).is_some_and(|address| !taken(address));
        let low = static_share(self.addresses.size() / 16, STATIC_ADDRESSES);
        pick(self.offsets(), low, rand::rng().random(), &free).and_then(address)
    }

    fn check_node_port(&self, port: u16) -> Result<(), String> {
        if self.ports.range().contains(&port) {
            return Ok(());
        }
        Err(format!(
            "provided port is not in the valid range. The range of valid ports is {}",
            self.ports
        ))
    }

    fn next_node_port(&self, taken: &dyn Fn(u16) -> bool) -> Option<u16> {
        let range = self.ports.range();
        let (first, last) = (u64::from(*range.start()), u64::from(*range.end()));
        let port = |offset: u64| u16::try_from(first + offset).ok();
        let free = |offset: u64| port(offset).is_some_and(|port| !taken(port));
        let size = last - first + 1;
        let low = static_share(size / 32, STATIC_PORTS);
        pick(0..size, low, rand::rng().random(), &free).and_then(port)
    }
}

fn static_share(share: u64, (min, max): (u64, u64)) -> u64 {
    share.clamp(min, max)
}

/// A free offset: from `low` on if there is one, else below it; where to start looking is up to `random`.
fn pick(
    offsets: std::ops::Range<u64>,
    low: u64,
    random: u64,
    free: &dyn Fn(u64) -> bool,
) -> Option<u64> {
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
            let start = random % size;
            (0..size)
                .map(|step| band.start + (start + step) % size)
                .find(|offset| free(*offset))
        })
}

#[cfg(test)]
mod tests;
