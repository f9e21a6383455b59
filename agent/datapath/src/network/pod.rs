// SPDX-License-Identifier: Apache-2.0
//! The veth pair of one pod and both of its ends.
//!
//! The pod's end is made inside the pod's namespace at once, so no half-made link is ever seen on the
//! node under its name. Neighbours on both ends are permanent: no ARP, and no link needs an address.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{
    Network, PodNetwork, duplicate, is, link_index, network_error, open_netlink, route_builder,
};
use crate::error::DatapathError;
use crate::netns;

/// The gateway that every pod sees; link-local, so it is on no real network.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pod's end.
const POD_IFNAME: &str = "eth0";
/// Hardware address of every veth's end on the node: locally administered, the same everywhere, as no
/// two of them share a link.
const HOST_MAC: [u8; 6] = [0x0a, 0x6b, 0x6e, 0x00, 0x00, 0x01];

/// Hardware address of a pod: locally administered, made from its address.
fn pod_mac(pod_ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = pod_ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

pub(super) async fn add(
    node: &Network,
    pod: BorrowedFd<'_>,
    network: &PodNetwork,
) -> Result<(), DatapathError> {
    let (handle, name) = (&node.handle, &network.host_ifname);
    if configure_pod_end(pod, network.pod_ip).await?.is_none() {
        // What stands on the node under this name belongs to a namespace that is gone. Hardly ever there is
        // anything, and then nothing waits for its turn to remove.
        if link_index(handle, name).await?.is_some() {
            node.pod_network_remove(name).await?;
        }
        make_pair(handle, pod, network).await?;
        configure_pod_end(pod, network.pod_ip)
            .await?
            .ok_or_else(|| DatapathError::Network {
                action: "find",
                object: format!("{POD_IFNAME} in the pod's network namespace"),
                source: io::ErrorKind::NotFound.into(),
            })?;
    }
    configure_host_end(handle, network).await
}

/// Removes the node's end, and the pod's with it.
///
/// The kernel answers after an RCU barrier, which takes tens of milliseconds while namespaces end, and until
/// then it holds up the socket and the thread that asked. So both are of this call alone: pods that start
/// meanwhile do not wait.
pub(super) async fn remove(host_ifname: &str) -> Result<(), DatapathError> {
    let (connection, handle) = open_netlink("netlink")?;
    let name = host_ifname.to_owned();
    let runtime = tokio::runtime::Handle::current();
    let removed = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            // Both are dropped with the socket, whichever ends first.
            tokio::select! {
                result = delete(&handle, &name) => result,
                () = connection => Err(DatapathError::Network {
                    action: "remove",
                    object: name.clone(),
                    source: io::ErrorKind::ConnectionAborted.into(),
                }),
            }
        })
    });
    removed.await.unwrap_or_else(|error| {
        Err(DatapathError::Network {
            action: "remove",
            object: host_ifname.to_owned(),
            source: io::Error::other(error),
        })
    })
}

async fn delete(handle: &Handle, name: &str) -> Result<(), DatapathError> {
    let Some(index) = link_index(handle, name).await? else {
        return Ok(());
    };
    match handle.link().del(index).execute().await {
        Err(error) if is(&error, libc::ENODEV) => Ok(()),
        result => result.map_err(|error| network_error("remove", name, error)),
    }
}

async fn make_pair(
    handle: &Handle,
    pod: BorrowedFd<'_>,
    network: &PodNetwork,
) -> Result<(), DatapathError> {
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_IFNAME.to_owned())
        .address(pod_mac(network.pod_ip).to_vec())
        .build();
    peer.attributes
        .push(LinkAttribute::NetNsFd(pod.as_fd().as_raw_fd()));
    let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(network.host_ifname.clone())
        .address(HOST_MAC.to_vec())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .up()
        .build();
    handle
        .link()
        .add(pair)
        .execute()
        .await
        .map_err(|error| network_error("make the veth", &network.host_ifname, error))
}

