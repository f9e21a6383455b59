// SPDX-License-Identifier: Apache-2.0
//! Ranges of addresses, as arithmetic on any address family.
//!
//! The one such type of the control plane, over `ipnet`'s: flags are parsed into it, nodes get their pod ranges
//! ([`crate::pod_cidr`]) and Services their addresses ([`crate::service_addresses`]) from it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

/// A range of addresses such as `10.96.0.0/12`; no bit behind the prefix is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr(IpNet);

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
        let Ok(read) = text.parse::<IpNet>() else {
            return Err(ParseCidrError::Malformed(text.to_owned()));
        };
        let range = Self(read.trunc());
        if range.0 != read {
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
        self.0.fmt(f)
    }
}

impl Cidr {
    /// Reads the text of an object, which another program wrote: bits behind the prefix are ignored.
    pub fn parse_lenient(text: &str) -> Result<Self, ParseCidrError> {
        match text.parse() {
            Err(ParseCidrError::HostBits { range, .. }) => Ok(range),
            result => result,
        }
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        self.0.addr()
    }

    /// Length of the prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Number of addresses; saturates.
    pub fn size(&self) -> u128 {
        size(self.0.max_prefix_len(), self.prefix())
    }

    /// The address at a distance from the first; `None` beyond the range.
    pub fn at(&self, offset: u128) -> Option<IpAddr> {
        if offset >= self.size() {
            return None;
        }
        let (value, _) = bits(self.first());
        Some(match self.first() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(value + offset).ok()?)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value + offset)),
        })
    }

    /// Distance of an address from the first; `None` for one outside.
    pub fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        let ((value, width), (first, own)) = (bits(ip), bits(self.first()));
        let offset = value.checked_sub(first)?;
        (width == own && offset < self.size()).then_some(offset)
    }

    /// Whether some address is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0) || other.0.contains(&self.0)
    }

    /// The range of `prefix` bits at this position inside the range; `None` beyond it.
    pub fn subnet(&self, index: u128, prefix: u8) -> Option<Self> {
        let width = self.0.max_prefix_len();
        if prefix < self.prefix() || prefix > width {
            return None;
        }
        let first = self.at(index.checked_mul(size(width, prefix))?)?;
        IpNet::new(first, prefix).ok().map(Self)
    }

    /// The positions, among ranges of `prefix` bits inside this one, that `other` covers wholly or in part;
    /// empty when it lies outside.
    pub fn positions(&self, other: &Self, prefix: u8) -> std::ops::Range<u128> {
        let step = size(self.0.max_prefix_len(), prefix);
        let (offset, end) = match self.offset_of(other.first()) {
            Some(offset) => (offset, offset.saturating_add(other.size()).min(self.size())),
            // It begins before this range and may still cover it.
            None if other.0.contains(&self.0) => (0, self.size()),
            None => return 0..0,
        };
        offset / step..end.div_ceil(step)
    }
}

#[cfg(test)]
mod tests;
