// SPDX-License-Identifier: Apache-2.0
//! Values of flags that are parsed into types that cannot be wrong: address ranges, port ranges, times.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// Why a flag's value cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError {
    /// No address range.
    #[error("{0:?} is not an address range such as 10.96.0.0/12")]
    Cidr(String),
    /// An address range with bits set behind its prefix.
    #[error("{0} has bits set behind its prefix: did you mean {1}?")]
    CidrHostBits(String, Cidr),
    /// An address range of IPv6.
    #[error("{0}: IPv6 ranges are not supported by this version")]
    Ipv6(String),
    /// No range of ports.
    #[error("{0:?} is not a range of ports such as 30000-32767")]
    Ports(String),
    /// No length of time.
    #[error("{0:?} is not a length of time such as 40s, 5m or 8760h")]
    Period(String),
}

/// An IPv4 range, e.g. `10.96.0.0/12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    /// The address `offset` after the first of the range; `None` beyond its end.
    #[must_use]
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(offset).ok()?;
        (u64::from(offset) < self.size()).then(|| Ipv4Addr::from_bits(self.network + offset))
    }

    /// How many addresses the range has.
    #[must_use]
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The length of the network prefix in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How far `address` is behind the first address; `None` if it is not in the range.
    #[must_use]
    pub fn offset(&self, address: IpAddr) -> Option<u64> {
        let IpAddr::V4(address) = address else {
            return None;
        };
        let offset = u64::from(address.to_bits().checked_sub(self.network)?);
        (offset < self.size()).then_some(offset)
    }

    /// Whether some address is in both ranges.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (longer, shorter) = if self.prefix >= other.prefix {
            (self, other)
        } else {
            (other, self)
        };
        shorter
            .offset(IpAddr::V4(Ipv4Addr::from_bits(longer.network)))
            .is_some()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Cidr(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address = match address.parse().map_err(|_| wrong())? {
            IpAddr::V4(address) => address,
            IpAddr::V6(_) => return Err(ValueError::Ipv6(text.to_owned())),
        };
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if prefix > 32 || prefix == 0 {
            return Err(wrong());
        }
        let network = address.to_bits() & (u32::MAX << (32 - prefix));
        let cidr = Self { network, prefix };
        if network != address.to_bits() {
            return Err(ValueError::CidrHostBits(text.to_owned(), cidr));
        }
        Ok(cidr)
    }
}

impl TryFrom<String> for Cidr {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

/// Ports, both ends included, e.g. `30000-32767`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The ports, both ends included.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for Ports {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Ports(text.to_owned());
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let first: u16 = first.trim().parse().map_err(|_| wrong())?;
        let last: u16 = last.trim().parse().map_err(|_| wrong())?;
        if first == 0 || first > last {
            return Err(wrong());
        }
        Ok(Self { first, last })
    }
}

impl TryFrom<String> for Ports {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}

/// A length of time as Go and Kubernetes write it: `40s`, `1h30m`, `500ms`, `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Period(text.to_owned());
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut rest = text;
        let mut total = Duration::ZERO;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let unit = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let milliseconds = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(wrong()),
            };
            let part = number.checked_mul(milliseconds).ok_or_else(wrong)?;
            total = total
                .checked_add(Duration::from_millis(part))
                .ok_or_else(wrong)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

impl TryFrom<String> for Period {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        text.parse()
    }
}
