// SPDX-License-Identifier: Apache-2.0
//! What a change becomes.

use knarr_ebpf_common::{
    BACKEND_ACTIVE, BACKEND_DRAINED, BACKEND_LOCAL, BACKEND_TERMINATING, BackendEntry, MapOp,
    PROTOCOL_TCP, SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_EXTERNAL, SCOPE_NODE_PORT_INTERNAL,
    SERVICE_DROP_WHEN_EMPTY, SERVICE_LOCAL_ONLY, SERVICE_NODE_PORT, ServiceEntry, ServiceKey,
    mapped,
};

use super::*;
use crate::simulated::SimulatedMaps;

fn vip() -> ServiceKey {
    ServiceKey {
        vip: mapped([10, 96, 0, 10]),
        port_be: 80_u16.to_be(),
        protocol: PROTOCOL_TCP,
        scope: SCOPE_CLUSTER_IP,
    }
}

fn node_port(scope: u8) -> ServiceKey {
    ServiceKey {
        vip: [0; 16],
        port_be: 30_080_u16.to_be(),
        protocol: PROTOCOL_TCP,
        scope,
    }
}

fn backend(node: u8, host: u8, state: u8) -> BackendEntry {
    BackendEntry {
        address: mapped([10, 244, node, host]),
        port_be: 8080_u16.to_be(),
        state,
        flags: if node == 1 { BACKEND_LOCAL } else { 0 },
        service: 1,
    }
}

fn entry(generation: u32, count: u32, terminating: u32) -> ServiceEntry {
    ServiceEntry {
        set: 2,
        service: 1,
        generation,
        count,
        terminating,
        affinity_seconds: 0,
        table_len: 0,
        flags: 0,
        reserved: 0,
    }
}

#[test]
fn a_new_service_writes_backends_then_slots_then_its_address() {
    let mut table = table();
    table.set_endpoint(endpoint(1, 2));
    table.set_service(service(None));
    table.set_endpoint(endpoint(2, 3));
    let plan = table.plan(seconds(0));
    assert_eq!(
        plan.ops,
        [
            MapOp::SetBackend {
                id: 1,
                entry: backend(1, 2, BACKEND_ACTIVE)
            },
            MapOp::SetBackend {
                id: 2,
                entry: backend(2, 3, BACKEND_ACTIVE)
            },
            MapOp::SetSlots {
                set: 2,
                generation: 1,
                backends: vec![1, 2]
            },
            MapOp::SetService {
                key: vip(),
                entry: entry(1, 2, 0)
            },
        ]
    );
    assert_eq!(plan.names.len(), 3);
    assert!(table.plan(seconds(100)).is_empty(), "nothing changed");
    assert_eq!(table.next_wake(), None);
}

#[test]
fn a_removed_endpoint_flips_first_and_is_removed_after_the_grace_time() {
    let mut table = table();
    table.set_service(service(None));
    table.set_endpoint(endpoint(1, 2));
    table.set_endpoint(endpoint(2, 3));
    table.plan(seconds(0));
    table.remove_endpoint(&endpoint(1, 2).key());
    assert_eq!(
        table.plan(seconds(10)).ops,
        [
            MapOp::SetSlots {
                set: 2,
                generation: 2,
                backends: vec![2]
            },
            MapOp::SetService {
                key: vip(),
                entry: entry(2, 1, 0)
            },
            MapOp::SetBackend {
                id: 1,
                entry: backend(1, 2, BACKEND_DRAINED)
            },
        ]
    );
    assert_eq!(table.next_wake(), Some(seconds(10) + RETIRE_AFTER));
    assert!(
        table.plan(seconds(14)).is_empty(),
        "the grace time is not over"
    );
    assert_eq!(
        table.plan(seconds(15)).ops,
        [
            MapOp::RemoveSlots {
                set: 2,
                generation: 1,
                count: 2
            },
            MapOp::RemoveBackend { id: 1 },
            MapOp::PurgeBackends { ids: vec![1] },
        ]
    );
}

#[test]
fn an_endpoint_that_returns_within_the_grace_time_keeps_its_id() {
    let mut table = table();
    table.set_service(service(None));
    table.set_endpoint(endpoint(1, 2));
    table.plan(seconds(0));
    table.remove_endpoint(&endpoint(1, 2).key());
    table.plan(seconds(1));
    table.set_endpoint(endpoint(1, 2));
    let plan = table.plan(seconds(2));
    assert!(plan.ops.contains(&MapOp::SetBackend {
        id: 1,
        entry: backend(1, 2, BACKEND_ACTIVE)
    }));
    let late = table.plan(seconds(60));
    assert!(
        !late
            .ops
            .iter()
            .any(|op| matches!(op, MapOp::RemoveBackend { .. })),
        "{late:?}"
    );
}