async fn configure_host_end(handle: &Handle, network: &PodNetwork) -> Result<(), DatapathError> {
    let name = &network.host_ifname;
    let index = link_index(handle, name)
        .await?
        .ok_or_else(|| DatapathError::Network {
            action: "find",
            object: name.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(|error| network_error("bring up", name, error))?;
    handle
        .neighbours()
        .add(index, IpAddr::V4(network.pod_ip))
        .link_layer_address(&pod_mac(network.pod_ip))
        .replace()
        .execute()
        .await
        .map_err(|error| network_error("set the neighbour of", name, error))?;
    let route = route_builder()
        .destination_prefix(network.pod_ip, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    handle
        .route()
        .add(route)
        .replace()
        .execute()
        .await
        .map_err(|error| network_error("set the route to", name, error))
}

/// Sets up the pod's end inside its namespace; `None` when there is no such link.
async fn configure_pod_end(
    pod: BorrowedFd<'_>,
    pod_ip: Ipv4Addr,
) -> Result<Option<()>, DatapathError> {
    let pod = duplicate(pod)?;
    let joined = tokio::task::spawn_blocking(move || {
        netns::inside(pod.as_fd(), || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(async {
                let (connection, handle) = open_netlink("netlink of a pod")?;
                let connection = tokio::spawn(connection);
                let result = pod_end(&handle, pod_ip).await;
                connection.abort();
                result
            }))
        })
    })
    .await;
    let entered = joined.unwrap_or_else(|error| Err(io::Error::other(error)));
    entered.unwrap_or_else(|source| {
        Err(DatapathError::Network {
            action: "enter",
            object: "a pod's network namespace".to_owned(),
            source,
        })
    })
}

async fn pod_end(handle: &Handle, pod_ip: Ipv4Addr) -> Result<Option<()>, DatapathError> {
    let Some(index) = link_index(handle, POD_IFNAME).await? else {
        return Ok(None);
    };
    for (name, index) in [
        ("lo", link_index(handle, "lo").await?),
        (POD_IFNAME, Some(index)),
    ] {
        let Some(index) = index else { continue };
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(|error| network_error("bring up", name, error))?;
    }
    match handle
        .address()
        .add(index, IpAddr::V4(pod_ip), 32)
        .execute()
        .await
    {
        Err(error) if is(&error, libc::EEXIST) => {}
        result => result.map_err(|error| network_error("add the address of", POD_IFNAME, error))?,
    }
    handle
        .neighbours()
        .add(index, IpAddr::V4(GATEWAY))
        .link_layer_address(&HOST_MAC)
        .replace()
        .execute()
        .await
        .map_err(|error| network_error("set the gateway of", POD_IFNAME, error))?;
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .build();
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(GATEWAY)
        .output_interface(index)
        .build();
    for route in [to_gateway, default] {
        handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(|error| network_error("set a route of", POD_IFNAME, error))?;
    }
    Ok(Some(()))
}

#[cfg(test)]
mod tests {
    use super::super::REMOVALS_MAX;
    use super::*;
    use nix::sched::{CloneFlags, unshare};
    use std::fs::File;
    use std::time::Duration;

    /// Work in a network namespace of its own, which ends with its thread and the descriptors to it.
    fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own; run it as root");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn namespace() -> File {
        elsewhere(|| File::open("/proc/thread-self/ns/net").expect("opens"))
    }

    #[test]
    fn a_link_that_is_left_is_removed_in_turn_and_a_new_pod_waits_for_no_turn() {
        elsewhere(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime");
            runtime.block_on(async {
                let node = Network::open().expect("netlink");
                let network = PodNetwork {
                    host_ifname: PodNetwork::host_ifname("3f2a8c1e-0b7d"),
                    pod_ip: Ipv4Addr::new(10, 244, 1, 2),
                };
                let turns = u32::try_from(REMOVALS_MAX).expect("few");
                let turns = node.removals.acquire_many(turns).await.expect("open");
                let (first, second) = (namespace(), namespace());
                let wait = Duration::from_millis(100);
                let added = tokio::time::timeout(
                    Duration::from_secs(30),
                    add(&node, first.as_fd(), &network),
                );
                added.await.expect("no turn").expect("added");
                let waiting = add(&node, second.as_fd(), &network);
                let waited = tokio::time::timeout(wait, waiting).await;
                assert!(waited.is_err(), "every turn is taken: {waited:?}");
                drop(turns);
                add(&node, second.as_fd(), &network).await.expect("added");
            });
        });
    }
}
