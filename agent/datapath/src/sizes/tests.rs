// SPDX-License-Identifier: Apache-2.0
//! Tests of the growth plan.

use knarr_ebpf_common::ServiceKey;

use super::*;
use crate::config::MapSizes;
use crate::maps;

fn map(name: MapName, present: u32, limit: u32) -> MapSize {
    MapSize {
        name,
        present,
        limit,
    }
}

fn grown(present: u32, needed: u32, limit: u32) -> Option<u32> {
    let needs = Entries::from([(MapName::Slots, needed)]);
    let plan = plan_growth(&needs, &[map(MapName::Slots, present, limit)]);
    plan.get(&MapName::Slots).copied()
}

const KEY: ServiceKey = ServiceKey {
    vip: [0; 16],
    port_be: 0,
    protocol: 6,
    scope: 0,
};

fn service(flags: u16, affinity_seconds: u32) -> ServiceEntry {
    ServiceEntry {
        set: 1,
        service: 1,
        generation: 1,
        count: 0,
        terminating: 0,
        affinity_seconds,
        table_len: 0,
        flags,
        reserved: 0,
    }
}

#[test]
fn a_map_grows_only_when_it_is_too_small_and_never_over_its_limit() {
    assert_eq!(grown(1_024, 1_024, 65_536), None);
    assert_eq!(grown(1_024, 1_025, 65_536), Some(4_096));
    assert_eq!(grown(1_024, 60_000, 65_536), Some(65_536));
    assert_eq!(grown(1_024, u32::MAX, 50_000), Some(50_000));
    assert_eq!(grown(65_536, 70_000, 65_536), None);
    assert_eq!(grown(8, 9, 8), None);
}

#[test]
fn a_map_that_nothing_needs_stays_as_it_is() {
    let maps = [map(MapName::Slots, 8, 64), map(MapName::Services, 8, 64)];
    let needs = Entries::from([(MapName::Services, 9)]);
    let plan = plan_growth(&needs, &maps);
    assert_eq!(plan, Entries::from([(MapName::Services, 32)]));
}

#[test]
fn every_map_that_grows_begins_below_the_default_and_below_a_smaller_limit() {
    let defaults = maps::all(&MapSizes::default());
    for (name, first) in FIRST_SIZES {
        let wanted = defaults.iter().find(|map| map.name == name);
        let limit = wanted.and_then(|map| map.max_entries).expect("a size");
        assert!(first < limit, "{name}");
        assert_eq!(begin_with(name, limit), Some(first), "{name}");
        assert_eq!(begin_with(name, 8), Some(8), "{name}");
    }
    assert_eq!(begin_with(MapName::Sockets, 65_536), None);
}

#[test]
fn a_node_port_needs_flows_and_an_affinity_needs_its_map() {
    let whole = |names: &[MapName]| -> Entries { names.iter().map(|n| (*n, u32::MAX)).collect() };
    assert_eq!(needs_of([service(0, 0)].iter()), Entries::new());
    assert_eq!(
        needs_of([service(0, 0), service(SERVICE_NODE_PORT, 0)].iter()),
        whole(&[MapName::Flows, MapName::Nat])
    );
    let op = MapOp::SetService {
        key: KEY,
        entry: service(0, 10),
    };
    assert_eq!(needs_of_operations(&[op]), whole(&[MapName::Affinity]));
}

#[test]
fn operations_need_room_beside_what_is_there() {
    let set = |flags| MapOp::SetService {
        key: KEY,
        entry: service(flags, 0),
    };
    let used = Entries::from([(MapName::Services, 5), (MapName::Slots, 7)]);
    assert_eq!(
        needs_beside(&[set(0), set(0)], &used),
        Entries::from([
            (MapName::Services, 7),
            (MapName::Slots, 7),
            (MapName::Counters, 7)
        ])
    );
}

#[test]
fn maps_of_the_programs_become_small_again_when_nothing_needs_them() {
    let maps = [
        map(MapName::Flows, 65_536, 65_536),
        map(MapName::Nat, 65_536, 65_536),
        map(MapName::Affinity, 128, 65_536),
        map(MapName::Services, 65_536, 65_536),
    ];
    let plan = plan_shrinking(&Entries::from([(MapName::Nat, u32::MAX)]), &maps);
    assert_eq!(plan, Entries::from([(MapName::Flows, 128)]));
}
