// SPDX-License-Identifier: Apache-2.0
//! Services and their endpoints, sent one endpoint at a time.
//!
//! EndpointSlices are a packing of endpoints that only matters to the API; here they are taken apart, so
//! that one pod becoming ready costs the nodes one small message, also in a large Service.

use std::collections::{BTreeMap, BTreeSet};

use knarr_api::feed::{
    EndpointRemove, EndpointSet, Protocol, ServicePort, ServiceRemove, ServiceSet, change,
};
use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use knarr_api::names::NamespacedName;

use super::{FeedView, Outgoing};

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Session affinity timeout where the Service gives none (Kubernetes' default: three hours).
const AFFINITY_SECONDS: u32 = 10_800;

/// One address behind one port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointKey {
    /// Name of the Service's port; empty where it has none.
    pub port_name: String,
    /// IP address as text.
    pub address: String,
    /// Target port.
    pub port: u16,
}

/// A Service with what its slices say.
#[derive(Debug, Default)]
pub(super) struct ServiceView {
    /// `None` while there is no Service of this name, or one that nodes need not know.
    told: Option<ServiceSet>,
    /// By slice, because an endpoint may stand in two slices while it moves from one to the other.
    endpoints: BTreeMap<EndpointKey, BTreeMap<String, EndpointSet>>,
}

impl ServiceView {
    fn effective(&self, key: &EndpointKey) -> Option<&EndpointSet> {
        let copies = self.endpoints.get(key)?;
        copies
            .values()
            .find(|endpoint| endpoint.ready)
            .or_else(|| copies.values().next())
    }

    pub(super) fn snapshot(&self) -> Vec<change::Change> {
        let Some(service) = &self.told else {
            return Vec::new();
        };
        let endpoints = self.endpoints.keys().filter_map(|key| self.effective(key));
        std::iter::once(change::Change::ServiceSet(service.clone()))
            .chain(endpoints.cloned().map(change::Change::EndpointSet))
            .collect()
    }

    fn is_empty(&self) -> bool {
        self.told.is_none() && self.endpoints.is_empty()
    }
}

impl FeedView {
    /// Takes in a Service as it is now.
    pub fn observe_service(&mut self, service: &Service) -> Vec<Outgoing> {
        let name = NamespacedName::new(
            service.metadata.namespace.clone().unwrap_or_default(),
            service.metadata.name.clone().unwrap_or_default(),
        );
        let Some(set) = service_set(&name, service) else {
            return self.forget_service(&name);
        };
        let view = self.services.entry(name.clone()).or_default();
        let changes = match view.told.replace(set.clone()) {
            Some(old) if old == set => Vec::new(),
            Some(old) if old.uid == set.uid => vec![change::Change::ServiceSet(set)],
            Some(_) => std::iter::once(remove(&name))
                .chain(view.snapshot())
                .collect(),
            None => view.snapshot(),
        };
        changes.into_iter().map(Outgoing::all).collect()
    }

    /// Takes in that there is no such Service any more.
    pub fn forget_service(&mut self, name: &NamespacedName) -> Vec<Outgoing> {
        let Some(view) = self.services.get_mut(name) else {
            return Vec::new();
        };
        let told = view.told.take().is_some();
        if view.is_empty() {
            self.services.remove(name);
        }
        if told {
            vec![Outgoing::all(remove(name))]
        } else {
            Vec::new()
        }
    }

