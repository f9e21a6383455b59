// SPDX-License-Identifier: Apache-2.0
//! EndpointSlices that mirror an Endpoints object written by hand, for Services without a selector.
//!
//! Follows kube-controller-manager's `endpointslicemirroring` controller (v1.37).

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use knarr_api::k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};

use crate::endpoint_slice::{
    PortKey, SliceAction, SliceHead, Wanted, family_of, is_headless, reconcile,
};
use crate::endpoints::LEADER;
use crate::owners::new_controller_ref;

/// Value of the managed-by label for the slices planned here.
pub const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Label of Endpoints that are not to be mirrored.
pub const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Most addresses mirrored of one subset (`--mirroring-max-endpoints-per-subset`).
const SUBSET_MAX: usize = 1000;

/// Decides what the mirrored slices of one name need. `slices` are those of [`MANAGER`] for the name.
pub fn plan(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Vec<SliceAction> {
    let spec = service.and_then(|service| service.spec.as_ref());
    let by_hand = spec.filter(|spec| spec.selector.as_ref().is_none_or(BTreeMap::is_empty));
    let (Some(endpoints), Some(spec)) = (endpoints.filter(|e| is_mirrored(e)), by_hand) else {
        let nobody = SliceHead::of(&Default::default(), Default::default(), MANAGER, false);
        return reconcile(&nobody, Vec::new(), slices);
    };
    let owner = new_controller_ref("v1", "Endpoints", &endpoints.metadata);
    let head = SliceHead::of(&endpoints.metadata, owner, MANAGER, is_headless(spec));
    let mut families: BTreeMap<&'static str, BTreeMap<Vec<PortKey>, Vec<Endpoint>>> =
        BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset
            .addresses
            .iter()
            .flatten()
            .map(|address| (address, true));
        let not_ready = subset
            .not_ready_addresses
            .iter()
            .flatten()
            .map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(SUBSET_MAX) {
            let Some(family) = family_of(&address.ip) else {
                continue;
            };
            let group = families
                .entry(family)
                .or_default()
                .entry(ports.clone())
                .or_default();
            if !group
                .iter()
                .any(|known| known.addresses.contains(&address.ip))
            {
                group.push(endpoint(address, Readiness(ready)));
            }
        }
    }
    let wanted = families
        .into_iter()
        .map(|(family, groups)| Wanted { family, groups });
    reconcile(&head, wanted.collect(), slices)
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta
        .labels
        .as_ref()
        .and_then(|labels| labels.get(SKIP_MIRROR))
        .is_some_and(|v| v == "true");
    let leader = meta
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(LEADER));
    meta.deletion_timestamp.is_none() && !skipped && !leader
}

fn ports(subset: &EndpointSubset) -> Vec<PortKey> {
    let mut ports: Vec<PortKey> = subset
        .ports
        .iter()
        .flatten()
        .map(|port| PortKey {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    ports.sort();
    ports
}

struct Readiness(bool);

fn endpoint(address: &EndpointAddress, Readiness(ready): Readiness) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests;
