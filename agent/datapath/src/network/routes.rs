// SPDX-License-Identifier: Apache-2.0
//! Routes of the node: to other nodes' pods, and the `unreachable` ones that keep packets for pods and
//! Services that do not exist from leaving by the default route. Ours carry our protocol number, and
//! only those are ever removed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::{Network, NodeRoute, ROUTE_PROTOCOL, Strangers, is, network_error, route_builder};
use crate::error::DatapathError;

/// A route of ours as the kernel has it.
#[derive(Clone, Debug)]
pub(super) struct OurRoute {
    pub(super) destination: Ipv4Addr,
    pub(super) prefix_len: u8,
    pub(super) gateway: Option<Ipv4Addr>,
    pub(super) output_interface: Option<u32>,
    kind: RouteType,
    message: RouteMessage,
}

pub(super) async fn ours(network: &Network) -> Result<Vec<OurRoute>, DatapathError> {
    let all = super::RouteMessageBuilder::<Ipv4Addr>::new().build();
    let _turn = network.lists.lock().await;
    let mut routes = network.handle.route().get(all).execute();
    let mut found = Vec::new();
    while let Some(message) = routes
        .try_next()
        .await
        .map_err(|error| network_error("list", "routes", error))?
    {
        if message.header.protocol == ROUTE_PROTOCOL.into() {
            found.push(read(message));
        }
    }
    Ok(found)
}

fn read(message: RouteMessage) -> OurRoute {
    let mut route = OurRoute {
        destination: Ipv4Addr::UNSPECIFIED,
        prefix_len: message.header.destination_prefix_length,
        gateway: None,
        output_interface: None,
        kind: message.header.kind,
        message,
    };
    for attribute in &route.message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = *address;
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some(*address),
            RouteAttribute::Oif(index) => route.output_interface = Some(*index),
            _ => {}
        }
    }
    route
}

/// Sets the routes to other nodes.
pub(super) async fn sync(
    network: &Network,
    wanted: &[NodeRoute],
    strangers: Strangers,
) -> Result<(), DatapathError> {
    let handle = &network.handle;
    let wanted: BTreeSet<NodeRoute> = wanted.iter().copied().collect();
    let mut present = BTreeSet::new();
    for route in ours(network).await? {
        let Some(via) = route.gateway else { continue };
        let Ok(pod_cidr) = Ipv4Net::new(route.destination, route.prefix_len) else {
            continue;
        };
        let known = NodeRoute { pod_cidr, via };
        if wanted.contains(&known) {
            present.insert(known);
        } else if strangers == Strangers::Remove {
            remove(handle, route).await?;
        }
    }
    for route in wanted.difference(&present) {
        let message = route_builder()
            .destination_prefix(route.pod_cidr.network(), route.pod_cidr.prefix_len())
            .gateway(route.via)
            .build();
        handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(|error| {
                let what = format!("{} via {}", route.pod_cidr, route.via);
                network_error("set the route", &what, error)
            })?;
    }
    Ok(())
}

/// Makes the `unreachable` routes exactly these.
pub(super) async fn guard(
    network: &Network,
    cluster_cidrs: &[Ipv4Net],
    service_cidrs: &[Ipv4Net],
) -> Result<(), DatapathError> {
    let handle = &network.handle;
    let wanted: BTreeSet<Ipv4Net> = cluster_cidrs.iter().chain(service_cidrs).copied().collect();
    let mut present = BTreeSet::new();
    for route in ours(network).await? {
        if route.kind != RouteType::Unreachable {
            continue;
        }
        match Ipv4Net::new(route.destination, route.prefix_len) {
            Ok(range) if wanted.contains(&range) => {
                present.insert(range);
            }
            _ => remove(handle, route).await?,
        }
    }
    for range in wanted.difference(&present) {
        let message = route_builder()
            .destination_prefix(range.network(), range.prefix_len())
            .kind(RouteType::Unreachable)
            .build();
        match handle.route().add(message).execute().await {
            Err(error) if is(&error, libc::EEXIST) => {}
            result => result.map_err(|error| {
                network_error("set the unreachable route", &range.to_string(), error)
            })?,
        }
    }
    Ok(())
}

async fn remove(handle: &Handle, route: OurRoute) -> Result<(), DatapathError> {
    let what = format!("{}/{}", route.destination, route.prefix_len);
    match handle.route().del(route.message).execute().await {
        Err(error) if is(&error, libc::ESRCH) => Ok(()),
        result => result.map_err(|error| network_error("remove the route", &what, error)),
    }
}
