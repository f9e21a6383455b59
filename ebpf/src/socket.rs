// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Socket programs: a `connect()` to a Service gets a backend once, and the packets need nothing. The
//! application keeps seeing the Service as its peer.
//!
//! IPv6 sockets that connect to a v4-mapped address (Java, dual-stack Go) go the same way. Attached to the
//! node's cgroup by `knarr-datapath`.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_log_ebpf::{debug, warn};
use knarr_ebpf_common::{
    Address, Config, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_INTERNAL,
    ServiceEntry, ServiceKey, SocketOrigin, Stat, choose, mapped, unmapped,
};

use crate::maps::{self, CONFIG, HAS_SET_RETVAL, NODE_ADDRS, SOCKETS, count};
use crate::read::{self, Miss};
use crate::select::{self, Spread};

const ECONNREFUSED: i32 = 111;
const PROCEED: i32 = 1;
const REJECT: i32 = 0;
const LOOPBACK: u8 = 127;
/// The third word of a v4-mapped IPv6 address.
const V4_MAPPED_WORD: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// What becomes of a `connect()`.
#[must_use]
enum Verdict {
    /// It is for no Service: as it was asked for.
    Pass,
    /// To this backend.
    To { address: [u8; 4], port_be: u16 },
    /// There is no backend.
    Refuse,
}

#[cgroup_sock_addr(connect4)]
pub fn knarr_connect4(ctx: SockAddrContext) -> i32 {
    let ip = read(user_ip4(&ctx));
    match connect(&ctx, ip.to_ne_bytes()) {
        Verdict::Pass => PROCEED,
        Verdict::To { address, port_be } => {
            write(user_ip4(&ctx), u32::from_ne_bytes(address));
            write_port(&ctx, port_be);
            PROCEED
        }
        Verdict::Refuse => refuse(&ctx, Family::V4),
    }
}

#[cgroup_sock_addr(connect6)]
pub fn knarr_connect6(ctx: SockAddrContext) -> i32 {
    let Some(ip) = mapped_ip(&ctx) else {
        return PROCEED;
    };
    match connect(&ctx, ip) {
        Verdict::Pass => PROCEED,
        Verdict::To { address, port_be } => {
            write_mapped_ip(&ctx, address);
            write_port(&ctx, port_be);
            PROCEED
        }
        Verdict::Refuse => refuse(&ctx, Family::V6),
    }
}

#[cgroup_sock_addr(getpeername4)]
pub fn knarr_getpeername4(ctx: SockAddrContext) -> i32 {
    let ip = read(user_ip4(&ctx));
    if let Some((address, port_be)) = called(&ctx, ip.to_ne_bytes()) {
        write(user_ip4(&ctx), u32::from_ne_bytes(address));
        write_port(&ctx, port_be);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn knarr_getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(ip) = mapped_ip(&ctx)
        && let Some((address, port_be)) = called(&ctx, ip)
    {
        write_mapped_ip(&ctx, address);
        write_port(&ctx, port_be);
    }
    PROCEED
}

enum Family {
    V4,
    V6,
}

#[cgroup_sock(sock_release)]
pub fn knarr_sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the helper takes the program's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Most sockets were never connected to a Service. What a socket's peer is now says nothing of that: it may have
    // been disconnected, or connected elsewhere.
    let _none = SOCKETS.remove(cookie);
    PROCEED
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, ip: [u8; 4]) -> Verdict {
    let verdict = decide(ctx, ip);
    if let Verdict::Pass = verdict
        && maps::is_peer(u32::from_ne_bytes(ip), read_port(ctx))
    {
        // A socket that was connected to a Service before may connect to the very endpoint that it had.
        let _none = SOCKETS.remove(cookie(ctx));
    }
    verdict
}

