// SPDX-License-Identifier: Apache-2.0
//! What the operator decides about the datapath: where pins and cgroups are, which link is the uplink,
//! how large the maps may grow, what the programs log.
//!
//! Plain values; made by the agent from its flags.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

/// How many entries each map may grow to. Maps begin small; see `grow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Service addresses: ports of ClusterIPs and NodePorts.
    pub services: u32,
    /// Endpoints of all Services; slots get four times as many (two generations, two traffic policies).
    pub backends: u32,
    /// Chunks of consistent hash tables (64 places of 4 bytes each).
    pub tables: u32,
    /// Clients remembered by `sessionAffinity: ClientIP` (LRU, made when there is such a Service).
    pub affinity: u32,
    /// Flows from outside (two LRUs, made when there is a NodePort).
    pub flows: u32,
    /// Sockets that are connected to a Service.
    pub sockets: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            services: 131_072,
            backends: 524_288,
            tables: 262_144,
            affinity: 65_536,
            flows: 65_536,
            sockets: 65_536,
        }
    }
}

/// What the programs log into the agent's log. Off costs nothing: the lines are not in the loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ProgramLog {
    /// Nothing.
    #[default]
    Off,
    /// What goes wrong.
    Warn,
    /// Each choice too.
    Debug,
}

/// How the packet programs are attached to the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TcHook {
    /// TCX where the kernel has it (6.6), else classic TC.
    #[default]
    Auto,
    /// Classic TC (clsact) always.
    Classic,
}

/// Everything [`crate::Datapath::open`] has to know.
#[derive(Clone, Debug)]
pub struct DatapathConfig {
    /// A mounted bpffs; pins go under `knarr/v1/` in it.
    pub bpf_root: PathBuf,
    /// The node's cgroup v2 directory; socket programs act on every process below it.
    pub cgroup_root: PathBuf,
    /// Links through which the outside arrives.
    pub uplinks: Vec<String>,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// Range of all pods of the cluster.
    pub cluster_cidr: Option<Ipv4Net>,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// What the programs log.
    pub log: ProgramLog,
    /// How packet programs are attached.
    pub tc_hook: TcHook,
}