    /// Takes in an EndpointSlice as it is now.
    pub fn observe_slice(&mut self, slice: &EndpointSlice) -> Vec<Outgoing> {
        let namespace = slice.metadata.namespace.clone().unwrap_or_default();
        let slice_name = slice.metadata.name.clone().unwrap_or_default();
        let name = NamespacedName::new(namespace.clone(), slice_name);
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE_NAME)) else {
            return self.forget_slice(&name);
        };
        let service = NamespacedName::new(namespace, service);
        let mut out = Vec::new();
        if self.slices.get(&name).is_some_and(|old| *old != service) {
            out.extend(self.forget_slice(&name));
        }
        self.slices.insert(name.clone(), service.clone());
        out.extend(self.replace_slice(&service, &name.name, endpoints(&service, slice)));
        out
    }

    /// Takes in that there is no such EndpointSlice any more.
    pub fn forget_slice(&mut self, name: &NamespacedName) -> Vec<Outgoing> {
        match self.slices.remove(name) {
            Some(service) => self.replace_slice(&service, &name.name, BTreeMap::new()),
            None => Vec::new(),
        }
    }

    fn replace_slice(
        &mut self,
        service: &NamespacedName,
        slice: &str,
        mut wanted: BTreeMap<EndpointKey, EndpointSet>,
    ) -> Vec<Outgoing> {
        let view = self.services.entry(service.clone()).or_default();
        let held = |copies: &BTreeMap<String, EndpointSet>| copies.contains_key(slice);
        let touched: BTreeSet<EndpointKey> = view
            .endpoints
            .iter()
            .filter(|(_, copies)| held(copies))
            .map(|(key, _)| key.clone())
            .chain(wanted.keys().cloned())
            .collect();
        let mut changes = Vec::new();
        for key in touched {
            let before = view.effective(&key).cloned();
            let copies = view.endpoints.entry(key.clone()).or_default();
            match wanted.remove(&key) {
                Some(endpoint) => copies.insert(slice.to_owned(), endpoint),
                None => copies.remove(slice),
            };
            if copies.is_empty() {
                view.endpoints.remove(&key);
            }
            match (before, view.effective(&key)) {
                (before, Some(after)) if before.as_ref() != Some(after) => {
                    changes.push(change::Change::EndpointSet(after.clone()));
                }
                (Some(_), None) => {
                    changes.push(change::Change::EndpointRemove(EndpointRemove {
                        namespace: service.namespace.clone(),
                        service: service.name.clone(),
                        port_name: key.port_name,
                        address: key.address,
                        port: key.port.into(),
                    }));
                }
                _ => {}
            }
        }
        let told = view.told.is_some();
        if view.is_empty() {
            self.services.remove(service);
        }
        // Endpoints of a Service that nodes do not know are kept until they do.
        let changes = if told { changes } else { Vec::new() };
        changes.into_iter().map(Outgoing::all).collect()
    }
}

/// The Service is gone and its endpoints with it: no `EndpointRemove` follows for them.
fn remove(name: &NamespacedName) -> change::Change {
    change::Change::ServiceRemove(ServiceRemove {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    })
}

fn protocol(name: Option<&str>) -> i32 {
    match name {
        Some("UDP") => Protocol::Udp.into(),
        Some("SCTP") => Protocol::Sctp.into(),
        _ => Protocol::Tcp.into(),
    }
}

/// `None` for a Service without a cluster address: headless or ExternalName.
fn service_set(name: &NamespacedName, service: &Service) -> Option<ServiceSet> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let single = || spec.cluster_ip.clone().into_iter().collect();
    let cluster_ips: Vec<String> = spec.cluster_ips.clone().unwrap_or_else(single);
    if cluster_ips.iter().all(|ip| ip.is_empty() || ip == "None") {
        return None;
    }
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let timeout = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .unwrap_or(AFFINITY_SECONDS);
    Some(ServiceSet {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        cluster_ips,
        ports: spec
            .ports
            .iter()
            .flatten()
            .map(|port| ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref()),
                port: u32::try_from(port.port).unwrap_or_default(),
                node_port: port
                    .node_port
                    .and_then(|port| u32::try_from(port).ok())
                    .unwrap_or_default(),
            })
            .collect(),
        affinity_seconds: if spec.session_affinity.as_deref() == Some("ClientIP") {
            timeout
        } else {
            0
        },
        internal_local: local(&spec.internal_traffic_policy),
        external_local: local(&spec.external_traffic_policy),
    })
}

fn endpoints(
    service: &NamespacedName,
    slice: &EndpointSlice,
) -> BTreeMap<EndpointKey, EndpointSet> {
    let mut found = BTreeMap::new();
    for endpoint in slice.endpoints.iter().flatten() {
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else {
                continue;
            };
            for address in &endpoint.addresses {
                let key = EndpointKey {
                    port_name: port.name.clone().unwrap_or_default(),
                    address: address.clone(),
                    port: number,
                };
                let set = endpoint_set(service, &key, endpoint);
                found.insert(key, set);
            }
        }
    }
    found
}

fn endpoint_set(service: &NamespacedName, key: &EndpointKey, endpoint: &Endpoint) -> EndpointSet {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // Absent conditions mean ready and serving (EndpointConditions' documentation).
    let ready = conditions.ready.unwrap_or(true);
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    EndpointSet {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port_name: key.port_name.clone(),
        address: key.address.clone(),
        port: key.port.into(),
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node_name: endpoint.node_name.clone().unwrap_or_default(),
        zone: endpoint.zone.clone().unwrap_or_default(),
        pod: pod
            .and_then(|pod| Some(format!("{}/{}", service.namespace, pod.name.as_ref()?)))
            .unwrap_or_default(),
    }
}
