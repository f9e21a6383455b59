// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The maps that all programs share. Sizes here are defaults; the loader sets them from the agent's
//! flags and pins each map by its name under the layout version.

use core::ptr::write_volatile;

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap};
use knarr_ebpf_common::{
    Address, AffinityEntry, AffinityKey, BackendEntry, Config, Counters, Flow, FlowKey,
    FragmentKey, FragmentPorts, MARK_CHUNK, MARK_CHUNKS, MarkChunk, ServiceEntry, ServiceKey,
    SlotKey, SocketOrigin, Stat, TableChunk, TableKey, hash,
};

#[map]
pub static SERVICES: HashMap<ServiceKey, ServiceEntry> =
    HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

#[map]
pub static SLOTS: HashMap<SlotKey, u32> = HashMap::with_max_entries(2_097_152, BPF_F_NO_PREALLOC);

#[map]
pub static TABLES: HashMap<TableKey, TableChunk> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

#[map]
pub static BACKENDS: HashMap<u32, BackendEntry> =
    HashMap::with_max_entries(524_288, BPF_F_NO_PREALLOC);

#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityEntry> =
    LruHashMap::with_max_entries(65_536, 0);

#[map]
pub static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(65_536, 0);

#[map]
pub static NAT: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(65_536, 0);

/// Which endpoints of this node were ever called through a NodePort, by hash: the others' packets need no
/// look into `NAT` on their way out. Nothing is taken out; a node has at most some thousand endpoints in its
/// life, and one that is marked for nothing costs a look-up and no more.
#[map]
pub static MARKS: Array<MarkChunk> = Array::with_max_entries(MARK_CHUNKS, 0);

#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(4_096, 0);

#[map]
pub static COUNTERS: PerCpuHashMap<u32, Counters> =
    PerCpuHashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT, 0);

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// Addresses of this node, on which NodePorts hold.
#[map]
pub static NODE_ADDRS: HashMap<Address, u32> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);

/// Cookie of a pod's network namespace to the pod's address.
#[map]
pub static PODS: HashMap<u64, Address> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// Index of a pod's link on the node to the pod's IPv4 address, as it stands in packets.
#[map]
pub static VETHS: HashMap<u32, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

/// Highest ids ever given: 0 for Services, 1 for backends. Written and read by user space.
#[map]
pub static IDS: Array<u32> = Array::with_max_entries(2, 0);

/// Cookie of a socket that was connected to a Service to what it asked for. The end of the socket takes it out.
/// Without preallocation an entry that was just given up is the next one taken, while it is still in the cache.
#[map]
pub static SOCKETS: HashMap<u64, SocketOrigin> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// Which endpoints sockets of this node were ever connected to, by hash: no other peer is looked for in `SOCKETS`,
/// so that connects and accepts that have nothing to do with Services cost next to nothing.
#[map]
static PEERS: Array<MarkChunk> = Array::with_max_entries(MARK_CHUNKS, 0);

/// Room that does not fit on the stack, which is 512 bytes for all calls together.
///
/// Reserved bytes are 0 since the map was made, and are never written: a few bytes that are set to 0 cost a call.
#[repr(C)]
pub struct Scratch {
    /// The flow of the packet at hand: one that is being made, or a copy of the record.
    pub flow: Flow,
    /// A copy of the flow that has the source port which the other one would take.
    pub taken: Flow,
    /// The flow as the packet at hand shows it.
    pub packet_key: FlowKey,
    /// The key of the other half of its record.
    pub other_key: FlowKey,
    /// A copy of what answers for the address called.
    pub entry: ServiceEntry,
}

/// Packet programs of one CPU do not interrupt each other (bottom halves are off), so each has it for
/// itself.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's room.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the program, and no other program of this CPU that uses it
    // runs meanwhile.
    Some(unsafe { &mut *scratch })
}

/// 1 where the kernel has `bpf_set_retval` (5.18); set by the loader, so the other branch is no part of
/// the loaded program.
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u8> = Global::new(1);

/// Notes that flows lead to this endpoint of the node. Must stand before its first packet goes out.
#[inline(always)]
pub fn mark(address: u32, port_be: u16) {
    set(&MARKS, address, port_be);
}

/// Whether flows may lead to this endpoint of the node.
#[inline(always)]
pub fn is_marked(address: u32, port_be: u16) -> bool {
    is_set(&MARKS, address, port_be)
}

/// Notes that a socket is connected to this endpoint. Must stand before anybody asks for its peer.
#[inline(always)]
pub fn mark_peer(address: u32, port_be: u16) {
    set(&PEERS, address, port_be);
}

/// Whether a socket with this peer may have been connected to a Service.
#[inline(always)]
pub fn is_peer(address: u32, port_be: u16) -> bool {
    is_set(&PEERS, address, port_be)
}

#[inline(always)]
fn set(marks: &Array<MarkChunk>, address: u32, port_be: u16) {
    let (chunk, index) = hash::mark(address, port_be);
    if let Some(chunk) = marks.get_ptr_mut(chunk) {
        // SAFETY: array elements live as long as the map, and the masked index is inside of one.
        let mark = unsafe { &raw mut (*chunk).marks[index & (MARK_CHUNK - 1)] };
        // SAFETY: the pointer is into that element; a byte is written whole, and only ever to 1.
        unsafe { write_volatile(mark, 1) };
    }
}

#[inline(always)]
fn is_set(marks: &Array<MarkChunk>, address: u32, port_be: u16) -> bool {
    let (chunk, index) = hash::mark(address, port_be);
    marks
        .get(chunk)
        .is_some_and(|chunk| chunk.marks[index & (MARK_CHUNK - 1)] != 0)
}

/// Adds one to a statistic.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(value) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: the pointer is this CPU's element of the array, which lives as long as the program.
        unsafe { *value += 1 };
    }
}
