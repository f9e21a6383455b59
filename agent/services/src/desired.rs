// SPDX-License-Identifier: Apache-2.0
//! What the control plane wants, and what that means on this node: which addresses answer and with which
//! backends. Policies follow kube-proxy 1.37: a NodePort called from this node or its pods uses all
//! backends, `externalTrafficPolicy: Local` counts for callers outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use knarr_ebpf_common::{
    Address, BACKEND_ACTIVE, BACKEND_DRAINED, BACKEND_LOCAL, BACKEND_TERMINATING, PROTOCOL_TCP,
    PROTOCOL_UDP, SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_EXTERNAL, SCOPE_NODE_PORT_INTERNAL,
    SERVICE_DROP_WHEN_EMPTY, SERVICE_LOCAL_ONLY, SERVICE_NODE_PORT, ServiceKey, mapped,
};

use super::small::SmallMap;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ServiceName {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, which the datapath does not carry.
    Sctp,
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TrafficPolicy {
    /// All backends.
    #[default]
    Cluster,
    /// Only those of this node.
    Local,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredPort {
    /// Name; empty where the Service has one port.
    pub name: String,
    /// Protocol.
    pub protocol: ServiceProtocol,
    /// Port on the Service's addresses.
    pub port: u16,
    /// NodePort, where it has one.
    pub node_port: Option<u16>,
}

/// A Service without its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// Its name.
    pub name: ServiceName,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<DesiredPort>,
    /// Timeout of ClientIP affinity in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
}

/// Identity of an endpoint behind a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointKey {
    /// The Service.
    pub service: ServiceName,
    /// Its port's name.
    pub port_name: String,
    /// Address.
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
}

/// One address behind one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredEndpoint {
    /// The Service.
    pub service: ServiceName,
    /// Its port's name.
    pub port_name: String,
    /// Address.
    pub address: IpAddr,
    /// Target port.
    pub port: u16,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// Node that it runs on.
    pub node_name: String,
    /// "namespace/name" of its pod; may be empty.
    pub pod: String,
}

impl DesiredEndpoint {
    /// Its identity.
    pub fn key(&self) -> EndpointKey {
        EndpointKey {
            service: self.service.clone(),
            port_name: self.port_name.clone(),
            address: self.address,
            port: self.port,
        }
    }
}

/// Names of nodes, each once.
#[derive(Debug, Default)]
pub(super) struct Nodes(BTreeSet<Arc<str>>);

impl Nodes {
    fn share(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.0.get(name.as_str()) {
            return known.clone();
        }
        // Nodes that are gone are forgotten when others come.
        self.0.retain(|name| Arc::strong_count(name) > 1);
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

/// The endpoints of one Service port, by address and port.
pub(super) type Endpoints = SmallMap<(IpAddr, u16), Endpoint>;

/// What is kept of an endpoint beside its identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    state: u8,
    node: Arc<str>,
    pod: Box<str>,
}

impl Endpoint {
    pub(super) fn new(endpoint: DesiredEndpoint, nodes: &mut Nodes) -> Self {
        Self {
            state: endpoint.state(),
            node: nodes.share(endpoint.node_name),
            pod: endpoint.pod.into(),
        }
    }
}

impl DesiredEndpoint {
    fn state(&self) -> u8 {
        match (self.ready, self.serving, self.terminating) {
            // Also while terminating: a Service that publishes addresses that are not ready says so on purpose.
            (true, _, _) => BACKEND_ACTIVE,
            (false, true, true) => BACKEND_TERMINATING,
            _ => BACKEND_DRAINED,
        }
    }
}

/// Something that this datapath does not carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A protocol.
    #[error("Service {service}: port \"{port}\" uses SCTP, which this datapath does not carry")]
    Protocol {
        /// The Service.
        service: ServiceName,
        /// Port name.
        port: String,
    },
    /// An address family.
    #[error("Service {service}: address {address} is IPv6, which this datapath does not carry")]
    Family {
        /// The Service.
        service: ServiceName,
        /// The address.
        address: IpAddr,
    },
}

