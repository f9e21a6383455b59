// SPDX-License-Identifier: Apache-2.0
//! Ranges of addresses, as arithmetic on any address family.
//!
//! The one such type of the control plane: flags are parsed into it, nodes get their pod ranges
//! ([`crate::pod_cidr`]) and Services their addresses ([`crate::service_addresses`]) from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A range of addresses such as `10.96.0.0/12`; no bit behind the prefix is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCidrError {
    /// It is something else.
    #[error("{0:?} is not a range of addresses like 10.96.0.0/12")]
    Malformed(String),
    /// It has bits set behind its prefix.
    #[error("{text} has bits set behind its prefix: did you mean {range}?")]
    HostBits {
        /// The text.
        text: String,
        /// The range that the address is in.
        range: Cidr,
    },
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (u32::from(ip).into(), 32),
        IpAddr::V6(ip) => (ip.into(), 128),
    }
}

/// How many addresses share a prefix; saturates for `::/0`.
fn size(width: u8, prefix: u8) -> u128 {
    1u128
        .checked_shl(u32::from(width.saturating_sub(prefix)))
        .unwrap_or(u128::MAX)
}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseCidrError::Malformed(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        // Rust reads a sign, which nobody writes here.
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        let range = Self::around(ip, prefix)
            .filter(|_| digits)
            .ok_or_else(bad)?;
        if range.first != ip {
            let text = text.to_owned();
            return Err(ParseCidrError::HostBits { text, range });
        }
        Ok(range)
    }
}

impl TryFrom<String> for Cidr {
    type Error = ParseCidrError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Cidr {
    /// The range of `prefix` bits that an address is in; `None` for a prefix longer than the address.
    pub fn around(ip: IpAddr, prefix: u8) -> Option<Self> {
        let (value, width) = bits(ip);
        let host = u32::from(width.checked_sub(prefix)?);
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        let first = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(value & mask).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value & mask)),
        };
        Some(Self { first, prefix })
    }

    /// Reads what somebody else wrote into an object: bits behind the prefix do not matter there.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseCidrError> {
        match text.parse() {
            Err(ParseCidrError::HostBits { range, .. }) => Ok(range),
            result => result,
        }
    }

    /// The first address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// Length of the prefix in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Number of addresses; saturates.
    pub fn size(&self) -> u128 {
        let (_, width) = bits(self.first);
        size(width, self.prefix)
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

    /// Whether some address is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.offset_of(other.first).is_some() || other.offset_of(self.first).is_some()
    }

    /// The range of `prefix` bits at this position inside the range; `None` beyond it.
    pub fn subnet(&self, index: u128, prefix: u8) -> Option<Self> {
        let (_, width) = bits(self.first);
        if prefix < self.prefix || prefix > width {
            return None;
        }
        let first = self.at(index.checked_mul(size(width, prefix))?)?;
        Some(Self { first, prefix })
    }

    /// The positions, among ranges of `prefix` bits inside this one, that `other` covers wholly or in part;
    /// empty when it lies outside.
    pub fn positions(&self, other: &Self, prefix: u8) -> std::ops::Range<u128> {
        let (_, width) = bits(self.first);
        let step = size(width, prefix);
        let (offset, end) = match self.offset_of(other.first) {
            Some(offset) => (offset, offset.saturating_add(other.size()).min(self.size())),
            // It begins before this range and may still cover it.
            None if other.offset_of(self.first).is_some() => (0, self.size()),
            None => return 0..0,
        };
        offset / step..end.div_ceil(step)
    }
}

#[cfg(test)]
mod tests;
