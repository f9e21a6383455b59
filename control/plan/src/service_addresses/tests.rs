// SPDX-License-Identifier: Apache-2.0
//! Every free address and port is found, the high ones first, from where chance says.

use std::collections::HashSet;

use super::*;

const NONE_TAKEN: fn(IpAddr) -> bool = |_| false;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_search_for_an_address_starts_where_chance_says_above_the_static_band() {
    let range = cidr("10.96.0.0/24");
    // Offsets 16 to 254 are given out first: 239 of them.
    for (random, address) in [
        (0, "10.96.0.16"),
        (100, "10.96.0.116"),
        (238, "10.96.0.254"),
        (239, "10.96.0.16"),
        (u128::MAX, "10.96.0.49"),
    ] {
        assert_eq!(
            plan_cluster_ip(&range, random, &NONE_TAKEN),
            Some(ip(address)),
            "{random}"
        );
    }
    let large = cidr("10.96.0.0/12");
    assert_eq!(
        plan_cluster_ip(&large, 0, &NONE_TAKEN),
        Some(ip("10.96.1.0"))
    );
    assert_eq!(
        plan_cluster_ip(&cidr("fd00::/112"), 1, &NONE_TAKEN),
        Some(ip("fd00::101"))
    );
}

#[test]
fn taken_addresses_are_stepped_over_and_the_search_goes_round() {
    let range = cidr("10.96.0.0/24");
    let taken = |address: IpAddr| address == ip("10.96.0.254") || address == ip("10.96.0.16");
    assert_eq!(plan_cluster_ip(&range, 238, &taken), Some(ip("10.96.0.17")));
}

#[test]
fn the_low_addresses_are_given_out_when_there_are_no_others() {
    let range = cidr("10.96.0.0/24");
    let upper = |address: IpAddr| range.offset_of(address).unwrap() >= 16;
    assert_eq!(plan_cluster_ip(&range, 0, &upper), Some(ip("10.96.0.1")));
    assert_eq!(plan_cluster_ip(&range, 14, &upper), Some(ip("10.96.0.15")));
    assert_eq!(plan_cluster_ip(&range, 0, &|_| true), None);
}

#[test]
fn every_address_of_a_range_but_its_ends_is_given_out_once() {
    for (range, all) in [
        ("10.96.0.0/24", 254),
        ("10.96.0.0/28", 14),
        ("10.96.0.0/30", 2),
        ("10.96.0.0/31", 0),
        ("10.96.0.0/32", 0),
    ] {
        let range = cidr(range);
        let mut given = HashSet::new();
        for random in (0..).step_by(7) {
            let taken = |address| given.contains(&address);
            let Some(address) = plan_cluster_ip(&range, random, &taken) else {
                break;
            };
            assert_eq!(check_cluster_ip(&range, address), Ok(()));
            assert!(given.insert(address), "{address} twice");
        }
        assert_eq!(given.len(), all, "{range}");
    }
}

#[test]
fn node_ports_are_given_out_as_addresses_are() {
    let ports = 30000..=32767;
    // 2768 / 32 = 86 are kept for people.
    assert_eq!(plan_node_port(&ports, 0, &|_| false), Some(30086));
    assert_eq!(plan_node_port(&ports, 2681, &|_| false), Some(32767));
    assert_eq!(plan_node_port(&ports, 2681, &|p| p == 32767), Some(30086));
    assert_eq!(plan_node_port(&ports, 3, &|p| p >= 30086), Some(30003));
    // Too few for a lower band, and up to the last port there is.
    assert_eq!(plan_node_port(&(65530..=65535), 5, &|_| false), Some(65535));
    assert_eq!(plan_node_port(&(65530..=65535), 0, &|_| true), None);
}

#[test]
fn what_is_outside_the_range_is_refused_in_kubernetes_words() {
    let range = cidr("10.96.0.0/12");
    for outside in ["10.112.0.1", "10.96.0.0", "10.111.255.255", "fd00::1"] {
        let error = check_cluster_ip(&range, ip(outside)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "failed to allocate IP {outside}: the provided IP ({outside}) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
            )
        );
    }
    assert_eq!(check_cluster_ip(&range, ip("10.96.0.1")), Ok(()));
    let ports = 30000..=32767;
    assert_eq!(
        check_node_port(&ports, 80).unwrap_err().to_string(),
        "provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    assert_eq!(check_node_port(&ports, 32767), Ok(()));
}
