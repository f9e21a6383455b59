// SPDX-License-Identifier: Apache-2.0
//! The Service `default/kubernetes`: how pods reach the API server.
//!
//! Made at start and brought in line with the flags; a start that finds it right writes nothing. The
//! namespaces are made by the API server itself.

use std::collections::BTreeMap;
use std::net::IpAddr;

use knarr_api::k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as CoreEndpointPort, EndpointSubset, Endpoints, Service,
    ServicePort, ServiceSpec,
};
use knarr_api::k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice,
};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use knarr_api::k8s_openapi::{Metadata, Resource};
use knarr_apiserver::{ApiError, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// The port of the Service, as in every Kubernetes cluster.
const SERVICE_PORT: i32 = 443;
const PORT_NAME: &str = "https";

/// Makes the Service and its endpoints, or corrects them.
pub async fn ensure_kubernetes_service(client: &Client, config: &Config) -> Result<(), ApiError> {
    let wanted = service(config.kubernetes_service_address(), config.advertise_port);
    match client.get::<Service>(Some(NAMESPACE), NAME).await {
        Ok(found) if same_service(&found, &wanted) => {}
        Ok(found) if cluster_ip(&found) == cluster_ip(&wanted) => {
            let mut changed = found;
            if let (Some(spec), Some(wanted)) = (changed.spec.as_mut(), wanted.spec) {
                spec.ports = wanted.ports;
            }
            client.update(&changed).await?;
        }
        // A cluster IP cannot be changed; the range was.
        Ok(_) => {
            client
                .delete::<Service>(Some(NAMESPACE), NAME, &Default::default())
                .await?;
            client.create(&wanted).await?;
        }
        Err(error) if error.is_not_found() => {
            client.create(&wanted).await?;
        }
        Err(error) => return Err(error),
    }
    let (address, port) = (config.advertise_address, config.advertise_port);
    if address.is_loopback() {
        // Endpoints cannot be loopback addresses: to a pod that is the pod.
        tracing::warn!(%address, "pods cannot reach the API server: it is advertised on loopback only; see --advertise-address");
        remove::<Endpoints>(client).await?;
        return remove::<EndpointSlice>(client).await;
    }
    ensure(client, endpoints(address, port), |found, wanted| {
        found.subsets == wanted.subsets
    })
    .await?;
    ensure(client, slice(address, port), |found, wanted| {
        found.endpoints == wanted.endpoints
            && found.ports == wanted.ports
            && found.address_type == wanted.address_type
    })
    .await
}

async fn remove<K: Resource>(client: &Client) -> Result<(), ApiError> {
    match client
        .delete::<K>(Some(NAMESPACE), NAME, &Default::default())
        .await
    {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// Creates `wanted`, or replaces what is there unless it is the `same`.
async fn ensure<K>(
    client: &Client,
    mut wanted: K,
    same: impl FnOnce(&K, &K) -> bool,
) -> Result<(), ApiError>
where
    K: Resource + Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned,
{
    match client.get::<K>(Some(NAMESPACE), NAME).await {
        Ok(found) if same(&found, &wanted) => {}
        Ok(found) => {
            wanted.metadata_mut().resource_version = found.metadata().resource_version.clone();
            client.update(&wanted).await?;
        }
        Err(error) if error.is_not_found() => {
            client.create(&wanted).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn cluster_ip(service: &Service) -> Option<&str> {
    service.spec.as_ref()?.cluster_ip.as_deref()
}

fn same_service(found: &Service, wanted: &Service) -> bool {
    let ports = |service: &Service| service.spec.as_ref().and_then(|spec| spec.ports.clone());
    cluster_ip(found) == cluster_ip(wanted) && ports(found) == ports(wanted)
}

fn metadata(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels: BTreeMap<_, _> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

fn service(address: IpAddr, target_port: u16) -> Service {
    Service {
        metadata: metadata(&[("component", "apiserver"), ("provider", "kubernetes")]),
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            cluster_ips: Some(vec![address.to_string()]),
            type_: Some("ClusterIP".to_owned()),
            session_affinity: Some("None".to_owned()),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: SERVICE_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::Int(target_port.into())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn endpoints(address: IpAddr, port: u16) -> Endpoints {
    Endpoints {
        // Its slice is made here as well, see `slice`.
        metadata: metadata(&[("endpointslice.kubernetes.io/skip-mirror", "true")]),
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![EndpointAddress {
                ip: address.to_string(),
                ..EndpointAddress::default()
            }]),
            ports: Some(vec![CoreEndpointPort {
                name: Some(PORT_NAME.to_owned()),
                port: port.into(),
                protocol: Some("TCP".to_owned()),
                ..CoreEndpointPort::default()
            }]),
            ..EndpointSubset::default()
        }]),
    }
}

fn slice(address: IpAddr, port: u16) -> EndpointSlice {
    let family = match address {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    EndpointSlice {
        metadata: metadata(&[("kubernetes.io/service-name", NAME)]),
        address_type: family.to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                ..EndpointConditions::default()
            }),
            ..Endpoint::default()
        }]),
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(port.into()),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    }
}
