// SPDX-License-Identifier: Apache-2.0
//! Ranges of addresses, as arithmetic on any address family.
//!
//! Used to give each node its pod range ([`crate::pod_cidr`]).

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

#[cfg(test)]
mod tests;
