// SPDX-License-Identifier: Apache-2.0
//! The Endpoints object of a Service with a selector, for readers that do not know EndpointSlices.
//!
//! Follows kube-controller-manager's `endpoints` controller (v1.37).

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::Timestamp;

use crate::endpoint_slice::{
    HEADLESS, PortKey, endpoint_hostname, is_headless, pod_reference, resolve_ports, selector_of,
};
use crate::pods::PodView;
use crate::trigger_time::{annotate, changed_at, made_at};

/// Most addresses in one Endpoints object; slices have no such limit.
pub const ADDRESSES_MAX: usize = 1000;
/// Annotation of an object that does not hold every address.
pub const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Annotation of objects that leader election once used.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Label that names who writes an Endpoints object.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// What a Service's Endpoints object needs.
#[derive(Debug, Clone, PartialEq)]
pub enum EndpointsAction {
    /// Create it.
    Create(Box<Endpoints>),
    /// Replace it, if it has not changed since.
    Update(Box<Endpoints>),
}

/// Decides what the Service's Endpoints object needs; `None` when nothing. Services without a selector are
/// left to the client that writes their Endpoints.
pub fn plan(
    service: &Service,
    pods: &[&PodView],
    current: Option<&Endpoints>,
) -> Option<EndpointsAction> {
    let selector = selector_of(service)?;
    let spec = service.spec.as_ref()?;
    if service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut groups: BTreeMap<Vec<PortKey>, Addresses> = BTreeMap::new();
    for pod in pods {
        let leaves = pod.deleted_at.is_some() && !publish;
        if leaves || pod.phase.is_terminal() || !selector.matches(&*pod.labels) {
            continue;
        }
        let Some(ip) = pod.ips.first() else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: endpoint_hostname(service, pod),
            node_name: pod.node.as_deref().map(str::to_owned),
            target_ref: Some(pod_reference(pod)),
        };
        let ports = resolve_ports(spec, pod);
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            // None of the Service's ports is one of the pod's.
            continue;
        }
        let group = groups.entry(ports).or_default();
        if publish || pod.is_ready() {
            &mut group.ready
        } else {
            &mut group.not_ready
        }
        .push(address);
    }
    let truncated = truncate(&mut groups);
    let mut wanted = Endpoints {
        metadata: metadata(service, is_headless(spec), truncated, current),
        subsets: subsets(groups),
    };
    let since = trigger_time(service, pods, current, &wanted);
    match current {
        None => {
            annotate(&mut wanted.metadata, since);
            Some(EndpointsAction::Create(Box::new(wanted)))
        }
        Some(current) => {
            let same = current.metadata.labels.clone().unwrap_or_default()
                == wanted.metadata.labels.clone().unwrap_or_default()
                && current.metadata.annotations.clone().unwrap_or_default()
                    == wanted.metadata.annotations.clone().unwrap_or_default()
                && current.subsets.clone().unwrap_or_default()
                    == wanted.subsets.clone().unwrap_or_default();
            annotate(&mut wanted.metadata, since);
            (!same).then(|| EndpointsAction::Update(Box::new(wanted)))
        }
    }
}

/// The first change of a pod that is in `wanted` otherwise than in `current`.
fn trigger_time(
    service: &Service,
    pods: &[&PodView],
    current: Option<&Endpoints>,
    wanted: &Endpoints,
) -> Option<Timestamp> {
    let Some(current) = current else {
        return made_at(service);
    };
    let (before, after) = (readiness(current), readiness(wanted));
    let changed = pods.iter().filter(|pod| {
        let uid = &*pod.uid;
        after.contains_key(uid) && after.get(uid) != before.get(uid)
    });
    changed.filter_map(|pod| changed_at(pod)).min()
}

/// Whether each pod is ready in an Endpoints object, by uid.
fn readiness(endpoints: &Endpoints) -> BTreeMap<&str, bool> {
    let mut found = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        for (addresses, ready) in [
            (&subset.addresses, true),
            (&subset.not_ready_addresses, false),
        ] {
            for address in addresses.iter().flatten() {
                if let Some(target) = &address.target_ref
                    && let Some(uid) = &target.uid
                {
                    found.insert(uid.as_str(), ready);
                }
            }
        }
    }
    found
}

/// True for an Endpoints object that may go when it has no Service: all but those of leader election.
pub fn is_left_over(endpoints: &ObjectMeta) -> bool {
    !endpoints
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(LEADER))
}

#[derive(Debug, Default)]
struct Addresses {
    ready: Vec<EndpointAddress>,
    not_ready: Vec<EndpointAddress>,
}

/// Keeps ready addresses before others where there are too many. True when some were left out.
fn truncate(groups: &mut BTreeMap<Vec<PortKey>, Addresses>) -> bool {
    let by_ip = |address: &EndpointAddress| {
        let uid = address
            .target_ref
            .as_ref()
            .and_then(|target| target.uid.clone());
        (address.ip.clone(), uid)
    };
    let mut left = ADDRESSES_MAX;
    let mut truncated = false;
    for group in groups.values_mut() {
        group.ready.sort_by_key(by_ip);
        group.not_ready.sort_by_key(by_ip);
    }
    let mut keep = |addresses: &mut Vec<EndpointAddress>| {
        truncated |= addresses.len() > left;
        addresses.truncate(left);
        left -= addresses.len();
    };
    groups.values_mut().for_each(|group| keep(&mut group.ready));
    groups
        .values_mut()
        .for_each(|group| keep(&mut group.not_ready));
    groups.retain(|_, group| !group.ready.is_empty() || !group.not_ready.is_empty());
    truncated
}

fn subsets(groups: BTreeMap<Vec<PortKey>, Addresses>) -> Option<Vec<EndpointSubset>> {
    let some = |addresses: Vec<EndpointAddress>| (!addresses.is_empty()).then_some(addresses);
    let subset = |(ports, addresses): (Vec<PortKey>, Addresses)| EndpointSubset {
        addresses: some(addresses.ready),
        not_ready_addresses: some(addresses.not_ready),
        ports: (!ports.is_empty()).then(|| {
            let port = |port: &PortKey| EndpointPort {
                name: (!port.name.is_empty()).then(|| port.name.clone()),
                protocol: Some(port.protocol.clone()),
                port: port.port,
                app_protocol: port.app_protocol.clone(),
            };
            ports.iter().map(port).collect()
        }),
    };
    let subsets: Vec<_> = groups.into_iter().map(subset).collect();
    (!subsets.is_empty()).then_some(subsets)
}

fn metadata(
    service: &Service,
    headless: bool,
    truncated: bool,
    current: Option<&Endpoints>,
) -> ObjectMeta {
    let mut meta = match current {
        Some(current) => current.metadata.clone(),
        None => ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    };
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if headless {
        labels.insert(HEADLESS.to_owned(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    meta.labels = Some(labels);
    let annotations = meta.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    meta
}

#[cfg(test)]
mod tests;
