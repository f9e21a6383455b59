// SPDX-License-Identifier: Apache-2.0
//! Which addresses and ports Services get.

use std::collections::HashSet;

use super::*;

fn ranges(addresses: &str, ports: &str) -> ServiceRanges {
    ServiceRanges {
        addresses: addresses.parse().unwrap(),
        ports: ports.parse().unwrap(),
    }
}

#[test]
fn every_address_of_a_range_but_its_ends_is_given_out_once() {
    let ranges = ranges("10.96.0.0/24", "30000-30010");
    let mut given = HashSet::new();
    while let Some(address) = ranges.next_cluster_ip(&|address| given.contains(&address)) {
        assert_eq!(ranges.check_cluster_ip(address), Ok(()));
        given.insert(address);
    }
    assert_eq!(given.len(), 254);
}

#[test]
fn the_low_addresses_are_kept_for_people_as_long_as_there_are_others() {
    let ranges = ranges("10.96.0.0/24", "30000-30010");
    let mut given = HashSet::new();
    for _ in 0..239 {
        let address = ranges
            .next_cluster_ip(&|address| given.contains(&address))
            .unwrap();
        assert!(ranges.addresses.offset(address).unwrap() >= 16);
        given.insert(address);
    }
    let address = ranges
        .next_cluster_ip(&|address| given.contains(&address))
        .unwrap();
    assert!(ranges.addresses.offset(address).unwrap() < 16);
}

#[test]
fn a_small_range_of_ports_is_given_out_whole() {
    let ranges = ranges("10.96.0.0/24", "30000-30010");
    let mut given = HashSet::new();
    while let Some(port) = ranges.next_node_port(&|port| given.contains(&port)) {
        given.insert(port);
    }
    assert_eq!(given, (30000..=30010).collect());
}

#[test]
fn what_is_outside_the_range_is_refused_in_kubernetes_words() {
    let ranges = ranges("10.96.0.0/12", "30000-32767");
    for outside in ["10.112.0.1", "10.96.0.0", "10.111.255.255", "fd00::1"] {
        let error = ranges.check_cluster_ip(outside.parse().unwrap());
        let error = error.unwrap_err();
        assert!(
            error.ends_with("is not in the valid range. The range of valid IPs is 10.96.0.0/12"),
            "{error}"
        );
    }
    assert_eq!(
        ranges.check_node_port(80).unwrap_err(),
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
}
