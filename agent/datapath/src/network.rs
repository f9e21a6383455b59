// SPDX-License-Identifier: Apache-2.0
//! The network of pods and the routes between nodes, over netlink.
//!
//! ```text
//! pod:  eth0 POD_IP/32, default via 169.254.1.1 (a permanent neighbour, so nobody ever asks who has it)
//! node: knrXXXXXXXXXXXX, no address; route POD_IP/32 to it, a permanent neighbour for the pod
//!       OTHER_PODCIDR via OTHER_NODE_IP; unreachable CLUSTER_CIDR and SERVICE_CIDR, so nothing leaks
//! ```
//!
//! No bridge and no firewall rule. Called by the agent for each sandbox and for each change of peers.

mod changes;
mod pod;
mod routes;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::{Mutex, Semaphore};

pub use changes::{Changed, NetworkChanges};

use crate::error::DatapathError;

/// Our mark on routes (`rtm_protocol`); values from 3 up are free for daemons, and this one is nobody's.
pub(crate) const ROUTE_PROTOCOL: u8 = 107;

/// Links that are removed at the same time: each takes a thread and a socket while the kernel is at it, and
/// those that wait together share one RCU barrier, so that more of them gain nothing.
const REMOVALS_MAX: usize = 8;

/// All our veths on the node begin with this.
const HOST_PREFIX: &str = "knr";

/// The network of one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
        format!("{HOST_PREFIX}{digits}")
    }
}

/// The way to another node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// Its PodCIDR.
    pub pod_cidr: Ipv4Net,
    /// Its address, on a link of this node.
    pub via: Ipv4Addr,
}

/// What becomes of a route of ours to a node that is not among those wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strangers {
    /// It stays: the list may be incomplete.
    Keep,
    /// It goes.
    Remove,
}

/// Netlink in the node's network namespace. Make it inside a tokio runtime, in the node's namespace.
#[derive(Clone, Debug)]
pub struct Network {
    handle: Handle,
    /// The kernel makes one list at a time for a socket, and answers the next one with EBUSY. Held while a list comes
    /// in, so that a caller that is dropped half-way makes the next one fail that way, and no more.
    lists: Arc<Mutex<()>>,
    removals: Arc<Semaphore>,
}

impl Network {
    /// Opens netlink in the network namespace of the calling thread.
    pub fn open() -> Result<Self, DatapathError> {
        let (connection, handle) = open_netlink("netlink")?;
        // Ends by itself when the last handle is dropped.
        tokio::spawn(connection);
        Ok(Self {
            handle,
            lists: Arc::new(Mutex::new(())),
            removals: Arc::new(Semaphore::new(REMOVALS_MAX)),
        })
    }

    /// Sysctls of the node (forwarding) and `unreachable` routes for pod and Service ranges, so that a
    /// packet for an address that nobody has never leaves the node.
    pub async fn prepare_node(
        &self,
        cluster_cidrs: &[Ipv4Net],
        service_cidrs: &[Ipv4Net],
    ) -> Result<(), DatapathError> {
        set_sysctl("net/ipv4/ip_forward", "1")?;
        routes::guard(self, cluster_cidrs, service_cidrs).await
    }

    /// Makes a pod's network: veth, address, default route, host route. Repeating it is harmless. Call it on a thread
    /// in the node's namespace, as [`Network::open`].
    pub async fn pod_network_add(
        &self,
        netns: BorrowedFd<'_>,
        network: &PodNetwork,
    ) -> Result<(), DatapathError> {
        pod::add(self, netns, network).await
    }

    /// Removes a pod's network from the node's side, which takes the other end with it. A missing one is
    /// fine. The host route goes with the link. Call it on a thread in the node's namespace, as
    /// [`Network::open`].
    pub async fn pod_network_remove(&self, host_ifname: &str) -> Result<(), DatapathError> {
        let _turn = self.removals.acquire().await;
        pod::remove(host_ifname).await
    }

