// SPDX-License-Identifier: Apache-2.0
//! Addresses of the maps as the standard library's types. Called by everything that shows a map to people.

use std::net::Ipv4Addr;

use knarr_ebpf_common::{Address, unmapped};

/// The IPv4 address in a map's address.
pub fn v4(address: &Address) -> Ipv4Addr {
    Ipv4Addr::from(unmapped(address))
}