#[test]
fn terminating_backends_stand_behind_the_ready_ones_and_are_the_fallback() {
    let mut table = table();
    table.set_service(service(None));
    table.set_endpoint(endpoint(1, 2));
    table.set_endpoint(endpoint(2, 3));
    table.plan(seconds(0));
    table.set_endpoint(terminating(1, 2));
    assert_eq!(
        table.plan(seconds(1)).ops,
        [
            MapOp::SetSlots {
                set: 2,
                generation: 2,
                backends: vec![2, 1]
            },
            MapOp::SetService {
                key: vip(),
                entry: entry(2, 1, 1)
            },
            MapOp::SetBackend {
                id: 1,
                entry: backend(1, 2, BACKEND_TERMINATING)
            },
        ],
        "the state gets worse only after the flip"
    );
    table.remove_endpoint(&endpoint(2, 3).key());
    let plan = table.plan(seconds(2));
    assert!(plan.ops.contains(&MapOp::SetService {
        key: vip(),
        entry: entry(3, 0, 1)
    }));
}

#[test]
fn an_endpoint_that_is_not_ready_takes_no_slot() {
    let mut table = table();
    table.set_service(service(None));
    let unready = DesiredEndpoint {
        ready: false,
        serving: false,
        ..endpoint(1, 2)
    };
    table.set_endpoint(unready);
    let plan = table.plan(seconds(0));
    assert!(plan.ops.contains(&MapOp::SetService {
        key: vip(),
        entry: entry(1, 0, 0)
    }));
}

#[test]
fn an_endpoint_that_is_published_as_ready_serves_while_it_terminates() {
    let mut table = table();
    table.set_service(service(None));
    let published = DesiredEndpoint {
        ready: true,
        serving: false,
        terminating: true,
        ..endpoint(1, 2)
    };
    table.set_endpoint(published);
    let plan = table.plan(seconds(0));
    assert!(plan.ops.contains(&MapOp::SetService {
        key: vip(),
        entry: entry(1, 1, 0)
    }));
}

#[test]
fn node_ports_have_tables_and_follow_their_policies() {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    let mut local = service(Some(30_080));
    local.external_policy = TrafficPolicy::Local;
    table.set_service(local);
    table.set_endpoint(endpoint(1, 2));
    table.set_endpoint(endpoint(2, 3));
    maps.apply(&table.plan(seconds(0)).ops);
    let inside = maps.services[&node_port(SCOPE_NODE_PORT_INTERNAL)];
    assert_eq!((inside.count, inside.flags), (2, SERVICE_NODE_PORT));
    let outside = maps.services[&node_port(SCOPE_NODE_PORT_EXTERNAL)];
    assert_eq!(outside.count, 1, "only the backend of this node");
    assert_eq!(
        outside.flags,
        SERVICE_NODE_PORT | SERVICE_LOCAL_ONLY | SERVICE_DROP_WHEN_EMPTY
    );
    assert_ne!(outside.set, inside.set);
    assert_eq!(outside.service, inside.service, "affinity is one");
    assert!(inside.table_len > 0 && outside.table_len > 0);
    table.set_service(service(Some(30_080)));
    maps.apply(&table.plan(seconds(1)).ops);
    assert_eq!(
        maps.services[&node_port(SCOPE_NODE_PORT_EXTERNAL)],
        maps.services[&node_port(SCOPE_NODE_PORT_INTERNAL)]
    );
    maps.apply(&table.plan(seconds(60)).ops);
    let sets: Vec<u32> = maps.slots.keys().map(|(set, _, _)| *set).collect();
    assert!(
        sets.iter().all(|set| *set == inside.set),
        "the local set is gone"
    );
}

#[test]
fn switching_affinity_off_forgets_the_clients() {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    let sticky = DesiredService {
        affinity_seconds: 60,
        ..service(None)
    };
    table.set_service(sticky);
    table.set_endpoint(endpoint(1, 2));
    maps.apply(&table.plan(seconds(0)).ops);
    assert_eq!(maps.services[&vip()].affinity_seconds, 60);
    assert!(maps.services[&vip()].table_len > 0);
    table.set_service(service(None));
    maps.apply(&table.plan(seconds(1)).ops);
    assert_eq!(maps.purged_affinity, [1]);
    assert_eq!(maps.services[&vip()].affinity_seconds, 0);
}

