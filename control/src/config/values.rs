// SPDX-License-Identifier: Apache-2.0
//! Values of flags that are parsed into types that cannot be wrong: port ranges, sizes, times. Ranges of addresses are
//! `knarr_control_plan::cidr`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use knarr_api::quantity::Quantity;
use serde::Deserialize;

/// Why a flag's value cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueError {
    /// No range of ports.
    #[error("{0:?} is not a range of ports such as 30000-32767")]
    Ports(String),
    /// No amount of bytes.
    #[error("{0:?} is not an amount of bytes such as 256Mi or 1Gi")]
    Size(String),
    /// No length of time.
    #[error("{0:?} is not a length of time such as 40s, 5m or 8760h")]
    Period(String),
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

/// An amount of bytes as Kubernetes writes quantities: `256Mi`, `1Gi`, `1000000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::Size(text.to_owned());
        let quantity: Quantity = text.parse().map_err(|_| wrong())?;
        u64::try_from(quantity.value())
            .map(Self)
            .map_err(|_| wrong())
    }
}

impl TryFrom<String> for Size {
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
