// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packet programs of the uplink: NodePorts called from outside.
//!
//! ```text
//!            ingress                                egress
//! client --> NodePort: choose, DNAT
//!              local backend  -> kernel routes      backend's reply: source becomes the address called
//!              remote backend -> SNAT, out again
//!            remote backend's reply: back to the
//!            client, source becomes the address called
//! ```
//!
//! Everything else passes untouched. A client that talks to a backend directly, from a port that it used for a NodePort
//! before, ends what the old flow had: see `direct`. Attached by `knarr-datapath` by TCX or classic TC; the same code.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::{debug, warn};
use knarr_ebpf_common::{
    BACKEND_DRAINED, BACKEND_LOCAL, Config, Counters, FLOW_LOCAL, Flow, PROTOCOL_ICMP,
    PROTOCOL_TCP, SCOPE_NODE_PORT_EXTERNAL, SCOPE_NODE_PORT_INTERNAL, SERVICE_DROP_WHEN_EMPTY,
    ServiceEntry, ServiceKey, Stat, choose, hash, mapped, unmapped,
};

use crate::maps::{self, CONFIG, NODE_ADDRS, Scratch, count, scratch};
use crate::packet::{self, Glance, Inner, Packet, TC_ACT_SHOT, TC_ACT_UNSPEC, Unreadable, reset};
use crate::read::{self, Found, Miss};
use crate::select::{self, Choice, Spread};
use crate::{address, flow};

#[classifier]
pub fn knarr_ingress(ctx: TcContext) -> i32 {
    verdict(ingress(&ctx))
}

#[classifier]
pub fn knarr_egress(ctx: TcContext) -> i32 {
    verdict(egress(&ctx))
}

/// What the kernel is told; a packet that could not be read or changed is dropped and counted.
#[inline(always)]
#[must_use]
fn verdict(result: Result<i32, Unreadable>) -> i32 {
    match result {
        Ok(verdict) => verdict,
        Err(Unreadable) => {
            count(Stat::PacketUnreadable);
            TC_ACT_SHOT
        }
    }
}

#[inline(always)]
fn ingress(ctx: &TcContext) -> Result<i32, Unreadable> {
    let Some(config) = CONFIG.get(0) else {
        return Ok(TC_ACT_UNSPEC);
    };
    match packet::glance(ctx) {
        Glance::Other => return Ok(TC_ACT_UNSPEC),
        Glance::Ports {
            destination_port_be,
            protocol,
            ..
        } => {
            let port = u16::from_be(destination_port_be);
            if !is_node_port(config, port)
                && !is_snat_port(config, port)
                && !packet::beginning(ctx, protocol)
                    .is_some_and(|to| maps::is_marked(to, destination_port_be))
            {
                return Ok(TC_ACT_UNSPEC);
            }
        }
        Glance::Unclear => {}
    }
    // What cannot even be read is the kernel's to judge.
    let Ok(Some(mut packet)) = Packet::parse(ctx) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if packet.protocol == PROTOCOL_ICMP {
        return Ok(icmp_in(ctx, &mut packet));
    }
    let port = u16::from_be(packet.destination_port_be);
    if is_node_port(config, port) && NODE_ADDRS.get_ptr(mapped(packet.destination)).is_some() {
        let key = ServiceKey {
            vip: [0; 16],
            port_be: packet.destination_port_be,
            protocol: packet.protocol,
            scope: scope(config, packet.source),
        };
        if let Some(scratch) = scratch()
            && read::service(&key, &mut scratch.entry, Miss::Twice)
        {
            return Ok(from_client(ctx, &mut packet, config, scratch));
        }
    } else if is_snat_port(config, port) {
        let verdict = from_remote_backend(ctx, &mut packet);
        if verdict != TC_ACT_UNSPEC {
            return Ok(verdict);
        }
    }
    direct(&packet);
    Ok(TC_ACT_UNSPEC)
}

