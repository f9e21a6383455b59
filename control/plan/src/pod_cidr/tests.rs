// SPDX-License-Identifier: Apache-2.0
//! Pod ranges are given once, kept, and given again only when free.

use super::*;

fn cidrs(cluster: &str) -> PodCidrs {
    PodCidrs::new(cluster.parse().unwrap(), 24).unwrap()
}

#[test]
fn each_node_gets_its_own_range_and_keeps_it() {
    let mut cidrs = cidrs("10.244.0.0/16");
    assert_eq!(cidrs.assign("a").unwrap(), "10.244.0.0/24");
    assert_eq!(cidrs.assign("b").unwrap(), "10.244.1.0/24");
    assert_eq!(cidrs.assign("a").unwrap(), "10.244.0.0/24");
    cidrs.release("a");
    assert_eq!(cidrs.assign("c").unwrap(), "10.244.0.0/24");
}

#[test]
fn ranges_seen_on_nodes_are_never_given_to_others() {
    let mut cidrs = cidrs("10.244.0.0/16");
    cidrs.observe("a", &["10.244.0.0/24".to_owned()]).unwrap();
    cidrs
        .observe("b", &["10.244.2.0/24".to_owned(), "fd00::/64".to_owned()])
        .unwrap();
    assert_eq!(cidrs.assign("c").unwrap(), "10.244.1.0/24");
    assert_eq!(cidrs.assign("d").unwrap(), "10.244.3.0/24");
    let shared = cidrs
        .observe("e", &["10.244.2.0/24".to_owned()])
        .unwrap_err();
    assert_eq!(
        shared.to_string(),
        "the pod range 10.244.2.0/24 of node e is that of node b too"
    );
}

#[test]
fn a_full_cluster_says_so() {
    let mut cidrs = cidrs("10.244.0.0/23");
    cidrs.assign("a").unwrap();
    cidrs.assign("b").unwrap();
    let error = cidrs.assign("c").unwrap_err().to_string();
    assert_eq!(
        error,
        "CIDR allocation failed; there are no remaining CIDRs left to allocate in 10.244.0.0/23"
    );
    cidrs.release("a");
    assert_eq!(cidrs.assign("c").unwrap(), "10.244.0.0/24");
    assert!(PodCidrs::new("10.244.0.0/25".parse().unwrap(), 24).is_err());
}
