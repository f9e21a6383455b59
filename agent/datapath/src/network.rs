// SPDX-License-Identifier: Apache-2.0
//! Surface of pod networks and routes; bodies follow.

use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;

use crate::{Cidr, DatapathError};

/// The network of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// Name of the veth's end on the node, at most 15 bytes; see [`PodNetwork::host_ifname`].
    pub host_ifname: String,
    /// The pod's address.
    pub pod_ip: Ipv4Addr,
}

impl PodNetwork {
    /// The name that a pod's veth has on the node: `knr` and twelve hexadecimal digits of the uid.
    pub fn host_ifname(pod_uid: &str) -> String {
        let digits: String = pod_uid
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(12)
            .collect();
        format!("knr{digits}")
    }
}

/// The way to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// Its PodCIDR.
    pub pod_cidr: Cidr,
    /// Its address, on a link of this node.
    pub via: Ipv4Addr,
}

/// Netlink in the node's network namespace. Make it inside a tokio runtime.
#[derive(Debug)]
pub struct Network {}

impl Network {
    /// Opens netlink in the network namespace of the calling thread.
    pub fn open() -> Result<Self, DatapathError> {
        Ok(Self {})
    }
    /// Sysctls of the node (forwarding) and `unreachable` routes for pod and Service ranges.
    pub async fn prepare_node(
        &self,
        _cluster_cidrs: &[Cidr],
        _service_cidrs: &[Cidr],
    ) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Makes a pod's network: veth, address, default route, host route. Repeating it is harmless.
    pub async fn pod_network_add(
        &self,
        _netns: BorrowedFd<'_>,
        _network: &PodNetwork,
    ) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Removes a pod's network from the node's side. A missing one is fine.
    pub async fn pod_network_remove(&self, _host_ifname: &str) -> Result<(), DatapathError> {
        Ok(())
    }
    /// Pod networks that exist on this node.
    pub async fn pod_networks(&self) -> Result<Vec<PodNetwork>, DatapathError> {
        Ok(Vec::new())
    }
    /// Makes the routes to other nodes' pods exactly these.
    pub async fn sync_routes(&self, _routes: &[NodeRoute]) -> Result<(), DatapathError> {
        Ok(())
    }
}