    /// Pod networks that exist on this node: our veths with the address that is routed to each. One that
    /// was begun and not finished has the address 0.0.0.0.
    pub async fn pod_networks(&self) -> Result<Vec<PodNetwork>, DatapathError> {
        let mut found: Vec<(u32, PodNetwork)> = Vec::new();
        for link in self.links().await? {
            for attribute in &link.attributes {
                if let LinkAttribute::IfName(name) = attribute
                    && name.starts_with(HOST_PREFIX)
                    && name.len() == HOST_PREFIX.len() + 12
                {
                    let network = PodNetwork {
                        host_ifname: name.clone(),
                        pod_ip: Ipv4Addr::UNSPECIFIED,
                    };
                    found.push((link.header.index, network));
                }
            }
        }
        for route in routes::ours(self).await? {
            if route.prefix_len == 32
                && let Some((_, network)) = found
                    .iter_mut()
                    .find(|(index, _)| Some(*index) == route.output_interface)
            {
                network.pod_ip = route.destination;
            }
        }
        let mut networks: Vec<PodNetwork> = found.into_iter().map(|(_, network)| network).collect();
        networks.sort();
        Ok(networks)
    }

    /// Writes a pod's "namespace/name" to its veth as alias: `ip link` shows it, and
    /// [`Self::pod_names`] finds it.
    pub async fn pod_network_name(
        &self,
        host_ifname: &str,
        pod: &str,
    ) -> Result<(), DatapathError> {
        let Some(index) = link_index(&self.handle, host_ifname).await? else {
            return Ok(());
        };
        // The kernel keeps at most 255 bytes (IFALIASZ).
        let alias: String = pod.chars().take(255).collect();
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).alias(alias).build())
            .execute()
            .await
            .map_err(|error| network_error("name", host_ifname, error))
    }

    /// "namespace/name" and address of the pods of this node.
    pub async fn pod_names(&self) -> Result<Vec<(String, Ipv4Addr)>, DatapathError> {
        let networks = self.pod_networks().await?;
        let mut names = Vec::new();
        for link in self.links().await? {
            let mut ifname = None;
            let mut alias = None;
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => ifname = Some(name),
                    LinkAttribute::IfAlias(name) => alias = Some(name),
                    _ => {}
                }
            }
            if let (Some(ifname), Some(alias)) = (ifname, alias)
                && let Some(network) = networks.iter().find(|known| known.host_ifname == ifname)
            {
                names.push((alias, network.pod_ip));
            }
        }
        Ok(names)
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, DatapathError> {
        let _turn = self.lists.lock().await;
        let links = self.handle.link().get().execute();
        links
            .try_collect()
            .await
            .map_err(|error| network_error("list", "links", error))
    }

    /// Sets the routes to other nodes' pods.
    pub async fn sync_routes(
        &self,
        routes: &[NodeRoute],
        strangers: Strangers,
    ) -> Result<(), DatapathError> {
        routes::sync(self, routes, strangers).await
    }
}

/// Opens netlink in the network namespace of the calling thread. Nothing moves before the connection is polled.
fn open_netlink(
    object: &str,
) -> Result<(impl Future<Output = ()> + Send + 'static + use<>, Handle), DatapathError> {
    let (connection, handle, _messages) =
        rtnetlink::new_connection().map_err(|source| DatapathError::Network {
            action: "open",
            object: object.to_owned(),
            source,
        })?;
    Ok((connection, handle))
}

pub(crate) fn route_builder() -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new().protocol(ROUTE_PROTOCOL.into())
}

/// The index of a link, where there is one of this name.
pub(crate) async fn link_index(handle: &Handle, name: &str) -> Result<Option<u32>, DatapathError> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if is(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(network_error("find", name, error)),
    }
}

pub(crate) fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

pub(crate) fn network_error(
    action: &'static str,
    object: &str,
    error: rtnetlink::Error,
) -> DatapathError {
    let source = match &error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        _ => io::Error::other(error),
    };
    DatapathError::Network {
        action,
        object: object.to_owned(),
        source,
    }
}

/// Writes a sysctl of the network namespace of the calling thread.
fn set_sysctl(name: &str, value: &str) -> Result<(), DatapathError> {
    let path = std::path::Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| DatapathError::File {
        action: "write",
        path,
        source,
    })
}

/// A descriptor of our own for work on another thread.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, DatapathError> {
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::Network {
            action: "keep",
            object: "a network namespace".to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veth_is_named_by_its_pods_uid_and_fits_the_kernel() {
        let name = PodNetwork::host_ifname("3f2a8c1e-0b7d-4e55-9c36-1234567890ab");
        assert_eq!(name, "knr3f2a8c1e0b7d");
        assert_eq!(name.len(), 15);
    }
}
