// SPDX-License-Identifier: Apache-2.0
//! What the Service loop does with single values. The loop itself, over fake maps, is in `lives`.

use knarr_api::feed::ServicePort;

use super::*;

mod lives;

#[test]
fn maps_that_cannot_be_read_stay_broken_and_are_written_when_they_can_be() {
    let mut table = ServiceTable::restore("n1", &MapContents::default());
    table.set_service(service(&ServiceSet {
        namespace: "a".into(),
        name: "s".into(),
        cluster_ips: vec!["10.96.0.7".into()],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..ServiceSet::default()
    }));
    // What was planned was not carried out, and the maps cannot be read either.
    let lost = table.plan(Duration::ZERO).ops;
    assert!(!lost.is_empty());
    let unreadable = DatapathError::NoUplink {
        name: String::new(),
    };
    assert_eq!(resync(&mut table, Err(unreadable)), Sync::Broken);
    assert_eq!(resync(&mut table, Ok(MapContents::default())), Sync::Clean);
    assert_eq!(table.plan(Duration::ZERO).ops.len(), lost.len());
}

#[test]
fn every_other_node_gets_a_route_for_each_of_its_ranges() {
    let peer = |name: &str, address: &str, cidr: &str| PeerSet {
        name: name.into(),
        addresses: vec![address.into()],
        pod_cidrs: vec![cidr.into(), "fd00::/64".into()],
    };
    let peers = [
        peer("n1", "192.0.2.1", "10.244.1.0/24"),
        peer("n2", "192.0.2.2", "10.244.2.0/24"),
    ];
    let routes = routes(&peers, "n1", "192.0.2.1".parse().expect("ip"));
    assert_eq!(
        routes,
        [NodeRoute {
            pod_cidr: "10.244.2.0/24".parse().expect("cidr"),
            via: "192.0.2.2".parse().expect("ip"),
        }]
    );
}
