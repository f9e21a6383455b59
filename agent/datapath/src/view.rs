// SPDX-License-Identifier: Apache-2.0
//! The maps seen by Service port instead of by entry, with names: what `service ls` and `service get`
//! print and what `explain` starts from.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use knarr_ebpf_common::{
    BACKEND_ACTIVE, BACKEND_TERMINATING, BackendEntry, Counters, MapContents, PROTOCOL_TCP,
    SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_EXTERNAL, SCOPE_NODE_PORT_INTERNAL, ServiceEntry, ServiceKey,
};

pub use crate::address::v4;
use crate::error::DatapathError;
use crate::inspect::Inspector;
use crate::names::Names;

/// One port of one Service as the maps have it.
#[derive(Clone, Debug)]
pub struct PortView {
    /// Service id.
    pub id: u32,
    /// Namespace of the Service; empty where no name is known.
    pub namespace: String,
    /// Name of the Service; `id-N` where no name is known.
    pub name: String,
    /// Name of the port; may be empty.
    pub port_name: String,
    /// The addresses that lead to it.
    pub keys: BTreeMap<ServiceKey, ServiceEntry>,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// A backend with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// Backend id.
    pub id: u32,
    /// Its entry.
    pub entry: BackendEntry,
    /// "namespace/name" of the pod, where known.
    pub pod: String,
    /// Its node, where known.
    pub node: String,
}

impl BackendView {
    /// Address and port.
    pub fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(v4(&self.entry.address), u16::from_be(self.entry.port_be))
    }

    /// The state in a word.
    pub fn state(&self) -> &'static str {
        match self.entry.state {
            BACKEND_ACTIVE => "ready",
            BACKEND_TERMINATING => "terminating",
            _ => "drained",
        }
    }

    /// For people: the pod's name where known, with its address and node.
    pub fn describe(&self) -> String {
        let mut text = match self.pod.as_str() {
            "" => format!("backend {} at {}", self.id, self.address()),
            pod => format!("{pod} at {} (backend {})", self.address(), self.id),
        };
        if !self.node.is_empty() {
            text.push_str(&format!(" on {}", self.node));
        }
        text
    }
}

impl PortView {
    /// `namespace/name`.
    pub fn service(&self) -> String {
        match self.namespace.as_str() {
            "" => self.name.clone(),
            namespace => format!("{namespace}/{}", self.name),
        }
    }

    /// The key and entry of one scope.
    pub fn entry(&self, scope: u8) -> Option<(&ServiceKey, &ServiceEntry)> {
        self.keys.iter().find(|(key, _)| key.scope == scope)
    }

    /// Address and port of the ClusterIP, where it has one.
    pub fn cluster_ip(&self) -> Option<SocketAddrV4> {
        self.entry(SCOPE_CLUSTER_IP)
            .map(|(key, _)| SocketAddrV4::new(v4(&key.vip), u16::from_be(key.port_be)))
    }

    /// The NodePort, where it has one.
    pub fn node_port(&self) -> Option<u16> {
        self.entry(SCOPE_NODE_PORT_EXTERNAL)
            .or_else(|| self.entry(SCOPE_NODE_PORT_INTERNAL))
            .map(|(key, _)| u16::from_be(key.port_be))
    }

    /// `TCP` or `UDP`.
    pub fn protocol(&self) -> &'static str {
        match self.keys.keys().next() {
            Some(key) if key.protocol != PROTOCOL_TCP => "UDP",
            _ => "TCP",
        }
    }

    /// Number of backends in a state.
    pub fn count(&self, state: u8) -> usize {
        self.backends
            .iter()
            .filter(|backend| backend.entry.state == state)
            .count()
    }

    /// A backend by its id.
    pub fn backend(&self, id: u32) -> Option<&BackendView> {
        self.backends.iter().find(|backend| backend.id == id)
    }

    /// Whether the text names this port: by its number, its NodePort or its name.
    pub fn is_named(&self, port: &str) -> bool {
        if port == self.port_name && !port.is_empty() {
            return true;
        }
        let Ok(number) = port.parse::<u16>() else {
            return false;
        };
        self.cluster_ip().is_some_and(|ip| ip.port() == number) || self.node_port() == Some(number)
    }

    /// Counters, zero where it was never used.
    pub fn counters(&self, inspector: &Inspector) -> Result<Counters, DatapathError> {
        Ok(inspector.counters(self.id)?.unwrap_or_default())
    }
}

/// All Service ports, sorted by name.
pub fn ports(contents: &MapContents, names: &Names) -> Vec<PortView> {
    let mut ports: BTreeMap<u32, PortView> = BTreeMap::new();
    for (key, entry) in &contents.services {
        ports
            .entry(entry.service)
            .or_insert_with(|| empty(entry.service, names))
            .keys
            .insert(*key, *entry);
    }
    for (id, entry) in &contents.backends {
        let Some(port) = ports.get_mut(&entry.service) else {
            continue;
        };
        let named = names.backends.get(id);
        port.backends.push(BackendView {
            id: *id,
            entry: *entry,
            pod: named.map(|name| name.pod.clone()).unwrap_or_default(),
            node: named.map(|name| name.node.clone()).unwrap_or_default(),
        });
    }
    let mut ports: Vec<PortView> = ports.into_values().collect();
    for port in &mut ports {
        port.backends.sort_by_key(|backend| backend.id);
    }
    ports.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.port_name, a.id).cmp(&(
            &b.namespace,
            &b.name,
            &b.port_name,
            b.id,
        ))
    });
    ports
}

fn empty(id: u32, names: &Names) -> PortView {
    let named = names.services.get(&id);
    PortView {
        id,
        namespace: named.map(|name| name.namespace.clone()).unwrap_or_default(),
        name: named.map_or_else(|| format!("id-{id}"), |name| name.name.clone()),
        port_name: named.map(|name| name.port.clone()).unwrap_or_default(),
        keys: BTreeMap::new(),
        backends: Vec::new(),
    }
}
