// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Decisions of the kernel programs that need no helper: which slots may be used, whether an affinity
//! entry still holds, what a TCP packet does to a flow, how long an idle flow lives.
//!
//! The programs call these between map lookups; `service trace` calls the same functions, so what it
//! explains is what happens.

use crate::types::{
    AffinityEntry, BACKEND_ACTIVE, BACKEND_LOCAL, BACKEND_TERMINATING, BackendEntry, Config,
    FLOW_ANSWERED, FLOW_ESTABLISHED, FLOW_FIN_BACKEND, FLOW_FIN_CLIENT, FLOW_RESET, Flow,
    PROTOCOL_TCP, PROTOCOL_UDP, SERVICE_LOCAL_ONLY, ServiceEntry, TABLE_CHUNK,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// An idle UDP flow is forgotten after this long: Linux' `nf_conntrack_udp_timeout_stream`, which
/// kube-proxy users are used to.
pub const UDP_FLOW_IDLE_NS: u64 = 120 * NANOS_PER_SECOND;

/// How long the source port of a closed flow is left alone: Linux' TIME_WAIT.
pub const CLOSED_FLOW_REST_NS: u64 = 60 * NANOS_PER_SECOND;

/// How long a connection that was never established is waited for: Linux' `nf_conntrack_tcp_timeout_syn_recv`.
pub const HALF_OPEN_FLOW_IDLE_NS: u64 = 60 * NANOS_PER_SECOND;

/// How long where source ports are short: the first three tries of a SYN are over by then.
pub const HALF_OPEN_FLOW_SHORT_NS: u64 = 5 * NANOS_PER_SECOND;

/// Ports tried in vain after which they count as short.
pub const TRIES_BEFORE_SHORT: u32 = 8;

/// An established connection that is silent for this long is taken for one whose ends have vanished: what
/// kube-proxy sets (`--conntrack-tcp-timeout-established`).
pub const ESTABLISHED_FLOW_IDLE_NS: u64 = 24 * 3_600 * NANOS_PER_SECOND;

/// `last_seen_ns` is written at most this often, so that a busy flow does not dirty its entry at each packet.
pub const FLOW_TOUCH_NS: u64 = NANOS_PER_SECOND;

/// TCP flag bits of byte 13 of the header.
pub const TCP_FIN: u8 = 0x01;
/// SYN.
pub const TCP_SYN: u8 = 0x02;
/// RST.
pub const TCP_RST: u8 = 0x04;
/// ACK.
pub const TCP_ACK: u8 = 0x10;

/// Whether an address is one of a pod of the cluster; none is where the range of pods is not known.
#[inline(always)]
pub const fn is_in_cluster(config: &Config, address: [u8; 4]) -> bool {
    if config.cluster_cidr_len > 32 {
        return false;
    }
    let differ = u32::from_be_bytes(address) ^ u32::from_be_bytes(config.cluster_cidr);
    // Of 64 bits, so that a range of everything (/0) can be shifted away too.
    (differ as u64) >> (32 - config.cluster_cidr_len) == 0
}

/// The range of slots that a new connection may use: `(first, count)`; `count` 0 means there is none.
/// Terminating backends are the fallback when only they are left (KEP-1669).
#[inline(always)]
pub const fn usable_slots(entry: &ServiceEntry) -> (u32, u32) {
    if entry.count > 0 {
        (0, entry.count)
    } else {
        (0, entry.terminating)
    }
}

/// The state that a backend has to have to take a new connection of this Service now.
#[inline(always)]
pub const fn wanted_state(entry: &ServiceEntry) -> u8 {
    if entry.count > 0 {
        BACKEND_ACTIVE
    } else {
        BACKEND_TERMINATING
    }
}

/// Whether the affinity entry has not run out: it has when `last_used + timeout <= now`.
#[inline(always)]
pub const fn affinity_holds(entry: &ServiceEntry, affinity: &AffinityEntry, now_ns: u64) -> bool {
    let timeout = entry.affinity_seconds as u64 * NANOS_PER_SECOND;
    affinity.last_used_ns + timeout > now_ns
}

/// Whether a backend can be one of the set at all: of the Service, and of this node where the set is the part that traffic
/// policy Local leaves.
#[inline(always)]
pub const fn belongs(entry: &ServiceEntry, backend: &BackendEntry) -> bool {
    backend.service == entry.service
        && (entry.flags & SERVICE_LOCAL_ONLY == 0 || backend.flags & BACKEND_LOCAL != 0)
}

/// Whether a remembered backend may be used for a new connection of this Service.
#[inline(always)]
pub const fn affinity_backend_fits(entry: &ServiceEntry, backend: &BackendEntry) -> bool {
    belongs(entry, backend) && backend.state == wanted_state(entry)
}

/// Whether using the backend renews the client's affinity: only an active backend does.
#[inline(always)]
pub const fn renews_affinity(backend: &BackendEntry) -> bool {
    backend.state == BACKEND_ACTIVE
}

/// Position in a consistent hash table: `(chunk, index in the chunk)`. `table_len` is a power of two.
#[inline(always)]
pub const fn table_position(table_len: u32, hash: u32) -> (u32, u32) {
    let index = hash & table_len.wrapping_sub(1);
    (index / TABLE_CHUNK as u32, index % TABLE_CHUNK as u32)
}

/// Whether the packet opens a connection.
#[inline(always)]
pub const fn is_opening(tcp_flags: u8) -> bool {
    tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN
}

/// Flags of a flow after a packet from the client.
#[inline(always)]
pub const fn after_client(flags: u8, tcp_flags: u8) -> u8 {
    let mut after = flags;
    if flags & FLOW_ANSWERED != 0 && tcp_flags & TCP_ACK != 0 {
        after |= FLOW_ESTABLISHED;
    }
    if tcp_flags & TCP_FIN != 0 {
        after |= FLOW_FIN_CLIENT;
    }
    if tcp_flags & TCP_RST != 0 {
        after |= FLOW_RESET;
    }
    after
}

/// Flags of a flow after a packet from the backend.
#[inline(always)]
pub const fn after_backend(flags: u8, tcp_flags: u8) -> u8 {
    let mut after = flags | FLOW_ANSWERED;
    if tcp_flags & TCP_FIN != 0 {
        after |= FLOW_FIN_BACKEND;
    }
    if tcp_flags & TCP_RST != 0 {
        after |= FLOW_RESET;
    }
    after
}

/// Whether a TCP flow has ended: both sides have closed, or one has reset.
#[inline(always)]
pub const fn is_closed(flags: u8) -> bool {
    let both = FLOW_FIN_CLIENT | FLOW_FIN_BACKEND;
    flags & FLOW_RESET != 0 || flags & both == both
}

/// Whether the flow is a connection that both ends have agreed on and that has not ended.
#[inline(always)]
pub const fn is_established(flow: &Flow) -> bool {
    flow.flags & FLOW_ESTABLISHED != 0 && !is_closed(flow.flags)
}

/// Whether a flow is over, so that its source port may be given to another one.
#[inline(always)]
pub const fn is_over(flow: &Flow, now_ns: u64) -> bool {
    let idle_max = if flow.protocol == PROTOCOL_UDP {
        UDP_FLOW_IDLE_NS
    } else if is_closed(flow.flags) {
        CLOSED_FLOW_REST_NS
    } else if is_established(flow) {
        ESTABLISHED_FLOW_IDLE_NS
    } else {
        HALF_OPEN_FLOW_IDLE_NS
    };
    flow.last_seen_ns + idle_max <= now_ns
}

/// Whether a flow gives its source port to another one that has looked at so many ports in vain.
#[inline(always)]
pub const fn gives_way(flow: &Flow, tries: u32, now_ns: u64) -> bool {
    if is_over(flow, now_ns) {
        return true;
    }
    tries >= TRIES_BEFORE_SHORT
        && flow.protocol == PROTOCOL_TCP
        && flow.flags & FLOW_ESTABLISHED == 0
        && flow.last_seen_ns + HALF_OPEN_FLOW_SHORT_NS <= now_ns
}

/// Whether a packet with a flow's backend side is the flow's, and not of a direct connection between the same ends: the
/// answer to a SYN that the flow has never seen, or a connection that the backend opens itself. A backend that closed or
/// reset sends what is left of that (FIN, ACK, RST) all the same; it answers no SYN again.
#[inline(always)]
pub const fn is_of_flow(flow: &Flow, tcp_flags: u8, now_ns: u64) -> bool {
    if flow.protocol != PROTOCOL_TCP {
        return !is_over(flow, now_ns);
    }
    if tcp_flags & TCP_SYN == 0 {
        return true;
    }
    tcp_flags & TCP_ACK != 0 && !is_closed(flow.flags)
}

/// Whether a flow ends when its client talks to the backend directly from the same port. The backend cannot tell the two
/// apart. An established connection is not given up for that: while the backend has it, no other can come to be.
/// Datagrams are answered the way that was asked last.
#[inline(always)]
pub const fn yields_to_direct(flow: &Flow, now_ns: u64) -> bool {
    !is_established(flow) || is_over(flow, now_ns)
}

#[cfg(all(test, feature = "user"))]
mod tests;
