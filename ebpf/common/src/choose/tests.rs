// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The decisions at their edges.

use super::*;
use crate::types::{FLOW_LOCAL, mapped};

fn entry() -> ServiceEntry {
    ServiceEntry {
        set: 1,
        service: 1,
        generation: 1,
        count: 2,
        terminating: 1,
        affinity_seconds: 10,
        table_len: 64,
        flags: 0,
        reserved: 0,
    }
}

fn backend(state: u8) -> BackendEntry {
    BackendEntry {
        address: mapped([10, 244, 0, 1]),
        port_be: 80_u16.to_be(),
        state,
        flags: 0,
        service: 1,
    }
}

fn flow(protocol: u8, flags: u8, last_seen_ns: u64) -> Flow {
    Flow {
        last_seen_ns,
        client: mapped([198, 18, 0, 9]),
        called: mapped([198, 18, 0, 1]),
        backend: mapped([10, 244, 0, 1]),
        snat: mapped([198, 18, 0, 1]),
        client_port_be: 1,
        called_port_be: 2,
        backend_port_be: 3,
        snat_port_be: 4,
        backend_id: 1,
        service: 1,
        protocol,
        flags,
        reserved: [0; 6],
    }
}

#[test]
fn terminating_slots_are_used_only_when_no_active_one_is_left() {
    assert_eq!(usable_slots(&entry()), (0, 2));
    let only_terminating = ServiceEntry {
        count: 0,
        ..entry()
    };
    assert_eq!(usable_slots(&only_terminating), (0, 1));
    let none = ServiceEntry {
        count: 0,
        terminating: 0,
        ..entry()
    };
    assert_eq!(usable_slots(&none).1, 0);
}

#[test]
fn affinity_ends_exactly_when_the_timeout_has_passed() {
    let remembered = AffinityEntry {
        last_used_ns: 5,
        backend: 1,
        reserved: 0,
    };
    assert!(affinity_holds(
        &entry(),
        &remembered,
        5 + 10_000_000_000 - 1
    ));
    assert!(!affinity_holds(&entry(), &remembered, 5 + 10_000_000_000));
}

#[test]
fn a_remembered_backend_has_to_belong_to_the_service_and_be_active() {
    assert!(affinity_backend_fits(&entry(), &backend(BACKEND_ACTIVE)));
    assert!(!affinity_backend_fits(
        &entry(),
        &backend(BACKEND_TERMINATING)
    ));
    let other = BackendEntry {
        service: 9,
        ..backend(BACKEND_ACTIVE)
    };
    assert!(!affinity_backend_fits(&entry(), &other));
}

#[test]
fn a_terminating_backend_keeps_its_client_in_the_fallback_but_does_not_renew() {
    let fallback = ServiceEntry {
        count: 0,
        ..entry()
    };
    let terminating = backend(BACKEND_TERMINATING);
    assert!(affinity_backend_fits(&fallback, &terminating));
    assert!(!renews_affinity(&terminating));
}

#[test]
fn policy_local_ignores_a_remembered_backend_of_another_node() {
    let local = ServiceEntry {
        flags: SERVICE_LOCAL_ONLY,
        ..entry()
    };
    assert!(!affinity_backend_fits(&local, &backend(BACKEND_ACTIVE)));
    let here = BackendEntry {
        flags: BACKEND_LOCAL,
        ..backend(BACKEND_ACTIVE)
    };
    assert!(affinity_backend_fits(&local, &here));
}

#[test]
fn a_flow_is_closed_by_both_fins_or_one_reset() {
    let one = after_client(0, TCP_FIN | TCP_ACK);
    assert!(!is_closed(one));
    assert!(is_closed(after_backend(one, TCP_FIN | TCP_ACK)));
    assert!(is_closed(after_backend(0, TCP_RST)));
}

#[test]
fn only_a_bare_syn_opens() {
    assert!(is_opening(TCP_SYN));
    assert!(is_opening(TCP_SYN | 0x40));
    assert!(!is_opening(TCP_SYN | TCP_ACK));
    assert!(!is_opening(TCP_ACK));
}

#[test]
fn a_closed_flow_keeps_its_port_through_time_wait() {
    let closed = flow(6, FLOW_RESET, 1);
    assert!(!is_over(&closed, CLOSED_FLOW_REST_NS));
    assert!(is_over(&closed, CLOSED_FLOW_REST_NS + 1));
    assert!(is_over(&flow(PROTOCOL_UDP, 0, 1), UDP_FLOW_IDLE_NS + 1));
}

#[test]
fn a_connection_is_established_when_the_client_acknowledges_an_answer() {
    let opened = after_client(0, TCP_SYN);
    let stray = after_client(opened, TCP_ACK);
    assert!(!is_established(&flow(6, stray, 1)), "nobody has answered");
    let answered = after_backend(opened, TCP_SYN | TCP_ACK);
    assert!(!is_established(&flow(6, answered, 1)));
    let established = after_client(answered, TCP_ACK);
    assert!(is_established(&flow(6, established, 1)));
    let reset = after_backend(established, TCP_RST);
    assert!(!is_established(&flow(6, reset, 1)));
}

