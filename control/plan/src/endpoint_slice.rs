// SPDX-License-Identifier: Apache-2.0
//! The EndpointSlices of a Service with a selector.
//!
//! [`plan`] compares the pods that the Service selects with the slices that exist and changes as few slices
//! as it can: an endpoint stays in its slice and at its place there. Follows kube-controller-manager's
//! `endpointslice` controller (v1.37), except that a slice whose ports are no longer wanted is used again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use knarr_api::k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use knarr_api::k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use knarr_api::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::labels::Selector;

use crate::owners::new_controller_ref;
use crate::pods::PodView;
use crate::trigger_time::{annotate, changed_at, made_at};

/// Label that names a slice's Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who writes a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Label of everything that belongs to a Service without a cluster IP.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Value of [`MANAGED_BY`] for the slices planned here.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Most endpoints in one slice (kube-controller-manager's `--max-endpoints-per-slice`).
pub const ENDPOINTS_MAX: usize = 100;

/// One thing to do with a slice, in the order planned: additions before removals.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceAction {
    /// Create a slice; its name is generated.
    Create(Box<EndpointSlice>),
    /// Replace a slice, if it has not changed since.
    Update(Box<EndpointSlice>),
    /// Delete the slice of this name and uid.
    Delete {
        /// Name, in the Service's namespace.
        name: String,
        /// `metadata.uid`
        uid: String,
    },
}

/// What there is when a Service is looked at.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Pods of its namespace; those that its selector does not match do no harm.
    pub pods: &'a [&'a PodView],
    /// The zone of a node.
    pub zone_of: &'a dyn Fn(&str) -> Option<String>,
    /// Its slices that are managed by [`MANAGER`].
    pub slices: &'a [EndpointSlice],
}

/// The selector of a Service whose endpoints the control plane writes; `None` for all others.
pub fn selector_of(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())?;
    Some(Selector::from_map(selector))
}

/// Decides what the Service's slices need.
pub fn plan(view: View<'_>) -> Vec<SliceAction> {
    let service = view.service;
    let (Some(selector), Some(spec)) = (selector_of(service), &service.spec) else {
        return delete_all(view.slices);
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let owner = new_controller_ref("v1", "Service", &service.metadata);
    let head = SliceHead::of(&service.metadata, owner, MANAGER, is_headless(spec));
    let mut wanted = Vec::new();
    for family in families(spec) {
        let mut groups: BTreeMap<Vec<PortKey>, Vec<Endpoint>> = BTreeMap::new();
        for pod in view.pods {
            if pod.phase.is_terminal() || !selector.matches(&*pod.labels) {
                continue;
            }
            let Some(ip) = pod.ips.iter().find(|ip| family_of(ip) == Some(family)) else {
                continue;
            };
            let ports = resolve_ports(spec, pod);
            groups
                .entry(ports)
                .or_default()
                .push(endpoint(service, spec, pod, ip, view.zone_of));
        }
        for endpoints in groups.values_mut() {
            endpoints.sort_by(|a, b| identity(a).cmp(&identity(b)));
        }
        wanted.push(Wanted { family, groups });
    }
    let since = trigger_time(&view, &wanted);
    let mut actions = reconcile(&head, wanted, view.slices);
    for action in &mut actions {
        if let SliceAction::Create(slice) | SliceAction::Update(slice) = action {
            annotate(&mut slice.metadata, since);
        }
    }
    actions
}

/// The first change of a pod whose endpoint is wanted otherwise than it is.
fn trigger_time(view: &View<'_>, wanted: &[Wanted]) -> Option<Timestamp> {
    if view.slices.is_empty() {
        return made_at(view.service);
    }
    let known = view
        .slices
        .iter()
        .flat_map(|s| s.endpoints.iter().flatten());
    let known: HashMap<_, _> = known.map(|e| (identity(e), &e.conditions)).collect();
    let wanted = wanted.iter().flat_map(|w| w.groups.values().flatten());
    let changed: HashSet<&str> = wanted
        .filter(|endpoint| known.get(&identity(endpoint)) != Some(&&endpoint.conditions))
        .filter_map(|endpoint| identity(endpoint).1)
        .collect();
    let pods = view.pods.iter().filter(|pod| changed.contains(&*pod.uid));
    pods.filter_map(|pod| changed_at(pod)).min()
}

fn delete_all(slices: &[EndpointSlice]) -> Vec<SliceAction> {
    slices.iter().map(delete).collect()
}

fn delete(slice: &EndpointSlice) -> SliceAction {
    SliceAction::Delete {
        name: slice.metadata.name.clone().unwrap_or_default(),
        uid: slice.metadata.uid.clone().unwrap_or_default(),
    }
}

/// True for a headless Service, with or without selector.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// `IPv4` or `IPv6`; `None` for a text that is no address.
pub(crate) fn family_of(ip: &str) -> Option<&'static str> {
    match ip.parse() {
        Ok(IpAddr::V4(_)) => Some("IPv4"),
        Ok(IpAddr::V6(_)) => Some("IPv6"),
        Err(_) => None,
    }
}