/// A packet that goes to where it was sent. If it begins something with an endpoint of this node, then what a flow had
/// with the same ends is over: what the endpoint answers must leave as it is.
#[inline(never)]
fn direct(packet: &Packet) {
    let to = u32::from_ne_bytes(packet.destination);
    if !packet.may_begin() || !maps::is_marked(to, packet.destination_port_be) {
        return;
    }
    let Some(scratch) = scratch() else { return };
    packet.write_reversed_key(&mut scratch.packet_key);
    if flow::of_backend(&scratch.packet_key, &mut scratch.flow).is_none() {
        return;
    }
    // SAFETY: the helper takes no pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    if scratch.flow.flags & FLOW_LOCAL != 0 && choose::yields_to_direct(&scratch.flow, now) {
        flow::leave(scratch);
        count(Stat::FlowSuperseded);
    }
}

#[inline(always)]
fn is_node_port(config: &Config, port: u16) -> bool {
    port >= config.node_port_first && port <= config.node_port_last
}

#[inline(always)]
fn is_snat_port(config: &Config, port: u16) -> bool {
    port >= config.snat_port_first && port <= config.snat_port_last
}

/// Pods of the cluster are not "outside": for them traffic policy Local does not count (as kube-proxy has it).
#[inline(always)]
fn scope(config: &Config, source: [u8; 4]) -> u8 {
    if choose::is_in_cluster(config, source) {
        SCOPE_NODE_PORT_INTERNAL
    } else {
        SCOPE_NODE_PORT_EXTERNAL
    }
}

#[inline(never)]
#[must_use]
fn from_client(
    ctx: &TcContext,
    packet: &mut Packet,
    config: &Config,
    scratch: &mut Scratch,
) -> i32 {
    verdict(translate_from_client(ctx, packet, config, scratch))
}

#[inline(always)]
fn translate_from_client(
    ctx: &TcContext,
    packet: &mut Packet,
    config: &Config,
    scratch: &mut Scratch,
) -> Result<i32, Unreadable> {
    // SAFETY: the helper takes no pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    let counters = select::counters(scratch.entry.service);
    packet.write_key(&mut scratch.packet_key);
    let known = flow::of_client(&scratch.packet_key, &mut scratch.flow);
    if let Some(known) = known {
        if may_go_on(packet, &scratch.entry, &scratch.flow, now) {
            let Scratch {
                flow, other_key, ..
            } = scratch;
            flow::touch_from_client(known, flow, other_key, packet.tcp_flags, now);
            add(counters, |counters| counters.packets_in += 1);
            packet.set_destination(ctx, unmapped(&flow.backend), flow.backend_port_be)?;
            packet.set_source(ctx, unmapped(&flow.snat), flow.snat_port_be)?;
            return deliver(ctx, packet, flow.flags);
        }
        flow::leave(scratch);
        count(Stat::FlowReselected);
    }
    let counters_or_null = counters.unwrap_or(core::ptr::null_mut());
    if begin(scratch, config, counters_or_null, now) == NO_BACKEND {
        return refuse(ctx, packet, &scratch.entry, counters);
    }
    let (first, last) = (config.snat_port_first, config.snat_port_last);
    let entered = flow::enter(scratch, first, last, now);
    if entered != flow::ENTERED {
        count(if entered == flow::PORTS_EXHAUSTED {
            Stat::SnatPortsExhausted
        } else {
            Stat::FlowInsertFailed
        });
        let port = u16::from_be(packet.destination_port_be);
        warn!(ctx, "flow to NodePort {}: no room, dropped", port);
        return Ok(TC_ACT_SHOT);
    }
    let flow = &scratch.flow;
    add(counters, |counters| {
        counters.flows += 1;
        counters.packets_in += 1;
    });
    debug!(
        ctx,
        "flow {:i}:{} to NodePort {}: backend {} at {:i}",
        u32::from_be_bytes(packet.source),
        u16::from_be(packet.source_port_be),
        u16::from_be(packet.destination_port_be),
        flow.backend_id,
        u32::from_be_bytes(unmapped(&flow.backend))
    );
    packet.set_destination(ctx, unmapped(&flow.backend), flow.backend_port_be)?;
    packet.set_source(ctx, unmapped(&flow.snat), flow.snat_port_be)?;
    deliver(ctx, packet, flow.flags)
}