#[test]
fn a_connection_whose_ends_vanish_ends_by_itself() {
    let half_open = flow(6, after_client(0, TCP_SYN), 1);
    assert!(!is_over(&half_open, HALF_OPEN_FLOW_IDLE_NS));
    assert!(is_over(&half_open, HALF_OPEN_FLOW_IDLE_NS + 1));
    let established = flow(6, FLOW_ANSWERED | FLOW_ESTABLISHED, 1);
    assert!(!is_over(&established, ESTABLISHED_FLOW_IDLE_NS));
    assert!(is_over(&established, ESTABLISHED_FLOW_IDLE_NS + 1));
}

#[test]
fn a_half_open_flow_gives_way_sooner_where_ports_are_short() {
    let half_open = flow(6, after_client(0, TCP_SYN), 1);
    let short = HALF_OPEN_FLOW_SHORT_NS + 1;
    assert!(!gives_way(&half_open, TRIES_BEFORE_SHORT - 1, short));
    assert!(gives_way(&half_open, TRIES_BEFORE_SHORT, short));
    assert!(!gives_way(&half_open, u32::MAX, short - 1));
    let established = flow(6, FLOW_ANSWERED | FLOW_ESTABLISHED, 1);
    assert!(!gives_way(&established, u32::MAX, short));
    let datagrams = flow(PROTOCOL_UDP, 0, 1);
    assert!(!gives_way(&datagrams, u32::MAX, short));
}

#[test]
fn table_positions_stay_inside() {
    assert_eq!(table_position(64, u32::MAX), (0, 63));
    assert_eq!(table_position(512, 511), (7, 63));
    assert_eq!(table_position(512, 512), (0, 0));
}

#[test]
fn the_answer_to_a_syn_is_of_a_flow_that_waits_for_one_and_of_no_closed_one() {
    const SYN_ACK: u8 = TCP_SYN | TCP_ACK;
    const FIN_ACK: u8 = TCP_FIN | TCP_ACK;
    let opened = flow(PROTOCOL_TCP, FLOW_LOCAL, 1);
    assert!(is_of_flow(&opened, SYN_ACK, 2));
    // A backend that defers its accept answers the same SYN again, after the client's ACK.
    let established = flow(PROTOCOL_TCP, FLOW_ANSWERED | FLOW_ESTABLISHED, 1);
    assert!(is_of_flow(&established, SYN_ACK, 2));
    for flags in [FLOW_RESET, FLOW_FIN_CLIENT | FLOW_FIN_BACKEND] {
        let closed = flow(PROTOCOL_TCP, flags | FLOW_ANSWERED | FLOW_ESTABLISHED, 1);
        assert!(!is_of_flow(&closed, SYN_ACK, 2));
        for late in [FIN_ACK, TCP_ACK, TCP_RST] {
            assert!(is_of_flow(&closed, late, 2), "what is left of it");
        }
    }
}

#[test]
fn a_connection_that_the_backend_opens_is_of_no_flow() {
    assert!(!is_of_flow(&flow(PROTOCOL_TCP, FLOW_LOCAL, 1), TCP_SYN, 2));
}

#[test]
fn datagrams_after_the_end_of_their_flow_are_not_of_it() {
    let datagrams = flow(PROTOCOL_UDP, FLOW_LOCAL, 1);
    assert!(is_of_flow(&datagrams, 0, UDP_FLOW_IDLE_NS));
    assert!(!is_of_flow(&datagrams, 0, UDP_FLOW_IDLE_NS + 1));
}

#[test]
fn every_flow_but_an_established_connection_yields_to_a_direct_one() {
    let established = flow(PROTOCOL_TCP, FLOW_ANSWERED | FLOW_ESTABLISHED, 1);
    assert!(!yields_to_direct(&established, 2));
    assert!(yields_to_direct(&established, ESTABLISHED_FLOW_IDLE_NS + 1));
    let closed = flow(PROTOCOL_TCP, established.flags | FLOW_RESET, 1);
    assert!(yields_to_direct(&closed, 2));
    assert!(yields_to_direct(&flow(PROTOCOL_TCP, FLOW_ANSWERED, 1), 2));
    assert!(yields_to_direct(&flow(PROTOCOL_UDP, FLOW_ANSWERED, 1), 2));
}

#[test]
fn the_range_of_pods_decides_who_is_in_the_cluster() {
    let config = |cluster_cidr, cluster_cidr_len| Config {
        cluster_cidr,
        cluster_cidr_len,
        ..Config::default()
    };
    let pods = config([10, 244, 0, 0], 16);
    assert!(is_in_cluster(&pods, [10, 244, 255, 1]));
    assert!(!is_in_cluster(&pods, [10, 245, 0, 1]));
    assert!(is_in_cluster(&config([0; 4], 0), [198, 18, 0, 9]));
    assert!(!is_in_cluster(&config([0; 4], 255), [0; 4]), "not known");
}

#[test]
fn a_backend_belongs_to_its_service_and_to_a_local_set_only_where_it_is() {
    let remote = backend(BACKEND_TERMINATING);
    assert!(belongs(&entry(), &remote), "in whatever state");
    let other = ServiceEntry {
        service: 2,
        ..entry()
    };
    assert!(!belongs(&other, &remote));
    let local = ServiceEntry {
        flags: SERVICE_LOCAL_ONLY,
        ..entry()
    };
    assert!(!belongs(&local, &remote));
    let here = BackendEntry {
        flags: BACKEND_LOCAL,
        ..remote
    };
    assert!(belongs(&local, &here));
}
