// SPDX-License-Identifier: Apache-2.0
//! What the operator decides about the datapath: where pins and cgroups are, which link is the uplink,
//! how large the maps may grow, what the programs log.
//!
//! Plain values; made by the agent from its flags.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// An IPv4 range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    /// First address; host bits are zero.
    pub address: Ipv4Addr,
    /// Prefix length, 0 to 32.
    pub prefix_len: u8,
}

impl Cidr {
    /// A range from an address and a length; host bits are cleared.
    pub fn new(address: Ipv4Addr, prefix_len: u8) -> Option<Self> {
        (prefix_len <= 32).then(|| Self {
            address: Ipv4Addr::from(u32::from(address) & mask(prefix_len)),
            prefix_len,
        })
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix_len) == u32::from(self.address)
    }
}

fn mask(prefix_len: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix_len))
        .unwrap_or_default()
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A text that is no IPv4 range.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is no IPv4 range such as 10.244.0.0/16")]
pub struct CidrError(String);

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address = address.parse().map_err(|_| wrong())?;
        let len = len.parse().map_err(|_| wrong())?;
        Self::new(address, len).ok_or_else(wrong)
    }
}

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
    pub cluster_cidr: Option<Cidr>,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// What the programs log.
    pub log: ProgramLog,
    /// How packet programs are attached.
    pub tc_hook: TcHook,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_clears_host_bits_and_knows_its_members() {
        let range: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.244.1.0/24");
        assert!(range.contains("10.244.1.255".parse().unwrap()));
        assert!(!range.contains("10.244.2.0".parse().unwrap()));
        assert!(
            "0.0.0.0/0"
                .parse::<Cidr>()
                .unwrap()
                .contains("1.2.3.4".parse().unwrap())
        );
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        for text in ["10.0.0.0", "10.0.0.0/33", "fd00::/8", "x/8", ""] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
