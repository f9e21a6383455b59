// SPDX-License-Identifier: Apache-2.0
//! Notifications of the kernel about the node's own addresses, links and routes: a NodePort holds on an address that comes
//! later, and routes have to be set again after their link went down or when somebody removed them: systemd-networkd
//! removes every route that it did not make itself (networkd.conf(5), ManageForeignRoutes=).
//!
//! Says that something changed, never what: the caller looks again. Called by the agent's network loop.

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};

use super::{HOST_PREFIX, ROUTE_PROTOCOL};
use crate::error::DatapathError;

/// What to look at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Whether an IPv4 address came or went.
    pub addresses: bool,
    /// Whether routes may be gone: one of ours was removed, or a link that is no pod's changed. The kernel drops the
    /// routes of a link that goes down, and does not tell of each.
    pub links: bool,
}

impl Changed {
    /// Everything.
    pub const ALL: Changed = Changed {
        addresses: true,
        links: true,
    };

    fn and(self, other: Changed) -> Changed {
        Changed {
            addresses: self.addresses || other.addresses,
            links: self.links || other.links,
        }
    }
}

/// Notifications of one network namespace.
pub struct NetworkChanges {
    changes: BoxStream<'static, Changed>,
}

impl NetworkChanges {
    /// Listens in the network namespace of the calling thread, inside a tokio runtime. Changes after this call
    /// are reported, so look once after it.
    pub fn open() -> Result<Self, DatapathError> {
        let groups = [
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Link,
            MulticastGroup::Ipv4Route,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(|source| {
                DatapathError::Network {
                    action: "listen to",
                    object: "changes of addresses and links".to_owned(),
                    source,
                }
            })?;
        // Ends when the messages are dropped; the handle keeps it alive until then.
        tokio::spawn(connection);
        let changes = messages.filter_map(move |(message, _)| {
            let _alive = &handle;
            std::future::ready(changed(&message))
        });
        Ok(Self {
            changes: changes.boxed(),
        })
    }

    /// Waits for the next change, and takes all that came with it; everything counts as changed when the kernel had to
    /// drop notifications. `None` when the socket broke: open it again and look. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Changed> {
        let mut changed = self.changes.next().await?;
        while let Some(Some(more)) = self.changes.next().now_or_never() {
            changed = changed.and(more);
        }
        Some(changed)
    }
}

/// What one notification is about; none where it does not matter.
fn changed(message: &NetlinkMessage<RouteNetlinkMessage>) -> Option<Changed> {
    let message = match &message.payload {
        NetlinkPayload::InnerMessage(message) => message,
        // They came faster than they were read, and the kernel dropped some.
        NetlinkPayload::Overrun(_) => return Some(Changed::ALL),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Changed {
            addresses: true,
            links: false,
        }),
        RouteNetlinkMessage::NewLink(link) if !is_pod(link) => Some(Changed {
            addresses: false,
            links: true,
        }),
        RouteNetlinkMessage::DelRoute(route) if route.header.protocol == ROUTE_PROTOCOL.into() => {
            Some(Changed {
                addresses: false,
                links: true,
            })
        }
        _ => None,
    }
}

fn is_pod(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(HOST_PREFIX))
    })
}
