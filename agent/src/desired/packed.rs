// SPDX-License-Identifier: Apache-2.0
//! Services and endpoints as the desired state keeps them: a node has those of the whole cluster, and as texts each of
//! their own they take four times the room.

use knarr_api::feed::{EndpointRemove, EndpointSet, ServiceSet};
use prost::Message;

use super::{EndpointKey, ServiceKey};

/// Between the parts of a key; no name and no address has it.
const SEPARATOR: char = '\0';

/// Namespace, Service, port name, address and port in one text. Endpoints of one Service are neighbours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackedKey(Box<str>);

/// The message without what its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackedEndpoint(Box<[u8]>);

/// A Service's message without what its key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackedService(Box<[u8]>);

impl PackedKey {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl PackedEndpoint {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl PackedService {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Takes a Service's message apart.
pub(super) fn pack_service(set: &ServiceSet) -> (ServiceKey, PackedService) {
    let rest = ServiceSet {
        namespace: String::new(),
        name: String::new(),
        ..set.clone()
    };
    let key = (set.namespace.clone(), set.name.clone());
    (key, PackedService(rest.encode_to_vec().into()))
}

/// The Service's message again.
pub(super) fn unpack_service(key: &ServiceKey, service: &PackedService) -> ServiceSet {
    // What was encoded here can be decoded.
    let rest = ServiceSet::decode(&*service.0).unwrap_or_default();
    ServiceSet {
        namespace: key.0.clone(),
        name: key.1.clone(),
        ..rest
    }
}

fn pack_key(
    namespace: &str,
    service: &str,
    port_name: &str,
    address: &str,
    port: u32,
) -> PackedKey {
    let parts = [namespace, service, port_name, address, &port.to_string()];
    PackedKey(parts.join(&SEPARATOR.to_string()).into())
}

impl PackedKey {
    /// Before the keys of all endpoints of a Service, and with no text of theirs after it.
    pub(super) fn first_of(namespace: &str, service: &str) -> PackedKey {
        PackedKey(format!("{namespace}{SEPARATOR}{service}{SEPARATOR}").into())
    }

    /// Whether this is a key of the Service that `first` stands before.
    pub(super) fn follows(&self, first: &PackedKey) -> bool {
        self.0.starts_with(&*first.0)
    }
}

/// The key of an endpoint that goes.
pub(super) fn key_of(remove: &EndpointRemove) -> PackedKey {
    pack_key(
        &remove.namespace,
        &remove.service,
        &remove.port_name,
        &remove.address,
        remove.port,
    )
}

/// Takes a message apart.
pub(super) fn pack(set: &EndpointSet) -> (PackedKey, PackedEndpoint) {
    let key = pack_key(
        &set.namespace,
        &set.service,
        &set.port_name,
        &set.address,
        set.port,
    );
    let rest = EndpointSet {
        namespace: String::new(),
        service: String::new(),
        port_name: String::new(),
        address: String::new(),
        port: 0,
        ..set.clone()
    };
    (key, PackedEndpoint(rest.encode_to_vec().into()))
}

/// The key as others know it.
pub(super) fn unpack_key(key: &PackedKey) -> EndpointKey {
    let mut parts = key.0.split(SEPARATOR);
    let mut part = || parts.next().unwrap_or_default();
    let texts = (part(), part(), part(), part());
    let port = part().parse().unwrap_or_default();
    (
        texts.0.to_owned(),
        texts.1.to_owned(),
        texts.2.to_owned(),
        texts.3.to_owned(),
        port,
    )
}

/// The message again.
pub(super) fn unpack(key: &PackedKey, endpoint: &PackedEndpoint) -> EndpointSet {
    let (namespace, service, port_name, address, port) = unpack_key(key);
    // What was encoded here can be decoded.
    let rest = EndpointSet::decode(&*endpoint.0).unwrap_or_default();
    EndpointSet {
        namespace,
        service,
        port_name,
        address,
        port,
        ..rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_packed_is_the_same_again() {
        let set = ServiceSet {
            namespace: "default".into(),
            name: "web".into(),
            cluster_ips: vec!["10.96.0.7".into()],
            affinity_seconds: 60,
            internal_local: true,
            ..ServiceSet::default()
        };
        let (key, service) = pack_service(&set);
        assert_eq!(unpack_service(&key, &service), set);
    }

    #[test]
    fn an_endpoint_that_is_packed_is_the_same_again() {
        let set = EndpointSet {
            namespace: "default".into(),
            service: "web".into(),
            port_name: String::new(),
            address: "10.244.1.2".into(),
            port: 8080,
            ready: true,
            serving: true,
            node_name: "node-1".into(),
            pod: "default/web-0".into(),
            ..EndpointSet::default()
        };
        let (key, endpoint) = pack(&set);
        assert_eq!(unpack(&key, &endpoint), set);
        let remove = EndpointRemove {
            namespace: set.namespace.clone(),
            service: set.service.clone(),
            port_name: set.port_name.clone(),
            address: set.address.clone(),
            port: set.port,
        };
        assert_eq!(key_of(&remove), key);
        let first = PackedKey::first_of("default", "web");
        assert!(first < key && key.follows(&first));
        assert!(!key.follows(&PackedKey::first_of("default", "we")));
        // Shorter names of others do not run into it.
        let other = EndpointSet {
            namespace: "defaultweb".into(),
            service: String::new(),
            ..set
        };
        assert_ne!(pack(&other).0, key);
    }
}
