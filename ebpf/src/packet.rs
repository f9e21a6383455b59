// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reading and changing packets: every offset and every checksum rule of the packet programs is here.
//!
//! Ethernet and IPv4. Later fragments carry no ports; they are looked up from their first fragment.

use core::ptr::read_volatile;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_fib_lookup};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup as fib_lookup, bpf_redirect, bpf_redirect_neigh,
};
use aya_ebpf::programs::TcContext;
use knarr_ebpf_common::{
    FlowKey, FragmentKey, FragmentPorts, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP, Stat, choose,
    mapped,
};

use crate::address;
use crate::maps::{FRAGMENTS, count};
use crate::read::field;

/// Let the kernel go on with the packet: to the next program or filter of the link, which belongs to somebody else, and
/// then on its way. `TC_ACT_OK` would pass all of them by. TCX calls the same value `TCX_NEXT`.
pub const TC_ACT_UNSPEC: i32 = -1;
/// Drop it.
pub const TC_ACT_SHOT: i32 = 2;

const ETH_LEN: usize = 14;
const ETH_P_IP_BE: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6_BE: u32 = 0x86dd_u16.to_be() as u32;
const IPV6_SOURCE: usize = ETH_LEN + 8;
const IP_FRAGMENT: usize = ETH_LEN + 6;
const IP_TTL: usize = ETH_LEN + 8;
const IP_PROTOCOL: usize = ETH_LEN + 9;
const IP_CHECKSUM: usize = ETH_LEN + 10;
const IP_SOURCE: usize = ETH_LEN + 12;
const IP_DESTINATION: usize = ETH_LEN + 16;
const IP_HEADER_MIN: usize = 20;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const AF_INET: u8 = 2;
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGH: i64 = 7;

/// Something about the packet could not be read or changed; counted and dropped by the caller.
pub struct Unreadable;

impl From<i64> for Unreadable {
    fn from(_code: i64) -> Self {
        Self
    }
}

/// What the first look at a packet says.
#[derive(Clone, Copy)]
pub enum Glance {
    /// No Service can be about it.
    Other,
    /// A whole TCP or UDP packet between these ports.
    Ports {
        source: u32,
        source_port_be: u16,
        destination_port_be: u16,
        protocol: u8,
    },
    /// It has to be parsed: options, fragments, ICMP, or headers that are not in one piece.
    Unclear,
}

/// Reads a packet's ends in place, without a helper call: every packet of the uplink pays for this, and
/// most are let go after it.
#[inline(always)]
pub fn glance(ctx: &TcContext) -> Glance {
    const PLAIN_HEADER: u8 = 0x45;
    const FRAGMENT_BE: u16 = (MORE_FRAGMENTS | FRAGMENT_OFFSET).to_be();
    const L4: usize = ETH_LEN + IP_HEADER_MIN;
    // SAFETY: the context is valid while the program runs.
    if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP_BE {
        return Glance::Other;
    }
    let data = ctx.data();
    if data + L4 + size_of::<[u16; 2]>() > ctx.data_end() {
        return Glance::Unclear;
    }
    // SAFETY: the bytes up to the ports' end are there, as was just checked; the kernel's verifier proves
    // it again.
    let header = unsafe { read_volatile((data + ETH_LEN) as *const u8) };
    // SAFETY: these bytes are among those that were checked above.
    let fragment_be = unsafe { read_volatile((data + IP_FRAGMENT) as *const u16) };
    // SAFETY: these bytes are among those that were checked above.
    let protocol = unsafe { read_volatile((data + IP_PROTOCOL) as *const u8) };
    let known = protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP;
    if header != PLAIN_HEADER || fragment_be & FRAGMENT_BE != 0 || !known {
        return Glance::Unclear;
    }
    Glance::Ports {
        // SAFETY: these bytes are among those that were checked above.
        source: unsafe { read_volatile((data + IP_SOURCE) as *const u32) },
        // SAFETY: these bytes are among those that were checked above.
        source_port_be: unsafe { read_volatile((data + L4) as *const u16) },
        // SAFETY: these bytes are among those that were checked above.
        destination_port_be: unsafe { read_volatile((data + L4 + 2) as *const u16) },
        protocol,
    }
}