/// What [`begin`] answers; plain numbers, because it is a call of its own.
const BEGUN: i32 = 0;
const NO_BACKEND: i32 = 1;

/// Chooses a backend for a new flow and describes the flow in `scratch`. A function of its own, for the
/// stack's sake.
#[inline(never)]
fn begin(scratch: &mut Scratch, config: &Config, counters: *mut Counters, now: u64) -> i32 {
    let hash = hash::flow(&scratch.packet_key);
    let counters = (!counters.is_null()).then_some(counters);
    let client = &scratch.packet_key.source;
    let spread = Spread::Hash(hash);
    let Some(choice) = select::select(&scratch.entry, client, spread, counters) else {
        return NO_BACKEND;
    };
    new_flow(scratch, config, &choice, hash, now);
    BEGUN
}

#[inline(always)]
fn add(counters: Option<*mut Counters>, change: impl FnOnce(&mut Counters)) {
    if let Some(counters) = counters {
        // SAFETY: see `select::counters`.
        change(unsafe { &mut *counters });
    }
}

/// Whether a packet of a known flow goes where the flow went. A SYN that meets a flow that has ended or
/// whose backend takes nothing new chooses again; so does UDP when its backend is gone or it was idle.
#[inline(always)]
fn may_go_on(packet: &Packet, entry: &ServiceEntry, known: &Flow, now: u64) -> bool {
    if packet.protocol == PROTOCOL_TCP && !packet.opens() {
        return true;
    }
    let Found::Backend(backend) = read::backend(known.backend_id, known.service) else {
        return false;
    };
    if packet.protocol == PROTOCOL_TCP {
        !choose::is_closed(known.flags) && choose::affinity_backend_fits(entry, &backend)
    } else {
        backend.state != BACKEND_DRAINED && !choose::is_over(known, now)
    }
}

#[inline(always)]
fn new_flow(scratch: &mut Scratch, config: &Config, choice: &Choice, hash: u32, now: u64) {
    let Scratch {
        flow,
        packet_key: key,
        entry,
        ..
    } = scratch;
    let local = choice.backend.flags & BACKEND_LOCAL != 0;
    let width = u32::from(config.snat_port_last.saturating_sub(config.snat_port_first)) + 1;
    flow.last_seen_ns = now;
    // SAFETY: the addresses of keys and flows lie at multiples of four.
    unsafe { address::copy(&mut flow.client, &key.source) };
    // SAFETY: as above.
    unsafe { address::copy(&mut flow.called, &key.destination) };
    // SAFETY: as above.
    unsafe { address::set(&mut flow.backend, unmapped(&choice.backend.address)) };
    if local {
        // SAFETY: as above.
        unsafe { address::copy(&mut flow.snat, &key.source) };
        flow.snat_port_be = key.source_port_be;
        flow.flags = FLOW_LOCAL;
    } else {
        // SAFETY: as above, and the configuration's.
        unsafe { address::copy(&mut flow.snat, &config.node_ip) };
        flow.snat_port_be = (config.snat_port_first + (hash % width) as u16).to_be();
        flow.flags = 0;
    }
    flow.client_port_be = key.source_port_be;
    flow.called_port_be = key.destination_port_be;
    flow.backend_port_be = choice.backend.port_be;
    flow.backend_id = choice.id;
    flow.service = entry.service;
    flow.protocol = key.protocol;
}

/// To a backend here by the kernel's own path, to another node straight out again.
#[inline(always)]
fn deliver(ctx: &TcContext, packet: &Packet, flow_flags: u8) -> Result<i32, Unreadable> {
    if flow_flags & FLOW_LOCAL != 0 {
        Ok(TC_ACT_UNSPEC)
    } else {
        packet.route(ctx)
    }
}