fn families(spec: &ServiceSpec) -> Vec<&'static str> {
    let named = spec.ip_families.iter().flatten();
    let named: Vec<_> = named
        .map(|family| if family == "IPv6" { "IPv6" } else { "IPv4" })
        .collect();
    if named.is_empty() {
        vec![
            spec.cluster_ip
                .as_deref()
                .and_then(family_of)
                .unwrap_or("IPv4"),
        ]
    } else {
        named
    }
}

/// One port of a slice in a form that can be ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortKey {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

impl PortKey {
    fn of(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port.unwrap_or(0),
            app_protocol: port.app_protocol.clone(),
        }
    }

    fn to_port(&self) -> EndpointPort {
        EndpointPort {
            name: Some(self.name.clone()),
            protocol: Some(self.protocol.clone()),
            port: Some(self.port),
            app_protocol: self.app_protocol.clone(),
        }
    }
}

/// The port of the pod that a Service port leads to; `None` where the pod has no port of the wanted name.
pub(crate) fn target_port(port: &ServicePort, pod: &PodView) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pod
            .named_ports
            .iter()
            .find(|named| *named.name == **name && &*named.protocol == protocol)
            .map(|named| named.port),
    }
}

pub(crate) fn resolve_ports(spec: &ServiceSpec, pod: &PodView) -> Vec<PortKey> {
    let ports = spec.ports.iter().flatten();
    let mut ports: Vec<PortKey> = ports
        .filter_map(|port| {
            Some(PortKey {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: target_port(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// The reference from an endpoint to its pod.
pub(crate) fn pod_reference(pod: &PodView) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.name.namespace.clone()),
        name: Some(pod.name.name.clone()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

/// The DNS name that a pod of a headless Service gets.
pub(crate) fn endpoint_hostname(service: &Service, pod: &PodView) -> Option<String> {
    let hostname = pod.hostname.as_ref()?;
    (pod.subdomain.as_deref() == service.metadata.name.as_deref()).then(|| hostname.to_string())
}

fn endpoint(
    service: &Service,
    spec: &ServiceSpec,
    pod: &PodView,
    ip: &str,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Endpoint {
    let (serving, terminating) = (pod.is_ready(), pod.deleted_at.is_some());
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: endpoint_hostname(service, pod),
        node_name: pod.node.as_deref().map(str::to_owned),
        target_ref: Some(pod_reference(pod)),
        zone: pod.node.as_deref().and_then(zone_of),
        ..Endpoint::default()
    }
}

/// What makes an endpoint the same one as before.
fn identity(endpoint: &Endpoint) -> (&[String], Option<&str>) {
    let uid = endpoint
        .target_ref
        .as_ref()
        .and_then(|target| target.uid.as_deref());
    (&endpoint.addresses, uid)
}

/// What all slices of one owner have in common.
#[derive(Debug, Clone)]
pub(crate) struct SliceHead {
    namespace: Option<String>,
    generate_name: String,
    labels: BTreeMap<String, String>,
    owner: OwnerReference,
}

impl SliceHead {
    /// `meta` is the Service or Endpoints object; its labels are carried over.
    pub(crate) fn of(
        meta: &ObjectMeta,
        owner: OwnerReference,
        manager: &str,
        headless: bool,
    ) -> Self {
        let name = meta.name.clone().unwrap_or_default();
        let mut labels = meta.labels.clone().unwrap_or_default();
        labels.retain(|key, _| !matches!(key.as_str(), HEADLESS | SERVICE_NAME | MANAGED_BY));
        labels.insert(SERVICE_NAME.to_owned(), name.clone());
        labels.insert(MANAGED_BY.to_owned(), manager.to_owned());
        if headless {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        Self {
            namespace: meta.namespace.clone(),
            generate_name: format!("{name}-"),
            labels,
            owner,
        }
    }

    fn slice(&self, family: &str, ports: &[PortKey], endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                namespace: self.namespace.clone(),
                generate_name: Some(self.generate_name.clone()),
                labels: Some(self.labels.clone()),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            ports: Some(ports.iter().map(PortKey::to_port).collect()),
            endpoints: Some(endpoints),
        }
    }
}

/// The endpoints that one address family is to have, by their ports.
pub(crate) struct Wanted {
    pub(crate) family: &'static str,
    pub(crate) groups: BTreeMap<Vec<PortKey>, Vec<Endpoint>>,
}

fn ports_of(slice: &EndpointSlice) -> Vec<PortKey> {
    let mut ports: Vec<_> = slice.ports.iter().flatten().map(PortKey::of).collect();
    ports.sort();
    ports
}

/// Leads from the slices there are to the endpoints that are wanted. An address family without any
/// endpoint keeps one empty slice: it says that there is no endpoint, and no slice would say that none is known.
pub(crate) fn reconcile(
    head: &SliceHead,
    wanted: Vec<Wanted>,
    slices: &[EndpointSlice],
) -> Vec<SliceAction> {
    let mut actions = Vec::new();
    let mut deletions = Vec::new();
    let live = slices
        .iter()
        .filter(|slice| slice.metadata.deletion_timestamp.is_none());
    let mut by_family: BTreeMap<&str, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in live {
        by_family
            .entry(slice.address_type.as_str())
            .or_default()
            .push(slice);
    }
    for Wanted { family, mut groups } in wanted {
        let mut spare = by_family.remove(family).unwrap_or_default();
        spare.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        if groups.is_empty() {
            let ports = spare
                .first()
                .map(|slice| ports_of(slice))
                .unwrap_or_default();
            groups.insert(ports, Vec::new());
        }
        let mut placed: Vec<(Vec<PortKey>, Vec<&EndpointSlice>, Vec<Endpoint>)> = Vec::new();
        for (ports, endpoints) in groups {
            let (own, rest) = spare
                .into_iter()
                .partition(|slice| ports_of(slice) == ports);
            spare = rest;
            placed.push((ports, own, endpoints));
        }
        for (ports, own, endpoints) in placed {
            fill(
                Group {
                    head,
                    family,
                    ports: &ports,
                },
                own,
                &mut spare,
                endpoints,
                &mut actions,
                &mut deletions,
            );
        }
        deletions.extend(spare.into_iter().map(delete));
    }
    deletions.extend(by_family.into_values().flatten().map(delete));
    actions.extend(deletions);
    actions
}

#[derive(Clone, Copy)]
struct Group<'a> {
    head: &'a SliceHead,
    family: &'a str,
    ports: &'a [PortKey],
}

struct Filling<'a> {
    original: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Filling<'_> {
    fn room(&self) -> usize {
        ENDPOINTS_MAX.saturating_sub(self.endpoints.len())
    }
}

/// Places the endpoints of one group: first those that stay where they are, then the others into slices that
/// change anyway, then into the fullest that takes them all, then into new ones.
fn fill<'a>(
    group: Group<'_>,
    own: Vec<&'a EndpointSlice>,
    spare: &mut Vec<&'a EndpointSlice>,
    endpoints: Vec<Endpoint>,
    actions: &mut Vec<SliceAction>,
    deletions: &mut Vec<SliceAction>,
) {
    let Group {
        head,
        family,
        ports,
    } = group;
    let wants_none = endpoints.is_empty();
    let mut left: HashMap<(Vec<String>, Option<String>), (usize, Endpoint)> = endpoints
        .into_iter()
        .enumerate()
        .map(|(order, endpoint)| {
            let (addresses, uid) = identity(&endpoint);
            (
                (addresses.to_vec(), uid.map(str::to_owned)),
                (order, endpoint),
            )
        })
        .collect();
    let mut fillings: Vec<Filling<'_>> = Vec::new();
    for slice in own {
        let mut kept = Vec::new();
        for known in slice.endpoints.iter().flatten() {
            let (addresses, uid) = identity(known);
            let key = (addresses.to_vec(), uid.map(str::to_owned));
            if kept.len() < ENDPOINTS_MAX
                && let Some((_, endpoint)) = left.remove(&key)
            {
                kept.push(endpoint);
            }
        }
        let labels = slice.metadata.labels.clone().unwrap_or_default();
        let same = slice.endpoints.clone().unwrap_or_default() == kept && labels == head.labels;
        fillings.push(Filling {
            original: slice,
            endpoints: kept,
            changed: !same,
        });
    }
    let mut left: Vec<_> = left.into_values().collect();
    left.sort_by_key(|(order, _)| std::cmp::Reverse(*order));
    let mut take = |count: usize| -> Vec<Endpoint> {
        let at = left.len().saturating_sub(count);
        left.split_off(at)
            .into_iter()
            .rev()
            .map(|(_, endpoint)| endpoint)
            .collect()
    };
    for filling in fillings.iter_mut().filter(|filling| filling.changed) {
        let new = take(filling.room());
        filling.endpoints.extend(new);
    }
    let remaining = take(usize::MAX);
    if !remaining.is_empty() {
        let fits = fillings
            .iter_mut()
            .filter(|filling| filling.room() >= remaining.len());
        if let Some(fullest) = fits.max_by_key(|filling| filling.endpoints.len()) {
            fullest.endpoints.extend(remaining);
            fullest.changed = true;
        } else {
            for chunk in remaining.chunks(ENDPOINTS_MAX) {
                let slice = head.slice(family, ports, chunk.to_vec());
                actions.push(match spare.pop() {
                    Some(reused) => SliceAction::Update(Box::new(EndpointSlice {
                        metadata: ObjectMeta {
                            labels: slice.metadata.labels,
                            ..reused.metadata.clone()
                        },
                        ..slice
                    })),
                    None => SliceAction::Create(Box::new(slice)),
                });
            }
        }
    }
    let mut keeps_one = wants_none;
    if keeps_one && fillings.is_empty() {
        actions.push(SliceAction::Create(Box::new(head.slice(
            family,
            ports,
            Vec::new(),
        ))));
        keeps_one = false;
    }
    for filling in fillings {
        if filling.endpoints.is_empty() && !std::mem::take(&mut keeps_one) {
            deletions.push(delete(filling.original));
        } else if filling.changed {
            let mut slice = filling.original.clone();
            slice.metadata.labels = Some(head.labels.clone());
            slice.endpoints = Some(filling.endpoints);
            actions.push(SliceAction::Update(Box::new(slice)));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