/// Where a packet goes that may begin something, a datagram or a SYN; for packets whose ports [`glance`] has seen, of
/// this protocol. No packet pays for this but those that arrive for no NodePort.
#[inline(always)]
pub fn beginning(ctx: &TcContext, protocol: u8) -> Option<u32> {
    const TCP_FLAGS: usize = ETH_LEN + IP_HEADER_MIN + 13;
    let data = ctx.data();
    if protocol == PROTOCOL_TCP {
        if data + TCP_FLAGS + 1 > ctx.data_end() {
            return None;
        }
        // SAFETY: the byte is there, as was just checked; the kernel's verifier proves it again.
        let flags = unsafe { read_volatile((data + TCP_FLAGS) as *const u8) };
        if !choose::is_opening(flags) {
            return None;
        }
    }
    if data + IP_DESTINATION + size_of::<u32>() > ctx.data_end() {
        return None;
    }
    // SAFETY: these bytes were just checked.
    Some(unsafe { read_volatile((data + IP_DESTINATION) as *const u32) })
}

/// Who says to have sent a packet.
#[derive(Clone, Copy)]
pub enum Source {
    /// This IPv4 address.
    V4(u32),
    /// This IPv6 address.
    V6([u32; 4]),
    /// It is of another protocol, or too short.
    Unknown,
}

/// Reads the source of a packet, in place where it lies in one piece.
#[inline(always)]
pub fn source(ctx: &TcContext) -> Source {
    // SAFETY: the context is valid while the program runs.
    match unsafe { (*ctx.skb.skb).protocol } {
        ETH_P_IP_BE => {
            let data = ctx.data();
            if data + IP_SOURCE + size_of::<u32>() <= ctx.data_end() {
                // SAFETY: the bytes are there, as was just checked; the kernel's verifier proves it again.
                return Source::V4(unsafe { read_volatile((data + IP_SOURCE) as *const u32) });
            }
            ctx.load(IP_SOURCE).map_or(Source::Unknown, Source::V4)
        }
        ETH_P_IPV6_BE => ctx.load(IPV6_SOURCE).map_or(Source::Unknown, Source::V6),
        _ => Source::Unknown,
    }
}

/// An IPv4 packet that may belong to a Service.
#[derive(Clone, Copy)]
pub struct Packet {
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub source_port_be: u16,
    pub destination_port_be: u16,
    /// Offset of the TCP, UDP or ICMP header.
    pub l4: usize,
    pub protocol: u8,
    pub ttl: u8,
    /// TCP flags; 0 for other protocols.
    pub tcp_flags: u8,
    pub part: Part,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it, or the first fragment.
    WithPorts,
    /// A later fragment: no transport header in it.
    Later,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct IpHeader {
    version_and_len: u8,
    tos: u8,
    total_len_be: u16,
    id_be: u16,
    fragment_be: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Packet {
    /// Reads a packet; `None` for what no Service can be about.
    #[inline(always)]
    pub fn parse(ctx: &TcContext) -> Result<Option<Self>, Unreadable> {
        // SAFETY: the context is valid while the program runs.
        if unsafe { (*ctx.skb.skb).protocol } != ETH_P_IP_BE {
            return Ok(None);
        }
        let ip: IpHeader = ctx.load(ETH_LEN).map_err(|_| Unreadable)?;
        if !matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_ICMP) {
            return Ok(None);
        }
        let header = usize::from(ip.version_and_len & 0x0f) * 4;
        if header < IP_HEADER_MIN {
            return Ok(None);
        }
        let l4 = ETH_LEN + header;
        let fragment = u16::from_be(ip.fragment_be);
        let mut packet = Self {
            source: ip.source,
            destination: ip.destination,
            source_port_be: 0,
            destination_port_be: 0,
            l4,
            protocol: ip.protocol,
            ttl: ip.ttl,
            tcp_flags: 0,
            part: Part::WithPorts,
        };
        if ip.protocol == PROTOCOL_ICMP {
            return Ok((fragment & FRAGMENT_OFFSET == 0).then_some(packet));
        }
        if fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS) != 0 {
            return packet.parse_fragment(ctx, ip.id_be, fragment);
        }
        packet.read_ports(ctx)?;
        Ok(Some(packet))
    }

