// SPDX-License-Identifier: Apache-2.0
//! Addresses and ports for Services: which ones there are, and which to give next.
//!
//! What is taken the API server knows, from the Services themselves; so nothing is given twice after a
//! crash. The upper part of each range is given out first, so that people can choose from the lower one with
//! little risk (Kubernetes KEP-3070 and KEP-3668). Messages are those of kube-apiserver v1.37.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses such as `10.96.0.0/12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a range of addresses like 10.96.0.0/12")]
pub struct ParseCidrError {
    text: String,
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (ip.into(), 128),
    }
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseCidrError {
            text: text.to_owned(),
        };
        let (ip, prefix) = text.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let (value, width) = bits(ip);
        if prefix > width {
            return Err(bad());
        }
        let host = u32::from(width - prefix);
        let base = if host >= 128 {
            0
        } else {
            value >> host << host
        };
        let first = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(base).map_err(|_| bad())?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(base)),
        };
        Ok(Self { first, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Cidr {
    /// Length of the prefix in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Number of addresses; saturates.
    pub fn size(&self) -> u128 {
        let (_, width) = bits(self.first);
        1u128
            .checked_shl(u32::from(width - self.prefix))
            .unwrap_or(u128::MAX)
    }

    /// The address at a distance from the first; `None` beyond the range.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        let (value, _) = bits(self.first);
        Some(match self.first {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(value + offset).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value + offset)),
        })
    }

    /// Distance of an address from the first; `None` for one outside.
    pub fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        let ((value, width), (first, own)) = (bits(ip), bits(self.first));
        let offset = value.checked_sub(first)?;
        (width == own && offset < self.size()).then_some(offset)
    }

    /// The range of `prefix` bits at this position inside the range; `None` beyond it.
    pub fn subnet(&self, index: u128, prefix: u8) -> Option<Self> {
        let (_, width) = bits(self.first);
        if prefix < self.prefix || prefix > width {
            return None;
        }
        let step = 1u128.checked_shl(u32::from(width - prefix))?;
        Some(Self {
            first: self.at(index.checked_mul(step)?)?,
            prefix,
        })
    }

    /// The positions, among ranges of `prefix` bits inside this one, that `other` covers wholly or in part;
    /// empty when it lies outside.
    pub fn positions(&self, other: &Self, prefix: u8) -> std::ops::Range<u128> {
        let (_, width) = bits(self.first);
        let Some(offset) = self.offset_of(other.first) else {
            return 0..0;
        };
        let step = 1u128
            .checked_shl(u32::from(width.saturating_sub(prefix)))
            .unwrap_or(u128::MAX);
        let end = offset.saturating_add(other.size()).min(self.size());
        offset / step..end.div_ceil(step)
    }
}

/// The ranges of a cluster's Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRanges {
    addresses: Cidr,
    port_first: u16,
    port_last: u16,
}

/// A range of ports that is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the node port range {first}-{last} holds no port")]
pub struct EmptyPortRange {
    first: u16,
    last: u16,
}

impl ServiceRanges {
    /// Both ends of the port range belong to it.
    pub fn new(addresses: Cidr, port_first: u16, port_last: u16) -> Result<Self, EmptyPortRange> {
        if port_first == 0 || port_first > port_last {
            return Err(EmptyPortRange {
                first: port_first,
                last: port_last,
            });
        }
        Ok(Self {
            addresses,
            port_first,
            port_last,
        })
    }

    /// The address of the `kubernetes` Service: the first that can be given.
    pub fn api_address(&self) -> Option<IpAddr> {
        self.addresses.at(1)
    }

    /// First and last distance that can be given: neither the network's own address nor, in IPv4, the
    /// broadcast address.
    fn usable(&self) -> Option<(u128, u128)> {
        let size = self.addresses.size();
        let last = if self.addresses.first.is_ipv4() {
            size.checked_sub(2)?
        } else {
            size - 1
        };
        (last >= 1).then_some((1, last))
    }

    /// Whether a client may ask for this address; the message says why not.
    pub fn check_address(&self, ip: IpAddr) -> Result<(), String> {
        let offset = self.addresses.offset_of(ip);
        let usable = self.usable();
        if offset.is_some_and(|o| usable.is_some_and(|(first, last)| o >= first && o <= last)) {
            return Ok(());
        }
        Err(format!(
            "failed to allocate IP {ip}: the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
            self.addresses
        ))
    }

    /// An address that `taken` denies, the upper band first; `None` when all are taken. `seed` decides where
    /// the search starts.
    pub fn next_address(&self, seed: u64, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let (first, last) = self.usable()?;
        let band = (self.addresses.size() / 16).clamp(16, 256);
        let bands = [
            (first + band.min(last + 1 - first), last),
            (first, last.min(first + band - 1)),
        ];
        bands.into_iter().find_map(|(low, high)| {
            let mut offsets = search(low, high, seed.into());
            offsets.find_map(|offset| self.addresses.at(offset).filter(|ip| !taken(*ip)))
        })
    }

    /// Whether a client may ask for this node port; the message says why not.
    pub fn check_port(&self, port: u16) -> Result<(), String> {
        if (self.port_first..=self.port_last).contains(&port) {
            return Ok(());
        }
        Err(format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            self.port_first, self.port_last
        ))
    }

    /// A node port that `taken` denies, the upper band first; `None` when all are taken.
    pub fn next_port(&self, seed: u64, taken: &dyn Fn(u16) -> bool) -> Option<u16> {
        let (first, last) = (u128::from(self.port_first), u128::from(self.port_last));
        let size = last - first + 1;
        // Small ranges have no lower band.
        let band = if size < 16 {
            0
        } else {
            (size / 32).clamp(16, 128).min(size)
        };
        let bands = [
            (first + band, last),
            (first, last.min(first + band.max(1) - 1)),
        ];
        bands.into_iter().find_map(|(low, high)| {
            search(low, high, seed.into())
                .filter_map(|port| u16::try_from(port).ok())
                .find(|port| !taken(*port))
        })
    }
}

/// Every number from `low` to `high` once, starting somewhere and wrapping around.
fn search(low: u128, high: u128, seed: u128) -> impl Iterator<Item = u128> {
    let count = (high + 1).saturating_sub(low);
    let start = if count == 0 { 0 } else { seed % count };
    (0..count).map(move |step| low + (start + step) % count)
}

#[cfg(test)]
mod tests;
