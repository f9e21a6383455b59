// SPDX-License-Identifier: Apache-2.0
//! Tests of names and addresses of lab hosts.

use super::*;

#[test]
fn every_host_has_an_address_of_its_own_in_the_benchmark_range() {
    let mut names = vec![CONTROL.to_owned(), CLIENT.to_owned()];
    names.extend((1..=64).map(node_name));
    let mut addresses: Vec<_> = names
        .iter()
        .map(|name| address(name).expect("a host has an address"))
        .collect();
    assert!(
        addresses
            .iter()
            .all(|address| address.octets()[0] == 198 && address.octets()[1] & 0xfe == 18)
    );
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), names.len());
}

#[test]
fn the_switch_and_unknown_names_have_no_address() {
    assert_eq!(address(SWITCH), None);
    assert_eq!(address("node-x"), None);
}
