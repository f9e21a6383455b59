// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Keys and values of the maps, as the kernel sees them: fixed-width integers and named padding only.
//!
//! Fields that end in `_be` are in network byte order; addresses are 16 bytes wide, IPv4 as v4-mapped
//! (`::ffff:a.b.c.d`). Times are nanoseconds of CLOCK_MONOTONIC, what `bpf_ktime_get_ns` returns.

/// IP protocol numbers that Services know.
pub const PROTOCOL_ICMP: u8 = 1;
/// TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// [`ServiceKey::scope`] of a Service address (ClusterIP).
pub const SCOPE_CLUSTER_IP: u8 = 0;
/// [`ServiceKey::scope`] of a NodePort reached from this node or one of its pods.
pub const SCOPE_NODE_PORT_INTERNAL: u8 = 1;
/// [`ServiceKey::scope`] of a NodePort reached from outside, through the uplink.
pub const SCOPE_NODE_PORT_EXTERNAL: u8 = 2;

/// [`ServiceEntry::flags`]: only backends of this node are in the set (traffic policy Local).
pub const SERVICE_LOCAL_ONLY: u16 = 1;
/// [`ServiceEntry::flags`]: with no backend in the set, drop instead of refuse (traffic policy Local
/// while other nodes have backends, as kube-proxy does).
pub const SERVICE_DROP_WHEN_EMPTY: u16 = 2;
/// [`ServiceEntry::flags`]: the entry is a NodePort.
pub const SERVICE_NODE_PORT: u16 = 4;

/// [`BackendEntry::state`]: ready, takes new connections.
pub const BACKEND_ACTIVE: u8 = 1;
/// [`BackendEntry::state`]: terminating but serving; takes new connections only when no active one is left.
pub const BACKEND_TERMINATING: u8 = 2;
/// [`BackendEntry::state`]: keeps the flows it has, never gets a new one.
pub const BACKEND_DRAINED: u8 = 3;

/// [`BackendEntry::flags`]: the backend is on this node.
pub const BACKEND_LOCAL: u8 = 1;

/// Entries in one chunk of a consistent hash table.
pub const TABLE_CHUNK: usize = 64;

/// Marks plain data: `repr(C)`, no padding that the compiler chose, any bit pattern valid.
///
/// # Safety
/// The type must have no implicit padding and be valid for every bit pattern.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty = $size:expr),+ $(,)?) => { $(
        const _: () = assert!(core::mem::size_of::<$type>() == $size);
        // SAFETY: all fields are fixed-width integers or arrays of them, and the size assertion above
        // is the sum of their sizes, so there is no implicit padding.
        unsafe impl Plain for $type {}
    )+ };
}

/// An address, 16 bytes in network order; IPv4 as v4-mapped.
pub type Address = [u8; 16];

/// Key of `SERVICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Service address; all zeros for the NodePort scopes, which hold on every address of the node.
    pub vip: Address,
    /// Port, network order.
    pub port_be: u16,
    /// `PROTOCOL_TCP` or `PROTOCOL_UDP`.
    pub protocol: u8,
    /// One of the `SCOPE_` constants.
    pub scope: u8,
}

/// Value of `SERVICES`: which set of backends answers for the key. Replaced as a whole by one update.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Id of the set of backends; first part of the keys of `SLOTS` and `TABLES`.
    pub set: u32,
    /// Id of the Service port: key of affinity, counters and backends. Equal to `set` unless the set is
    /// the part of the backends that traffic policy Local leaves.
    pub service: u32,
    /// Generation of slots and table to read.
    pub generation: u32,
    /// Slots `0..count` are active backends.
    pub count: u32,
    /// Slots `count..count + terminating` are terminating backends that still serve.
    pub terminating: u32,
    /// Timeout of `sessionAffinity: ClientIP` in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// Number of entries of the consistent hash table, a power of two and a multiple of `TABLE_CHUNK`;
    /// 0 where there is none.
    pub table_len: u32,
    /// `SERVICE_` flags.
    pub flags: u16,
    /// Reserved, 0.
    pub reserved: u16,
}

/// Key of `SLOTS`; the value is a backend id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    /// [`ServiceEntry::set`].
    pub set: u32,
    /// [`ServiceEntry::generation`].
    pub generation: u32,
    /// Position in the generation.
    pub slot: u32,
}

/// Key of `TABLES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableKey {
    /// [`ServiceEntry::set`].
    pub set: u32,
    /// [`ServiceEntry::generation`].
    pub generation: u32,
    /// Index of the chunk: entries `chunk * TABLE_CHUNK ..`.
    pub chunk: u32,
}

/// Value of `TABLES`: backend ids by hash of the client.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableChunk {
    /// Backend ids.
    pub backends: [u32; TABLE_CHUNK],
}

