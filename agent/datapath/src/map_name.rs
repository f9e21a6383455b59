// SPDX-License-Identifier: Apache-2.0
//! The table of our eBPF maps: the name that each has in the object file and as a pin, and the flag that sets its size.
//!
//! A name here is the name of a static in `ebpf/src/maps.rs`. Not here: a map's key and value (`maps`) and how it grows
//! (`grow`). Called by these two, by `load` and by `overflow`.

/// One of our maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MapName {
    Services,
    Slots,
    Tables,
    Backends,
    Affinity,
    Flows,
    Nat,
    Marks,
    Fragments,
    Counters,
    Stats,
    Config,
    NodeAddrs,
    Pods,
    Veths,
    Ids,
    Sockets,
    Peers,
}

impl MapName {
    /// As the kernel programs and the pins call it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "SERVICES",
            Self::Slots => "SLOTS",
            Self::Tables => "TABLES",
            Self::Backends => "BACKENDS",
            Self::Affinity => "AFFINITY",
            Self::Flows => "FLOWS",
            Self::Nat => "NAT",
            Self::Marks => "MARKS",
            Self::Fragments => "FRAGMENTS",
            Self::Counters => "COUNTERS",
            Self::Stats => "STATS",
            Self::Config => "CONFIG",
            Self::NodeAddrs => "NODE_ADDRS",
            Self::Pods => "PODS",
            Self::Veths => "VETHS",
            Self::Ids => "IDS",
            Self::Sockets => "SOCKETS",
            Self::Peers => "PEERS",
        }
    }

    /// The agent's flag that sets its size.
    pub(crate) const fn flag(self) -> &'static str {
        match self {
            Self::Services | Self::Counters => "--bpf-services",
            // A slot is one backend of one Service port.
            Self::Slots | Self::Backends => "--bpf-backends",
            Self::Tables => "--bpf-tables",
            Self::Affinity => "--bpf-affinity",
            Self::Flows | Self::Nat => "--bpf-flows",
            Self::Sockets => "--bpf-sockets",
            Self::Marks
            | Self::Fragments
            | Self::Stats
            | Self::Config
            | Self::NodeAddrs
            | Self::Pods
            | Self::Veths
            | Self::Ids
            | Self::Peers => "no flag",
        }
    }
}

impl std::fmt::Display for MapName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