impl DesiredService {
    pub(super) fn refusals(&self) -> Vec<Refusal> {
        let protocols = self
            .ports
            .iter()
            .filter(|port| port.protocol == ServiceProtocol::Sctp)
            .map(|port| Refusal::Protocol {
                service: self.name.clone(),
                port: port.name.clone(),
            });
        let families = self
            .cluster_ips
            .iter()
            .filter(|address| address.is_ipv6())
            .map(|address| Refusal::Family {
                service: self.name.clone(),
                address: *address,
            });
        protocols.chain(families).collect()
    }
}

/// Which of the two sets of backends of a Service port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetKind {
    /// All of them.
    Cluster,
    /// Those of this node.
    Local,
}

/// A backend as it should stand in the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedBackend {
    pub(super) state: u8,
    pub(super) flags: u8,
    pub(super) pod: Box<str>,
    pub(super) node: Arc<str>,
}

/// A Service port as it should stand in the maps of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) affinity_seconds: u32,
    pub(super) needs_table: NeedsTable,
    pub(super) keys: Vec<(ServiceKey, SetKind, u16)>,
    pub(super) backends: BTreeMap<(Address, u16), WantedBackend>,
}

/// Whether a consistent hash table is needed: for affinity and for callers from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NeedsTable {
    No,
    Yes,
}

/// What a Service port means on this node; `None` when nothing of it can be carried.
pub(super) fn resolve(
    service: &DesiredService,
    port: &DesiredPort,
    endpoints: &Endpoints,
    node_name: &str,
) -> Option<Wanted> {
    let protocol = match port.protocol {
        ServiceProtocol::Tcp => PROTOCOL_TCP,
        ServiceProtocol::Udp => PROTOCOL_UDP,
        ServiceProtocol::Sctp => return None,
    };
    let mut backends = BTreeMap::new();
    for ((address, number), endpoint) in endpoints.iter() {
        let IpAddr::V4(address) = address else {
            continue;
        };
        let local = *endpoint.node == *node_name;
        backends.insert(
            (mapped(address.octets()), number.to_be()),
            WantedBackend {
                state: endpoint.state,
                flags: if local { BACKEND_LOCAL } else { 0 },
                pod: endpoint.pod.clone(),
                node: endpoint.node.clone(),
            },
        );
    }
    let anywhere = backends
        .values()
        .any(|backend: &WantedBackend| backend.state != BACKEND_DRAINED);
    let local_flags = SERVICE_LOCAL_ONLY | if anywhere { SERVICE_DROP_WHEN_EMPTY } else { 0 };
    let key = |vip, port: u16, scope| ServiceKey {
        vip,
        port_be: port.to_be(),
        protocol,
        scope,
    };
    let mut keys = Vec::new();
    for address in service.cluster_ips.iter().filter_map(ipv4) {
        let key = key(mapped(address.octets()), port.port, SCOPE_CLUSTER_IP);
        match service.internal_policy {
            TrafficPolicy::Cluster => keys.push((key, SetKind::Cluster, 0)),
            TrafficPolicy::Local => keys.push((key, SetKind::Local, local_flags)),
        }
    }
    if let Some(node_port) = port.node_port {
        keys.push((
            key([0; 16], node_port, SCOPE_NODE_PORT_INTERNAL),
            SetKind::Cluster,
            SERVICE_NODE_PORT,
        ));
        let outside = key([0; 16], node_port, SCOPE_NODE_PORT_EXTERNAL);
        keys.push(match service.external_policy {
            TrafficPolicy::Cluster => (outside, SetKind::Cluster, SERVICE_NODE_PORT),
            TrafficPolicy::Local => (outside, SetKind::Local, SERVICE_NODE_PORT | local_flags),
        });
    }
    (!keys.is_empty()).then_some(Wanted {
        affinity_seconds: service.affinity_seconds,
        needs_table: if service.affinity_seconds > 0 || port.node_port.is_some() {
            NeedsTable::Yes
        } else {
            NeedsTable::No
        },
        keys,
        backends,
    })
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}
