// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which IPv6 sources never leave their link.
//!
//! Not here: reading a packet (`ebpf/src/packet.rs`). Called by the program of a pod's veth.

/// Whether an IPv6 source is one whose packets are never forwarded: link-local (RFC 4291, 2.5.6), or none yet. The four
/// words are as in the packet, in network byte order.
#[inline(always)]
pub fn stays_on_link(source_be: [u32; 4]) -> bool {
    const PREFIX_MASK: u32 = 0xffc0_0000_u32.to_be();
    const PREFIX: u32 = 0xfe80_0000_u32.to_be();
    source_be[0] & PREFIX_MASK == PREFIX || source_be == [0; 4]
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn words(text: &str) -> [u32; 4] {
        let address: Ipv6Addr = text.parse().expect("an address");
        let bytes = address.octets();
        std::array::from_fn(|n| {
            u32::from_ne_bytes([
                bytes[4 * n],
                bytes[4 * n + 1],
                bytes[4 * n + 2],
                bytes[4 * n + 3],
            ])
        })
    }

    #[test]
    fn link_local_and_unspecified_sources_stay_and_all_others_may_be_forwarded() {
        for stays in ["fe80::1", "fe80::ffff:1:2:3", "febf:ffff::1", "::"] {
            assert!(stays_on_link(words(stays)), "{stays}");
        }
        for leaves in [
            "fec0::1",
            "fe7f:ffff::1",
            "fd00::1",
            "2001:2::1",
            "::1",
            "::ffff:10.0.0.1",
            "ff02::1",
        ] {
            assert!(!stays_on_link(words(leaves)), "{leaves}");
        }
    }
}