/// What names the socket as long as it lives; never used again for another.
#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, ip: [u8; 4]) -> Verdict {
    // SAFETY: the context is valid while the program runs.
    let protocol = unsafe { &raw mut (*ctx.sock_addr).protocol };
    let protocol = read(protocol) as u8;
    if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
        return Verdict::Pass;
    }
    let port_be = read_port(ctx);
    let key = ServiceKey {
        vip: mapped(ip),
        port_be,
        protocol,
        scope: SCOPE_CLUSTER_IP,
    };
    let Some(config) = CONFIG.get(0) else {
        return Verdict::Pass;
    };
    // Connects to pods are many, and a pod's address is no Service's.
    let miss = if choose::is_in_cluster(config, ip) || ip[0] == LOOPBACK {
        Miss::Once
    } else {
        Miss::Twice
    };
    let mut entry = read::NO_SERVICE;
    if read::service(&key, &mut entry, miss)
        || node_port(ctx, config, ip, port_be, protocol, &mut entry)
    {
        translate(ctx, ip, port_be, &entry)
    } else {
        Verdict::Pass
    }
}

/// Whether something answers for a NodePort of this node, and what that is.
#[inline(always)]
fn node_port(
    ctx: &SockAddrContext,
    config: &Config,
    ip: [u8; 4],
    port_be: u16,
    protocol: u8,
    entry: &mut ServiceEntry,
) -> bool {
    let port = u16::from_be(port_be);
    if port < config.node_port_first || port > config.node_port_last {
        return false;
    }
    if !is_this_node(ctx, config, ip) {
        return false;
    }
    let key = ServiceKey {
        vip: [0; 16],
        port_be,
        protocol,
        scope: SCOPE_NODE_PORT_INTERNAL,
    };
    read::service(&key, entry, Miss::Twice)
}

/// Whether NodePorts hold on the address: one of the node's own, or loopback when asked by the node.
#[inline(always)]
fn is_this_node(ctx: &SockAddrContext, config: &Config, ip: [u8; 4]) -> bool {
    if ip[0] == LOOPBACK || ip == [0; 4] {
        return netns_cookie(ctx) == config.node_netns_cookie;
    }
    NODE_ADDRS.get_ptr(mapped(ip)).is_some()
}

#[inline(always)]
fn netns_cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the program's own context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The address that affinity knows the caller by.
#[inline(always)]
fn client(ctx: &SockAddrContext) -> Address {
    if let Some(pod) = read::pod(netns_cookie(ctx)) {
        return pod;
    }
    match CONFIG.get(0) {
        Some(config) => config.node_ip,
        None => [0; 16],
    }
}

#[inline(always)]
fn translate(ctx: &SockAddrContext, ip: [u8; 4], port_be: u16, entry: &ServiceEntry) -> Verdict {
    let counters = select::counters(entry.service);
    let client = if entry.affinity_seconds > 0 {
        client(ctx)
    } else {
        [0; 16]
    };
    let Some(choice) = select::select(entry, &client, Spread::InTurn, counters) else {
        if let Some(counters) = counters {
            // SAFETY: see `select::counters`.
            unsafe { (*counters).refused += 1 };
        }
        warn!(
            ctx,
            "connect to {:i}:{}: no backend, refused",
            u32::from_be_bytes(ip),
            u16::from_be(port_be)
        );
        return Verdict::Refuse;
    };
    let origin = SocketOrigin {
        vip: mapped(ip),
        backend: choice.backend.address,
        vip_port_be: port_be,
        backend_port_be: choice.backend.port_be,
        backend_id: choice.id,
    };
    let address = u32::from_ne_bytes(unmapped(&choice.backend.address));
    maps::mark_peer(address, choice.backend.port_be);
    // A UDP socket that connects again has an older origin.
    if SOCKETS
        .insert(cookie(ctx), origin, u64::from(BPF_ANY))
        .is_err()
    {
        count(Stat::OriginInsertFailed);
    }
    if let Some(counters) = counters {
        // SAFETY: see `select::counters`.
        unsafe { (*counters).connects += 1 };
    }
    debug!(
        ctx,
        "connect to {:i}:{}: backend {} at {:i}:{}",
        u32::from_be_bytes(ip),
        u16::from_be(port_be),
        choice.id,
        u32::from_be_bytes(unmapped(&choice.backend.address)),
        u16::from_be(choice.backend.port_be)
    );
    Verdict::To {
        address: unmapped(&choice.backend.address),
        port_be: choice.backend.port_be,
    }
}

