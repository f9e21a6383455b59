// SPDX-License-Identifier: Apache-2.0
//! The keys by which the store says whose an address or a port is.
//!
//! `/registry/ranges/serviceips/10.96.0.5` and `/registry/ranges/servicenodeports/30000` hold `NAMESPACE/NAME` of the
//! Service. They are no objects of the API.

use std::net::IpAddr;

/// Where the keys are.
pub(crate) const PREFIX: &str = "/registry/ranges/";
const ADDRESSES: &str = "/registry/ranges/serviceips/";
const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Between two owners; no name has it.
const SEPARATOR: char = ',';

/// What is given to one Service only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Item {
    /// A cluster IP.
    Address(IpAddr),
    /// A node port.
    Port(u16),
}

impl Item {
    pub(super) fn key(self) -> String {
        match self {
            Self::Address(address) => format!("{ADDRESSES}{address}"),
            Self::Port(port) => format!("{PORTS}{port}"),
        }
    }

    /// `None` for a key that this program does not write.
    pub(super) fn of_key(key: &[u8]) -> Option<Self> {
        let key = std::str::from_utf8(key).ok()?;
        if let Some(address) = key.strip_prefix(ADDRESSES) {
            return address.parse().ok().map(Self::Address);
        }
        let port = key.strip_prefix(PORTS)?;
        port.parse().ok().map(Self::Port)
    }
}

/// The Services that hold an item. Every write sees to it that there is one; an earlier version, or a write past the
/// API, may have left two with the same, and then what one of them gives back stays the other's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owners(Box<str>);

impl Owners {
    pub(super) fn one(owner: &str) -> Self {
        Self(owner.into())
    }

    /// What is no text has no owner that could give it back.
    pub(super) fn parse(value: &[u8]) -> Self {
        Self(std::str::from_utf8(value).unwrap_or_default().into())
    }

    pub(super) fn to_value(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(SEPARATOR).filter(|owner| !owner.is_empty())
    }

    pub(super) fn has(&self, owner: &str) -> bool {
        self.iter().any(|found| found == owner)
    }

    /// The owners and one more.
    pub(super) fn with(&self, owner: &str) -> Self {
        Self::of(self.iter().chain([owner]))
    }

    /// The other owners; `None` where there is none.
    pub(super) fn without(&self, owner: &str) -> Option<Self> {
        let left = Self::of(self.iter().filter(|found| *found != owner));
        (!left.0.is_empty()).then_some(left)
    }

    fn of<'a>(owners: impl Iterator<Item = &'a str>) -> Self {
        let all: Vec<&str> = owners.collect();
        Self(all.join(&SEPARATOR.to_string()).into())
    }
}