#[test]
fn a_removed_service_leaves_nothing() {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    table.set_service(service(Some(30_080)));
    table.set_endpoint(endpoint(1, 2));
    maps.apply(&table.plan(seconds(0)).ops);
    table.remove_service(&name());
    maps.apply(&table.plan(seconds(1)).ops);
    assert!(maps.services.is_empty(), "the addresses go at once");
    assert!(!maps.slots.is_empty(), "programs may still read the slots");
    maps.apply(&table.plan(seconds(10)).ops);
    assert!(maps.slots.is_empty() && maps.tables.is_empty() && maps.backends.is_empty());
    assert_eq!(
        (maps.purged_backends, maps.purged_affinity),
        (vec![1], vec![1])
    );
}

#[test]
fn a_service_made_again_at_once_gets_new_ids_and_loses_nothing() {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    table.set_service(service(None));
    table.set_endpoint(endpoint(1, 2));
    maps.apply(&table.plan(seconds(0)).ops);
    table.remove_service(&name());
    maps.apply(&table.plan(seconds(1)).ops);
    table.set_service(service(None));
    maps.apply(&table.plan(seconds(2)).ops);
    maps.apply(&table.plan(seconds(60)).ops);
    assert_eq!(maps.services[&vip()].service, 3, "an id is not used again");
    assert_eq!(maps.backends.keys().collect::<Vec<_>>(), [&2]);
}

#[test]
fn a_node_port_that_moves_between_services_is_never_missing() {
    for (from, to) in [("alpha", "beta"), ("beta", "alpha")] {
        let mut table = table();
        let mut maps = SimulatedMaps::default();
        let with = |name: &str, port: Option<u16>, ip: u8| DesiredService {
            name: ServiceName::new("default", name),
            cluster_ips: vec![IpAddr::from([10, 96, 0, ip])],
            ..service(port)
        };
        table.set_service(with(from, Some(30_080), 1));
        table.set_service(with(to, None, 2));
        maps.apply(&table.plan(seconds(0)).ops);
        let owner = maps.services[&node_port(SCOPE_NODE_PORT_EXTERNAL)].service;
        table.set_service(with(from, None, 1));
        table.set_service(with(to, Some(30_080), 2));
        maps.apply(&table.plan(seconds(1)).ops);
        assert_ne!(
            maps.services[&node_port(SCOPE_NODE_PORT_EXTERNAL)].service,
            owner,
            "{from} to {to}"
        );
    }
}

#[test]
fn what_cannot_be_carried_is_refused_by_name() {
    let mut table = table();
    let mut dual = service(None);
    dual.cluster_ips.push("fd00::10".parse().unwrap());
    dual.ports.push(DesiredPort {
        name: "signal".to_owned(),
        protocol: ServiceProtocol::Sctp,
        port: 81,
        node_port: None,
    });
    table.set_service(dual);
    let plan = table.plan(seconds(0));
    let texts: Vec<String> = plan.refusals.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2);
    assert!(
        texts[0].contains("SCTP") && texts[1].contains("fd00::10"),
        "{texts:?}"
    );
    assert!(
        plan.ops
            .iter()
            .any(|op| matches!(op, MapOp::SetService { .. }))
    );
    assert!(table.plan(seconds(1)).is_empty());
}

#[test]
fn one_endpoint_among_many_services_costs_only_its_own_operations() {
    let mut table = table();
    for number in 0..2_000_u16 {
        let [high, low] = number.to_be_bytes();
        let name = ServiceName::new("default", format!("s{number}"));
        table.set_service(DesiredService {
            name: name.clone(),
            cluster_ips: vec![IpAddr::from([10, 97, high, low])],
            ..service(None)
        });
        table.set_endpoint(DesiredEndpoint {
            service: name,
            ..endpoint(1, 2)
        });
    }
    assert_eq!(table.plan(seconds(0)).ops.len(), 6_000);
    table.set_endpoint(DesiredEndpoint {
        service: ServiceName::new("default", "s7"),
        ..endpoint(2, 9)
    });
    assert_eq!(table.plan(seconds(1)).ops.len(), 3);
}
