// SPDX-License-Identifier: Apache-2.0
//! What is taken follows from the stored Services; reservations come and go.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;

use super::{Allocations, Reservation, ReservationId, lock};
use crate::admission::Hold;
use crate::object::{Object, encode};
use crate::registry;

fn service(name: &str, ip: &str, port: u16) -> Object {
    let kind = &registry::builtin("", "services");
    let object = json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"port": 80, "nodePort": port}]},
    });
    Object::from_stored(kind, &encode(kind, &object), 1).expect("an object")
}

fn holds(allocations: &Allocations, ip: &str, port: u16) -> (bool, bool) {
    let taken = lock(&allocations.0);
    let ip: IpAddr = ip.parse().expect("an address");
    (taken.addresses.is_taken(ip), taken.ports.is_taken(port))
}

#[test]
fn a_stored_service_holds_its_address_and_port_until_it_goes() {
    let kind = &registry::builtin("", "services");
    let all = Allocations::default();
    let old = service("a", "10.96.0.5", 30001);
    let new = service("a", "10.96.0.6", 30001);
    all.observe(kind, None, Some(&old));
    assert_eq!(holds(&all, "10.96.0.5", 30001), (true, true));
    all.observe(kind, Some(&old), Some(&new));
    assert_eq!(holds(&all, "10.96.0.5", 30001), (false, true));
    assert_eq!(holds(&all, "10.96.0.6", 30001), (true, true));
    all.observe(kind, Some(&new), None);
    assert_eq!(holds(&all, "10.96.0.6", 30001), (false, false));
}

#[test]
fn a_new_start_forgets_services_that_are_gone_and_keeps_reservations() {
    let kind = &registry::builtin("", "services");
    let all = Allocations::default();
    all.observe(kind, None, Some(&service("gone", "10.96.0.7", 30007)));
    let reserved = reserve(&all, "10.96.0.8".parse().expect("an address"));
    all.reset(kind, &[service("stays", "10.96.0.9", 30009)], 5);
    assert_eq!(holds(&all, "10.96.0.7", 30007), (false, false));
    assert_eq!(holds(&all, "10.96.0.9", 30009), (true, true));
    assert!(holds(&all, "10.96.0.8", 1).0);
    drop(reserved);
    assert!(!holds(&all, "10.96.0.8", 1).0);
}

fn reserve(all: &Allocations, ip: IpAddr) -> Reservation {
    let id = ReservationId::next();
    lock(&all.0).addresses.reserve(ip, "default/a", id);
    Reservation {
        id,
        taken: Some(Arc::clone(&all.0)),
        addresses: vec![ip],
        ports: Vec::new(),
    }
}

#[test]
fn a_failed_write_gives_back_and_a_stored_one_keeps() {
    let kind = &registry::builtin("", "services");
    let all = Allocations::default();
    let ip: IpAddr = "10.96.0.5".parse().expect("an address");
    drop(reserve(&all, ip));
    assert!(!holds(&all, "10.96.0.5", 1).0);
    Box::new(reserve(&all, ip)).keep(3);
    assert!(holds(&all, "10.96.0.5", 1).0);
    // The outcome was unknown, the write took place after all: what is stored stays taken.
    let unsure = reserve(&all, ip);
    all.observe(kind, None, Some(&service("a", "10.96.0.5", 30001)));
    drop(unsure);
    assert!(holds(&all, "10.96.0.5", 1).0);
}

#[test]
fn a_new_start_frees_what_was_written_and_is_gone_again() {
    let kind = &registry::builtin("", "services");
    let all = Allocations::default();
    let [old, new] = ["10.96.0.5", "10.96.0.6"];
    Box::new(reserve(&all, old.parse().expect("an address"))).keep(4);
    Box::new(reserve(&all, new.parse().expect("an address"))).keep(6);
    // Read at revision 5: the first Service has come and gone unseen, the second is yet to be seen.
    all.reset(kind, &[], 5);
    assert!(!holds(&all, old, 1).0);
    assert!(holds(&all, new, 1).0);
}

#[test]
fn a_late_outcome_gives_back_nothing_that_another_write_has_taken_since() {
    let kind = &registry::builtin("", "services");
    let all = Allocations::default();
    let ip: IpAddr = "10.96.0.5".parse().expect("an address");
    let unsure = reserve(&all, ip);
    let seen = service("a", "10.96.0.5", 30001);
    all.observe(kind, None, Some(&seen));
    all.observe(kind, Some(&seen), None);
    let other = reserve(&all, ip);
    drop(unsure);
    assert!(holds(&all, "10.96.0.5", 1).0);
    drop(other);
    assert!(!holds(&all, "10.96.0.5", 1).0);
}

#[test]
fn what_two_stored_services_have_is_free_when_both_are_gone() {
    let kind = &registry::builtin("", "services");
    for last in ["a", "b"] {
        let all = Allocations::default();
        let [a, b] = ["a", "b"].map(|name| service(name, "10.96.0.5", 30001));
        all.observe(kind, None, Some(&a));
        all.observe(kind, None, Some(&b));
        let (first, second) = if last == "b" { (&a, &b) } else { (&b, &a) };
        all.observe(kind, Some(first), None);
        assert_eq!(holds(&all, "10.96.0.5", 30001), (true, true));
        all.observe(kind, Some(second), None);
        assert_eq!(holds(&all, "10.96.0.5", 30001), (false, false));
    }
}

#[test]
fn a_health_port_is_held_by_the_services_that_need_one() {
    let kind = &registry::builtin("", "services");
    for (type_, policy, held) in [
        ("LoadBalancer", "Local", true),
        ("LoadBalancer", "Cluster", false),
        ("ClusterIP", "", false),
    ] {
        let object = json!({
            "metadata": {"namespace": "default", "name": "a"},
            "spec": {"type": type_, "externalTrafficPolicy": policy, "healthCheckNodePort": 30001},
        });
        let object = Object::from_stored(kind, &encode(kind, &object), 1).expect("an object");
        let all = Allocations::default();
        all.observe(kind, None, Some(&object));
        assert_eq!(holds(&all, "10.96.0.5", 30001).1, held, "{type_} {policy}");
    }
}
