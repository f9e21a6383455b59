// SPDX-License-Identifier: Apache-2.0
//! The virtual machines by name and address. Called by what makes their disk and by what starts them.

use std::net::Ipv4Addr;

/// The machine with the control plane, which is a node too.
pub const FIRST: &str = "first";
/// The machine that joins it.
pub const SECOND: &str = "second";
/// Every machine that there can be.
pub const NAMES: [&str; 2] = [FIRST, SECOND];
/// No machine has this address. A default route is what a stock machine has, and the agent finds its link by it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 1);

/// The address of a machine, from the range for benchmarks.
pub fn address(name: &str) -> Ipv4Addr {
    match name {
        FIRST => Ipv4Addr::new(198, 18, 9, 2),
        _ => Ipv4Addr::new(198, 18, 9, 3),
    }
}