    #[inline(always)]
    fn read_ports(&mut self, ctx: &TcContext) -> Result<(), Unreadable> {
        let ports: [u16; 2] = ctx.load(self.l4).map_err(|_| Unreadable)?;
        self.source_port_be = ports[0];
        self.destination_port_be = ports[1];
        if self.protocol == PROTOCOL_TCP {
            self.tcp_flags = ctx.load(self.l4 + 13).map_err(|_| Unreadable)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn parse_fragment(
        mut self,
        ctx: &TcContext,
        id_be: u16,
        fragment: u16,
    ) -> Result<Option<Self>, Unreadable> {
        let key = FragmentKey {
            source: mapped(self.source),
            destination: mapped(self.destination),
            id_be,
            protocol: self.protocol,
            reserved: 0,
        };
        if fragment & FRAGMENT_OFFSET == 0 {
            self.read_ports(ctx)?;
            let ports = FragmentPorts {
                source_be: self.source_port_be,
                destination_be: self.destination_port_be,
            };
            // Without room the later fragments are counted as lost below.
            let _full = FRAGMENTS.insert(key, ports, u64::from(BPF_ANY));
            return Ok(Some(self));
        }
        let Some(ports) = FRAGMENTS.get_ptr(key) else {
            count(Stat::FragmentWithoutFirst);
            return Ok(None);
        };
        // The two may be another datagram's ports by now: then this fragment goes astray, and its datagram is never whole.
        let ports = FragmentPorts {
            source_be: field!(ports, source_be),
            destination_be: field!(ports, destination_be),
        };
        self.source_port_be = ports.source_be;
        self.destination_port_be = ports.destination_be;
        self.part = Part::Later;
        Ok(Some(self))
    }

    /// Whether the packet opens a TCP connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.protocol == PROTOCOL_TCP
            && self.part == Part::WithPorts
            && choose::is_opening(self.tcp_flags)
    }

    /// Whether the packet may begin something: a SYN, or any datagram.
    #[inline(always)]
    pub fn may_begin(&self) -> bool {
        self.opens() || (self.protocol == PROTOCOL_UDP && self.part == Part::WithPorts)
    }

    /// Writes down the flow as an answer to this packet would show it.
    #[inline(always)]
    pub fn write_reversed_key(&self, key: &mut FlowKey) {
        // SAFETY: the addresses of a key lie at multiples of four.
        unsafe { address::set(&mut key.source, self.destination) };
        // SAFETY: as above.
        unsafe { address::set(&mut key.destination, self.source) };
        key.source_port_be = self.destination_port_be;
        key.destination_port_be = self.source_port_be;
        key.protocol = self.protocol;
    }

    /// Writes down the flow as this packet shows it.
    #[inline(always)]
    pub fn write_key(&self, key: &mut FlowKey) {
        // SAFETY: the addresses of a key lie at multiples of four.
        unsafe { address::set(&mut key.source, self.source) };
        // SAFETY: as above.
        unsafe { address::set(&mut key.destination, self.destination) };
        key.source_port_be = self.source_port_be;
        key.destination_port_be = self.destination_port_be;
        key.protocol = self.protocol;
    }

    /// Gives the packet another source.
    #[inline(always)]
    pub fn set_source(
        &mut self,
        ctx: &TcContext,
        address: [u8; 4],
        port_be: u16,
    ) -> Result<(), Unreadable> {
        self.replace_address(ctx, IP_SOURCE, self.source, address)?;
        self.replace_port(ctx, self.l4, self.source_port_be, port_be)?;
        self.source = address;
        self.source_port_be = port_be;
        Ok(())
    }

    /// Gives the packet another destination.
    #[inline(always)]
    pub fn set_destination(
        &mut self,
        ctx: &TcContext,
        address: [u8; 4],
        port_be: u16,
    ) -> Result<(), Unreadable> {
        self.replace_address(ctx, IP_DESTINATION, self.destination, address)?;
        self.replace_port(ctx, self.l4 + 2, self.destination_port_be, port_be)?;
        self.destination = address;
        self.destination_port_be = port_be;
        Ok(())
    }

    #[inline(always)]
    fn checksum(&self) -> (usize, u64) {
        match self.protocol {
            PROTOCOL_TCP => (self.l4 + 16, 0),
            // A UDP checksum of zero means that there is none, and stays.
            _ => (self.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
        }
    }

    #[inline(always)]
    fn replace_address(
        &self,
        ctx: &TcContext,
        at: usize,
        from: [u8; 4],
        to: [u8; 4],
    ) -> Result<(), Unreadable> {
        if from == to {
            return Ok(());
        }
        let (from, new) = (word(from), word(to));
        if self.part == Part::WithPorts && self.protocol != PROTOCOL_ICMP {
            let (checksum, flags) = self.checksum();
            ctx.l4_csum_replace(checksum, from, new, flags | u64::from(BPF_F_PSEUDO_HDR) | 4)
                .map_err(|_| Unreadable)?;
        }
        ctx.l3_csum_replace(IP_CHECKSUM, from, new, 4)
            .map_err(|_| Unreadable)?;
        ctx.store(at, &to, 0).map_err(|_| Unreadable)
    }

    #[inline(always)]
    fn replace_port(
        &self,
        ctx: &TcContext,
        at: usize,
        from_be: u16,
        to_be: u16,
    ) -> Result<(), Unreadable> {
        if from_be == to_be || self.part == Part::Later || self.protocol == PROTOCOL_ICMP {
            return Ok(());
        }
        let (checksum, flags) = self.checksum();
        ctx.l4_csum_replace(checksum, u64::from(from_be), u64::from(to_be), flags | 2)
            .map_err(|_| Unreadable)?;
        ctx.store(at, &to_be, 0).map_err(|_| Unreadable)
    }

    /// Sends the packet on to its destination by the kernel's routes, past its input path, which would
    /// refuse one whose source is the node itself.
    #[inline(always)]
    pub fn route(&self, ctx: &TcContext) -> Result<i32, Unreadable> {
        if self.ttl <= 1 {
            count(Stat::TtlExceeded);
            return Ok(TC_ACT_SHOT);
        }
        let old: u16 = u16::from_ne_bytes([self.ttl, self.protocol]);
        let new: u16 = u16::from_ne_bytes([self.ttl - 1, self.protocol]);
        ctx.l3_csum_replace(IP_CHECKSUM, u64::from(old), u64::from(new), 2)
            .map_err(|_| Unreadable)?;
        ctx.store(IP_TTL, &(self.ttl - 1), 0)
            .map_err(|_| Unreadable)?;
        Ok(send(ctx, self.source, self.destination, self.protocol))
    }
}

#[inline(always)]
fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

#[inline(never)]
#[must_use]
fn send(ctx: &TcContext, source: [u8; 4], destination: [u8; 4], protocol: u8) -> i32 {
    // SAFETY: the structure is plain integers and unions of them.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.family = AF_INET;
    params.l4_protocol = protocol;
    params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
    params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    // SAFETY: the context is valid while the program runs.
    params.ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the helper gets the program's context and a structure of the size it is told.
    let found = unsafe {
        fib_lookup(
            ctx.as_ptr(),
            &raw mut params,
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    if found != FIB_SUCCESS && found != FIB_NO_NEIGH {
        count(Stat::NoRoute);
        return TC_ACT_SHOT;
    }
    // SAFETY: without parameters the helper looks the neighbour up by the packet's own destination.
    (unsafe { bpf_redirect_neigh(params.ifindex, core::ptr::null_mut(), 0, 0) }) as i32
}

/// Turns a SYN into the reset that answers it and sends it back where it came from.
///
/// Swapping addresses and ports leaves the checksum as it was; the fields that change are updated one by
/// one, which is right for packets whose checksum a device has still to fill in, too.
#[inline(always)]
pub fn reset(ctx: &TcContext, packet: &Packet) -> Result<i32, Unreadable> {
    const RST_ACK: u8 = choose::TCP_RST | choose::TCP_ACK;
    let checksum = packet.l4 + 16;
    let sequence: [u8; 4] = ctx.load(packet.l4 + 4).map_err(|_| Unreadable)?;
    let acknowledged: [u8; 4] = ctx.load(packet.l4 + 8).map_err(|_| Unreadable)?;
    let offset_and_flags: [u8; 2] = ctx.load(packet.l4 + 12).map_err(|_| Unreadable)?;
    let answer = u32::from_be_bytes(sequence).wrapping_add(1).to_be_bytes();
    ctx.l4_csum_replace(checksum, word(sequence), 0, 4)
        .map_err(|_| Unreadable)?;
    ctx.store(packet.l4 + 4, &[0_u8; 4], 0)
        .map_err(|_| Unreadable)?;
    ctx.l4_csum_replace(checksum, word(acknowledged), word(answer), 4)
        .map_err(|_| Unreadable)?;
    ctx.store(packet.l4 + 8, &answer, 0)
        .map_err(|_| Unreadable)?;
    let flags = [offset_and_flags[0], RST_ACK];
    ctx.l4_csum_replace(
        checksum,
        u64::from(u16::from_ne_bytes(offset_and_flags)),
        u64::from(u16::from_ne_bytes(flags)),
        2,
    )
    .map_err(|_| Unreadable)?;
    ctx.store(packet.l4 + 12, &flags, 0)
        .map_err(|_| Unreadable)?;
    let ports = [packet.destination_port_be, packet.source_port_be];
    ctx.store(packet.l4, &ports, 0).map_err(|_| Unreadable)?;
    let addresses = [packet.destination, packet.source];
    ctx.store(IP_SOURCE, &addresses, 0)
        .map_err(|_| Unreadable)?;
    let macs: [[u8; 6]; 2] = ctx.load(0).map_err(|_| Unreadable)?;
    ctx.store(0, &[macs[1], macs[0]], 0)
        .map_err(|_| Unreadable)?;
    // SAFETY: the context is valid while the program runs.
    let link = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: the helper takes no pointers.
    Ok((unsafe { bpf_redirect(link, 0) }) as i32)
}

/// The packet that an ICMP error is about, as it stands inside the error.
#[derive(Clone, Copy)]
pub struct Inner {
    /// Offset of the inner IP header.
    at: usize,
    /// Offset of the inner transport header.
    l4: usize,
    /// Offset of the checksum of the ICMP message.
    icmp_checksum: usize,
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub source_port_be: u16,
    pub destination_port_be: u16,
    pub protocol: u8,
}

impl Inner {
    /// Reads the packet inside an ICMP error; `None` for other messages.
    #[inline(always)]
    pub fn parse(ctx: &TcContext, packet: &Packet) -> Result<Option<Self>, Unreadable> {
        const UNREACHABLE: u8 = 3;
        const TIME_EXCEEDED: u8 = 11;
        const PARAMETER_PROBLEM: u8 = 12;
        const ICMP_HEADER: usize = 8;
        let kind: u8 = ctx.load(packet.l4).map_err(|_| Unreadable)?;
        if !matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM) {
            return Ok(None);
        }
        let at = packet.l4 + ICMP_HEADER;
        // A message too short to hold a packet is nobody's business here.
        let Ok(ip) = ctx.load::<IpHeader>(at) else {
            return Ok(None);
        };
        let header = usize::from(ip.version_and_len & 0x0f) * 4;
        if header < IP_HEADER_MIN || !matches!(ip.protocol, PROTOCOL_TCP | PROTOCOL_UDP) {
            return Ok(None);
        }
        let l4 = at + header;
        let Ok(ports) = ctx.load::<[u16; 2]>(l4) else {
            return Ok(None);
        };
        Ok(Some(Self {
            at,
            l4,
            icmp_checksum: packet.l4 + 2,
            source: ip.source,
            destination: ip.destination,
            source_port_be: ports[0],
            destination_port_be: ports[1],
            protocol: ip.protocol,
        }))
    }

    /// Writes down the flow in the direction opposite to the inner packet's.
    #[inline(always)]
    pub fn write_reversed_key(&self, key: &mut FlowKey) {
        // SAFETY: the addresses of a key lie at multiples of four.
        unsafe { address::set(&mut key.source, self.destination) };
        // SAFETY: as above.
        unsafe { address::set(&mut key.destination, self.source) };
        key.source_port_be = self.destination_port_be;
        key.destination_port_be = self.source_port_be;
        key.protocol = self.protocol;
    }

    /// Rewrites both ends of the inner packet. The inner header's own checksum keeps the sum over its
    /// addresses constant, so only the ports change the checksum of the ICMP message.
    #[inline(always)]
    pub fn rewrite(
        &self,
        ctx: &TcContext,
        source: ([u8; 4], u16),
        destination: ([u8; 4], u16),
    ) -> Result<(), Unreadable> {
        let inner_checksum = self.at + 10;
        ctx.l3_csum_replace(inner_checksum, word(self.source), word(source.0), 4)
            .map_err(|_| Unreadable)?;
        ctx.store(self.at + 12, &source.0, 0)
            .map_err(|_| Unreadable)?;
        ctx.l3_csum_replace(
            inner_checksum,
            word(self.destination),
            word(destination.0),
            4,
        )
        .map_err(|_| Unreadable)?;
        ctx.store(self.at + 16, &destination.0, 0)
            .map_err(|_| Unreadable)?;
        self.replace_port(ctx, self.l4, self.source_port_be, source.1)?;
        self.replace_port(ctx, self.l4 + 2, self.destination_port_be, destination.1)
    }

    #[inline(always)]
    fn replace_port(
        &self,
        ctx: &TcContext,
        at: usize,
        from_be: u16,
        to_be: u16,
    ) -> Result<(), Unreadable> {
        if from_be == to_be {
            return Ok(());
        }
        ctx.l4_csum_replace(self.icmp_checksum, u64::from(from_be), u64::from(to_be), 2)
            .map_err(|_| Unreadable)?;
        ctx.store(at, &to_be, 0).map_err(|_| Unreadable)
    }
}
