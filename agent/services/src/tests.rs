// SPDX-License-Identifier: Apache-2.0
//! Plans compared as values, and carried out on maps made of `BTreeMap`s, where every flip is checked to
//! lead to slots and backends that exist.

mod plans;
mod random;
mod restart;

use std::net::IpAddr;

use super::*;

fn name() -> ServiceName {
    ServiceName::new("default", "web")
}

fn service(node_port: Option<u16>) -> DesiredService {
    DesiredService {
        name: name(),
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        ports: vec![DesiredPort {
            name: "http".to_owned(),
            protocol: ServiceProtocol::Tcp,
            port: 80,
            node_port,
        }],
        affinity_seconds: 0,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

fn endpoint(node: u8, host: u8) -> DesiredEndpoint {
    DesiredEndpoint {
        service: name(),
        port_name: "http".to_owned(),
        address: IpAddr::from([10, 244, node, host]),
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        node_name: format!("node-{node}"),
        pod: format!("default/web-{host}"),
    }
}

fn terminating(node: u8, host: u8) -> DesiredEndpoint {
    DesiredEndpoint {
        ready: false,
        terminating: true,
        ..endpoint(node, host)
    }
}

fn table() -> ServiceTable {
    ServiceTable::restore("node-1", &MapContents::default())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