/// The Service address that this socket asked for, if its peer is still the backend it got.
#[inline(always)]
fn called(ctx: &SockAddrContext, peer: [u8; 4]) -> Option<([u8; 4], u16)> {
    if !maps::is_peer(u32::from_ne_bytes(peer), read_port(ctx)) {
        return None;
    }
    let origin = read::origin(cookie(ctx))?;
    if origin.backend_port_be != read_port(ctx) || origin.backend != peer {
        return None;
    }
    Some((origin.vip, origin.vip_port_be))
}

/// Fails the connect with `ECONNREFUSED`. A kernel before 5.18 cannot say that from here; there the
/// connect goes to port 0 of the loopback address, where nobody can listen, and gets the same answer.
#[inline(always)]
fn refuse(ctx: &SockAddrContext, family: Family) -> i32 {
    if HAS_SET_RETVAL.load() != 0 {
        // SAFETY: the helper takes no pointers.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
        return REJECT;
    }
    let loopback = [LOOPBACK, 0, 0, 1];
    match family {
        Family::V4 => write(user_ip4(ctx), u32::from_ne_bytes(loopback)),
        Family::V6 => write_mapped_ip(ctx, loopback),
    }
    write_port(ctx, 0);
    PROCEED
}

/// Reads a word of the context, which the verifier wants whole and as it is.
#[inline(always)]
fn read(word: *mut u32) -> u32 {
    // SAFETY: `word` points into the program's own context.
    unsafe { read_volatile(word) }
}

/// Writes a word of the context.
#[inline(always)]
fn write(word: *mut u32, value: u32) {
    // SAFETY: `word` points into the program's own context, and is a field that its hook may write.
    unsafe { write_volatile(word, value) };
}

#[inline(always)]
fn user_ip4(ctx: &SockAddrContext) -> *mut u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { &raw mut (*ctx.sock_addr).user_ip4 }
}

#[inline(always)]
fn user_ip6(ctx: &SockAddrContext, word: usize) -> *mut u32 {
    // SAFETY: the context is valid while the program runs, and callers name words 0 to 3.
    unsafe { &raw mut (*ctx.sock_addr).user_ip6[word] }
}

#[inline(always)]
fn user_port(ctx: &SockAddrContext) -> *mut u32 {
    // SAFETY: the context is valid while the program runs.
    unsafe { &raw mut (*ctx.sock_addr).user_port }
}

/// The port is the low half of its word, in network order.
#[inline(always)]
fn read_port(ctx: &SockAddrContext) -> u16 {
    read(user_port(ctx)) as u16
}

#[inline(always)]
fn write_port(ctx: &SockAddrContext, port_be: u16) {
    write(user_port(ctx), u32::from(port_be));
}

#[inline(always)]
fn mapped_ip(ctx: &SockAddrContext) -> Option<[u8; 4]> {
    let mapped = read(user_ip6(ctx, 0)) == 0
        && read(user_ip6(ctx, 1)) == 0
        && read(user_ip6(ctx, 2)) == V4_MAPPED_WORD;
    mapped.then(|| read(user_ip6(ctx, 3)).to_ne_bytes())
}

#[inline(always)]
fn write_mapped_ip(ctx: &SockAddrContext, ip: [u8; 4]) {
    // The other three words already say "v4-mapped".
    write(user_ip6(ctx, 3), u32::from_ne_bytes(ip));
}