/// No backend. TCP gets a reset made here; everything else goes on to the node's own stack, which
/// answers for a closed port: with a reset, or with an ICMP error for UDP.
#[inline(always)]
fn refuse(
    ctx: &TcContext,
    packet: &Packet,
    entry: &ServiceEntry,
    counters: Option<*mut Counters>,
) -> Result<i32, Unreadable> {
    add(counters, |counters| counters.flows_refused += 1);
    if entry.flags & SERVICE_DROP_WHEN_EMPTY != 0 {
        count(Stat::DroppedNoLocalBackend);
        return Ok(TC_ACT_SHOT);
    }
    count(Stat::RefusedNoBackend);
    warn!(
        ctx,
        "flow {:i} to NodePort {}: no backend, refused",
        u32::from_be_bytes(packet.source),
        u16::from_be(packet.destination_port_be)
    );
    if packet.opens() {
        return reset(ctx, packet);
    }
    Ok(TC_ACT_UNSPEC)
}

#[inline(never)]
#[must_use]
fn from_remote_backend(ctx: &TcContext, packet: &mut Packet) -> i32 {
    verdict(translate_from_remote_backend(ctx, packet))
}

#[inline(always)]
fn translate_from_remote_backend(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Unreadable> {
    let Some(scratch) = scratch() else {
        return Ok(TC_ACT_UNSPEC);
    };
    packet.write_key(&mut scratch.packet_key);
    let Some(known) = flow::of_backend(&scratch.packet_key, &mut scratch.flow) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if scratch.flow.flags & FLOW_LOCAL != 0 {
        return Ok(TC_ACT_UNSPEC);
    }
    match back_to_client(ctx, packet, known, scratch)? {
        Belongs::Flow => packet.route(ctx),
        // To a socket of the node's own.
        Belongs::Other => Ok(TC_ACT_UNSPEC),
    }
}

#[inline(always)]
fn egress(ctx: &TcContext) -> Result<i32, Unreadable> {
    match packet::glance(ctx) {
        Glance::Other => return Ok(TC_ACT_UNSPEC),
        Glance::Ports {
            source,
            source_port_be,
            ..
        } if !maps::is_marked(source, source_port_be) => return Ok(TC_ACT_UNSPEC),
        Glance::Ports { .. } | Glance::Unclear => {}
    }
    let Ok(Some(mut packet)) = Packet::parse(ctx) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if packet.protocol == PROTOCOL_ICMP {
        return Ok(icmp_out(ctx, &mut packet));
    }
    let Some(scratch) = scratch() else {
        return Ok(TC_ACT_UNSPEC);
    };
    packet.write_key(&mut scratch.packet_key);
    let Some(known) = flow::of_backend(&scratch.packet_key, &mut scratch.flow) else {
        return Ok(TC_ACT_UNSPEC);
    };
    if scratch.flow.flags & FLOW_LOCAL != 0 {
        // Translated or not, it goes the same way.
        let _either = back_to_client(ctx, &mut packet, known, scratch)?;
    }
    Ok(TC_ACT_UNSPEC)
}

/// Whose a packet is that has the backend side of a flow.
#[must_use]
enum Belongs {
    /// The flow's; it is translated.
    Flow,
    /// A direct connection's.
    Other,
}

/// Translates a packet of the backend's whose flow is in `scratch.flow`, with its record at `known`.
#[inline(always)]
fn back_to_client(
    ctx: &TcContext,
    packet: &mut Packet,
    known: *mut Flow,
    scratch: &mut Scratch,
) -> Result<Belongs, Unreadable> {
    // SAFETY: the helper takes no pointers.
    let now = unsafe { bpf_ktime_get_ns() };
    if !choose::is_of_flow(&scratch.flow, packet.tcp_flags, now) {
        if choose::yields_to_direct(&scratch.flow, now) {
            flow::leave(scratch);
            count(Stat::FlowSuperseded);
        }
        return Ok(Belongs::Other);
    }
    let Scratch {
        flow, other_key, ..
    } = scratch;
    flow::touch_from_backend(known, flow, other_key, packet.tcp_flags, now);
    add(select::counters(flow.service), |counters| {
        counters.packets_out += 1;
    });
    packet.set_source(ctx, unmapped(&flow.called), flow.called_port_be)?;
    packet.set_destination(ctx, unmapped(&flow.client), flow.client_port_be)?;
    Ok(Belongs::Flow)
}

/// ICMP errors that arrive: about packets sent on to a remote backend, or about replies to the client.
#[inline(never)]
#[must_use]
fn icmp_in(ctx: &TcContext, packet: &mut Packet) -> i32 {
    verdict(translate_icmp_in(ctx, packet))
}

#[inline(always)]
fn translate_icmp_in(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Unreadable> {
    let Ok(Some(inner)) = Inner::parse(ctx, packet) else {
        return Ok(TC_ACT_UNSPEC);
    };
    let Some(scratch) = scratch() else {
        return Ok(TC_ACT_UNSPEC);
    };
    inner.write_reversed_key(&mut scratch.packet_key);
    let Scratch {
        packet_key: key,
        flow,
        ..
    } = scratch;
    if flow::of_backend(key, flow).is_some() {
        if flow.flags & FLOW_LOCAL != 0 {
            return Ok(TC_ACT_UNSPEC);
        }
        let (client, called) = (unmapped(&flow.client), unmapped(&flow.called));
        let from_backend = packet.source == unmapped(&flow.backend);
        let (client_port_be, called_port_be) = (flow.client_port_be, flow.called_port_be);
        inner.rewrite(ctx, (client, client_port_be), (called, called_port_be))?;
        if from_backend {
            packet.set_source(ctx, called, 0)?;
        }
        packet.set_destination(ctx, client, 0)?;
        count(Stat::IcmpTranslated);
        return packet.route(ctx);
    }
    if flow::of_client(key, flow).is_some() {
        let (backend, snat) = (unmapped(&flow.backend), unmapped(&flow.snat));
        let (backend_port_be, snat_port_be) = (flow.backend_port_be, flow.snat_port_be);
        let flags = flow.flags;
        inner.rewrite(ctx, (backend, backend_port_be), (snat, snat_port_be))?;
        packet.set_destination(ctx, backend, 0)?;
        count(Stat::IcmpTranslated);
        return deliver(ctx, packet, flags);
    }
    Ok(TC_ACT_UNSPEC)
}

/// ICMP errors that a local backend sends about a client's packets.
#[inline(never)]
#[must_use]
fn icmp_out(ctx: &TcContext, packet: &mut Packet) -> i32 {
    verdict(translate_icmp_out(ctx, packet))
}

#[inline(always)]
fn translate_icmp_out(ctx: &TcContext, packet: &mut Packet) -> Result<i32, Unreadable> {
    let Ok(Some(inner)) = Inner::parse(ctx, packet) else {
        return Ok(TC_ACT_UNSPEC);
    };
    let Some(scratch) = scratch() else {
        return Ok(TC_ACT_UNSPEC);
    };
    inner.write_reversed_key(&mut scratch.packet_key);
    let Scratch {
        packet_key: key,
        flow,
        ..
    } = scratch;
    if flow::of_backend(key, flow).is_none() {
        return Ok(TC_ACT_UNSPEC);
    }
    if flow.flags & FLOW_LOCAL == 0 {
        return Ok(TC_ACT_UNSPEC);
    }
    let (client, called) = (unmapped(&flow.client), unmapped(&flow.called));
    let (client_port_be, called_port_be) = (flow.client_port_be, flow.called_port_be);
    let from_backend = packet.source == unmapped(&flow.backend);
    inner.rewrite(ctx, (client, client_port_be), (called, called_port_be))?;
    if from_backend {
        packet.set_source(ctx, called, 0)?;
    }
    count(Stat::IcmpTranslated);
    Ok(TC_ACT_UNSPEC)
}
