// SPDX-License-Identifier: Apache-2.0
//! Ranges give out what is free, and only that.

use std::collections::HashSet;

use super::*;

fn ranges(cidr: &str, first: u16, last: u16) -> ServiceRanges {
    ServiceRanges::new(cidr.parse().unwrap(), first, last).unwrap()
}

#[test]
fn ranges_are_read_and_written() {
    for (text, printed, size) in [
        ("10.96.0.0/12", "10.96.0.0/12", 1 << 20),
        ("10.97.3.4/12", "10.96.0.0/12", 1 << 20),
        ("192.168.1.1/32", "192.168.1.1/32", 1),
        ("fd00::/112", "fd00::/112", 1 << 16),
    ] {
        let cidr: Cidr = text.parse().unwrap();
        assert_eq!((cidr.to_string().as_str(), cidr.size()), (printed, size));
    }
    for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/", ""] {
        assert!(bad.parse::<Cidr>().is_err(), "{bad}");
    }
}

#[test]
fn subnets_are_numbered() {
    let cluster: Cidr = "10.244.0.0/16".parse().unwrap();
    let third = cluster.subnet(3, 24).unwrap();
    assert_eq!(third.to_string(), "10.244.3.0/24");
    assert_eq!(cluster.positions(&third, 24), 3..4);
    assert_eq!(
        cluster.positions(&"10.244.4.0/22".parse().unwrap(), 24),
        4..8
    );
    assert_eq!(
        cluster.positions(&"10.244.9.128/25".parse().unwrap(), 24),
        9..10
    );
    assert_eq!(cluster.subnet(256, 24), None);
    assert!(
        cluster
            .positions(&"10.245.0.0/24".parse().unwrap(), 24)
            .is_empty()
    );
    assert!(
        cluster
            .positions(&"fd00::/64".parse().unwrap(), 24)
            .is_empty()
    );
}

#[test]
fn every_address_is_given_once_and_the_upper_band_first() {
    let ranges = ranges("10.96.0.0/24", 30000, 32767);
    let mut taken = HashSet::new();
    let mut order = Vec::new();
    while let Some(ip) = ranges.next_address(order.len() as u64 * 7919, &|ip| taken.contains(&ip)) {
        assert!(taken.insert(ip), "{ip} given twice");
        assert_eq!(ranges.check_address(ip), Ok(()));
        order.push(ip);
    }
    assert_eq!(order.len(), 254);
    let low: Vec<IpAddr> = order[238..].to_vec();
    assert!(
        low.iter()
            .all(|ip| *ip <= "10.96.0.16".parse::<IpAddr>().unwrap()),
        "{low:?}"
    );
    assert_eq!(ranges.api_address(), Some("10.96.0.1".parse().unwrap()));
}

#[test]
fn an_address_outside_is_refused_in_kubernetes_words() {
    let ranges = ranges("10.96.0.0/12", 30000, 32767);
    assert_eq!(
        ranges
            .check_address("10.0.0.1".parse().unwrap())
            .unwrap_err(),
        "failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
    );
    assert!(ranges.check_address("10.96.0.0".parse().unwrap()).is_err());
    assert!(
        ranges
            .check_address("10.111.255.255".parse().unwrap())
            .is_err()
    );
    assert!(ranges.check_address("fd00::1".parse().unwrap()).is_err());
    assert_eq!(
        ranges.check_address("10.111.255.254".parse().unwrap()),
        Ok(())
    );
}

#[test]
fn every_port_is_given_once_whatever_the_size_of_the_range() {
    for (first, last) in [
        (30000, 32767),
        (30000, 30000),
        (30000, 30015),
        (65000, 65535),
    ] {
        let ranges = ranges("10.96.0.0/12", first, last);
        let mut taken = HashSet::new();
        while let Some(port) =
            ranges.next_port(taken.len() as u64 * 31, &|port| taken.contains(&port))
        {
            assert!(taken.insert(port), "{port} given twice");
            assert_eq!(ranges.check_port(port), Ok(()));
        }
        assert_eq!(taken.len(), usize::from(last - first) + 1);
    }
    let ranges = ranges("10.96.0.0/12", 30000, 32767);
    assert_eq!(
        ranges.check_port(80).unwrap_err(),
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    assert!(ServiceRanges::new("10.96.0.0/12".parse().unwrap(), 9, 8).is_err());
}
