// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packet program of the node's end of each pod's veth: what a pod sends has the pod's own address, or it is dropped.
//!
//! Reverse path filtering of the kernel would say the same, but its sysctl is not ours: systemd-udevd writes its own value
//! for every link that comes up, and the greater one of `all` and the link's holds. Attached by `knarr-datapath` when a
//! pod gets its network, and when a restarted agent adopts the pod.

use core::ptr::read_volatile;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use knarr_ebpf_common::Stat;
use knarr_ebpf_common::link_local::stays_on_link;

use crate::maps::{VETHS, count};
use crate::packet::{self, Source, TC_ACT_SHOT, TC_ACT_UNSPEC};
use crate::read::READS_MAX;

#[classifier]
pub fn knarr_pod(ctx: TcContext) -> i32 {
    let is_own = match packet::source(&ctx) {
        Source::V4(address) => is_address_of(&ctx, address),
        // Pods have no IPv6 addresses but those that the kernel never forwards.
        Source::V6(address) => stays_on_link(address),
        // It may be an IP packet with two VLAN tags: the kernel takes one off before this program and another one of id 0
        // after it, and then routes what is inside (`__netif_receive_skb_core`, net/core/dev.c). A pod has no use for
        // any other protocol, not even ARP, for both ends know their neighbour.
        Source::Unknown => false,
    };
    if is_own {
        return TC_ACT_UNSPEC;
    }
    count(Stat::SourceSpoofed);
    TC_ACT_SHOT
}

/// Whether the address is that of the pod behind this link. A link that is not known has no pod.
#[inline(always)]
fn is_address_of(ctx: &TcContext, address: u32) -> bool {
    // SAFETY: the context is valid while the program runs.
    let link = unsafe { (*ctx.skb.skb).ifindex };
    for _ in 0..READS_MAX {
        let Some(found) = VETHS.get_ptr(link) else {
            continue;
        };
        // SAFETY: the memory stays the map's until the program ends, and a word is read whole. It may be another link's by
        // now; then it is not the address, and is looked up again.
        if unsafe { read_volatile(found) } == address {
            return true;
        }
    }
    false
}
