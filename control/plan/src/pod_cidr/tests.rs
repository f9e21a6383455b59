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
}

#[test]
fn nodes_that_are_gone_and_come_back_find_their_own_ranges() {
    let mut cidrs = cidrs("10.244.0.0/21");
    let ranges: Vec<String> = ["a", "b", "c"]
        .map(|node| cidrs.assign(node).unwrap())
        .into();
    for node in ["a", "b", "c"] {
        cidrs.release(node);
    }
    assert_eq!(cidrs.assign("new").unwrap(), "10.244.3.0/24");
    let again: Vec<String> = ["c", "a", "b"]
        .map(|node| cidrs.assign(node).unwrap())
        .into();
    assert_eq!(again, [&*ranges[2], &*ranges[0], &*ranges[1]]);
    // Where no other range is left, the one that has been free for longest is given again.
    cidrs.release("b");
    cidrs.release("a");
    for number in 4..8 {
        let node = format!("node-{number}");
        assert_eq!(
            cidrs.assign(&node).unwrap(),
            format!("10.244.{number}.0/24")
        );
    }
    assert_eq!(cidrs.assign("other").unwrap(), ranges[1]);
    assert_eq!(cidrs.assign("b").unwrap(), ranges[0]);
    assert!(cidrs.assign("a").is_err());
}

#[test]
fn ranges_of_many_nodes_that_are_gone_are_given_again() {
    let mut cidrs = cidrs("10.0.0.0/8");
    let many = LEFT_MAX + 2;
    for number in 0..many {
        cidrs.assign(&number.to_string()).unwrap();
    }
    for number in 0..many {
        cidrs.release(&number.to_string());
    }
    assert_eq!(cidrs.left.len(), LEFT_MAX);
    assert_eq!(cidrs.assign("new").unwrap(), "10.0.0.0/24");
    assert_eq!(cidrs.assign("newer").unwrap(), "10.0.1.0/24");
    assert_eq!(cidrs.assign("newest").unwrap(), "10.1.2.0/24");
    assert_eq!(cidrs.assign("7").unwrap(), "10.0.7.0/24");
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