/// Places in one entry of `MARKS` and `PEERS`. An array's values are padded to eight bytes, so a place has no entry of
/// its own.
pub const MARK_CHUNK: usize = 64;
/// Entries of `MARKS` and `PEERS`: 8,192 places in all, so that some hundred endpoints seldom share one, and the whole
/// fits into the nearest cache.
pub const MARK_CHUNKS: u32 = 128;

/// Value of `MARKS` and `PEERS`: 1 for each endpoint with this hash.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkChunk {
    /// By index of the hash.
    pub marks: [u8; MARK_CHUNK],
}

/// Value of `BACKENDS`; the key is the backend's id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// Address of the pod (or of the node, for host network).
    pub address: Address,
    /// Target port, network order.
    pub port_be: u16,
    /// One of the `BACKEND_` states.
    pub state: u8,
    /// `BACKEND_LOCAL`.
    pub flags: u8,
    /// [`ServiceEntry::service`] that this backend belongs to.
    pub service: u32,
}

/// Key of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffinityKey {
    /// Address of the client: the pod's for a socket in a pod, the node's for one of the node.
    pub client: Address,
    /// [`ServiceEntry::service`].
    pub service: u32,
}

/// Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityEntry {
    /// When a connection last used it.
    pub last_used_ns: u64,
    /// The backend that the client keeps.
    pub backend: u32,
    /// Reserved, 0.
    pub reserved: u32,
}

/// Value of `SOCKETS`: what a translated socket was told to connect to; the key is the socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOrigin {
    /// The Service address that the application asked for.
    pub vip: Address,
    /// The backend that it got: the entry counts only while this is still the peer.
    pub backend: Address,
    /// Port asked for, network order.
    pub vip_port_be: u16,
    /// Backend's port, network order.
    pub backend_port_be: u16,
    /// Backend id.
    pub backend_id: u32,
}

/// A flow as one direction of it looks on the wire. Key of `FLOWS` (client to node) and of `NAT`
/// (backend to node or client). The alignment lets the kernel programs write addresses word by word.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, network order.
    pub source_port_be: u16,
    /// Destination port, network order.
    pub destination_port_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Reserved, 0.
    pub reserved: [u8; 3],
}

/// State of a translated flow; the same whole record stands in `FLOWS` and in `NAT`, so either half can
/// be written again from the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Last packet in either direction that was seen by this half.
    pub last_seen_ns: u64,
    /// Who called.
    pub client: Address,
    /// The address that the client called.
    pub called: Address,
    /// The backend's address.
    pub backend: Address,
    /// Source address that the backend sees: the node's (remote backend) or the client's.
    pub snat: Address,
    /// Client's port, network order.
    pub client_port_be: u16,
    /// Port called, network order.
    pub called_port_be: u16,
    /// Backend's port, network order.
    pub backend_port_be: u16,
    /// Source port that the backend sees, network order.
    pub snat_port_be: u16,
    /// Backend id.
    pub backend_id: u32,
    /// Service id.
    pub service: u32,
    /// IP protocol.
    pub protocol: u8,
    /// `FLOW_` flags.
    pub flags: u8,
    /// Reserved, 0.
    pub reserved: [u8; 6],
}

/// [`Flow::flags`]: the backend is on this node.
pub const FLOW_LOCAL: u8 = 1;
/// [`Flow::flags`]: the client has sent FIN.
pub const FLOW_FIN_CLIENT: u8 = 2;
/// [`Flow::flags`]: the backend has sent FIN.
pub const FLOW_FIN_BACKEND: u8 = 4;
/// [`Flow::flags`]: either side has sent RST.
pub const FLOW_RESET: u8 = 8;
/// [`Flow::flags`]: the backend has answered.
pub const FLOW_ANSWERED: u8 = 16;
/// [`Flow::flags`]: the client has acknowledged the backend's answer, so both ends are real.
pub const FLOW_ESTABLISHED: u8 = 32;

/// Key of `FRAGMENTS`; the value is [`FragmentPorts`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// IP identification, network order.
    pub id_be: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Reserved, 0.
    pub reserved: u8,
}

/// Ports that the first fragment of a datagram carried.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentPorts {
    /// Source port, network order.
    pub source_be: u16,
    /// Destination port, network order.
    pub destination_be: u16,
}

/// Per-CPU counters of one Service port; key is [`ServiceEntry::service`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Sockets connected to a backend.
    pub connects: u64,
    /// Connects refused for want of a backend.
    pub refused: u64,
    /// Flows begun from outside.
    pub flows: u64,
    /// Flows from outside that were refused or dropped for want of a backend.
    pub flows_refused: u64,
    /// Packets from clients outside.
    pub packets_in: u64,
    /// Packets back to clients outside.
    pub packets_out: u64,
    /// Choices made by affinity.
    pub affinity_hits: u64,
    /// Next slot of this CPU's round robin.
    pub next_slot: u64,
}

/// Value of `CONFIG` (one entry).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// Cookie of the node's network namespace.
    pub node_netns_cookie: u64,
    /// The node's address: source of flows to backends on other nodes, client of the node's own sockets.
    pub node_ip: Address,
    /// First NodePort, host order.
    pub node_port_first: u16,
    /// Last NodePort, host order.
    pub node_port_last: u16,
    /// First source port for flows to backends on other nodes, host order.
    pub snat_port_first: u16,
    /// Last source port for flows to backends on other nodes, host order.
    pub snat_port_last: u16,
    /// IPv4 range of all pods, network order bytes.
    pub cluster_cidr: [u8; 4],
    /// Prefix length of `cluster_cidr`.
    pub cluster_cidr_len: u32,
}

plain! {
    u32 = 4,
    u64 = 8,
    Address = 16,
    ServiceKey = 20,
    ServiceEntry = 32,
    SlotKey = 12,
    TableKey = 12,
    TableChunk = 256,
    MarkChunk = 64,
    BackendEntry = 24,
    AffinityKey = 20,
    AffinityEntry = 16,
    SocketOrigin = 40,
    FlowKey = 40,
    Flow = 96,
    FragmentKey = 36,
    FragmentPorts = 4,
    Counters = 64,
    Config = 40,
}

/// Index of one statistic in the per-CPU array `STATS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// A slot or table entry named a backend that does not exist.
    BackendMissing = 0,
    /// A slot was missing in the generation that the Service names.
    SlotMissing = 1,
    /// No free source port was found for a flow.
    SnatPortsExhausted = 2,
    /// The flow or NAT map refused an entry.
    FlowInsertFailed = 3,
    /// A packet could not be parsed or changed.
    PacketUnreadable = 4,
    /// The next hop could not be found.
    NoRoute = 5,
    /// A later fragment came without its first.
    FragmentWithoutFirst = 6,
    /// Dropped by traffic policy Local: no backend on this node.
    DroppedNoLocalBackend = 7,
    /// Reset or refused from outside: no backend at all.
    RefusedNoBackend = 8,
    /// Affinity could not be remembered.
    AffinityInsertFailed = 9,
    /// The origin of a socket could not be remembered.
    OriginInsertFailed = 10,
    /// One half of a flow was written again from the other.
    FlowRebuilt = 11,
    /// A flow whose backend is gone chose again.
    FlowReselected = 12,
    /// ICMP errors translated.
    IcmpTranslated = 13,
    /// Counters of a Service could not be made.
    CountersInsertFailed = 14,
    /// A packet's time to live ended here.
    TtlExceeded = 15,
    /// An element of a map was given to another key while it was read, and was read again.
    ElementMoved = 16,
    /// A flow ended because its client opened a direct connection to the backend from the same port.
    FlowSuperseded = 17,
    /// A packet of a pod was dropped because its source was not the pod's address, or because it was no IP packet.
    SourceSpoofed = 18,
}

impl Stat {
    /// Number of statistics, and of entries of `STATS`.
    pub const COUNT: u32 = 19;

    /// All statistics with the names that metrics use.
    pub const NAMES: [(Stat, &'static str); Self::COUNT as usize] = [
        (Stat::BackendMissing, "backend_missing"),
        (Stat::SlotMissing, "slot_missing"),
        (Stat::SnatPortsExhausted, "snat_ports_exhausted"),
        (Stat::FlowInsertFailed, "flow_insert_failed"),
        (Stat::PacketUnreadable, "packet_unreadable"),
        (Stat::NoRoute, "no_route"),
        (Stat::FragmentWithoutFirst, "fragment_without_first"),
        (Stat::DroppedNoLocalBackend, "dropped_no_local_backend"),
        (Stat::RefusedNoBackend, "refused_no_backend"),
        (Stat::AffinityInsertFailed, "affinity_insert_failed"),
        (Stat::OriginInsertFailed, "origin_insert_failed"),
        (Stat::FlowRebuilt, "flow_rebuilt"),
        (Stat::FlowReselected, "flow_reselected"),
        (Stat::IcmpTranslated, "icmp_translated"),
        (Stat::CountersInsertFailed, "counters_insert_failed"),
        (Stat::TtlExceeded, "ttl_exceeded"),
        (Stat::ElementMoved, "element_moved"),
        (Stat::FlowSuperseded, "flow_superseded"),
        (Stat::SourceSpoofed, "source_spoofed"),
    ];
}

/// The v4-mapped form of an IPv4 address given in network order bytes.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// The IPv4 address inside a v4-mapped one, network order bytes. The caller knows that it is mapped.
#[inline(always)]
pub const fn unmapped(address: &Address) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}
