// SPDX-License-Identifier: Apache-2.0
//! An agent that starts again over maps that went on serving.

use knarr_ebpf_common::SERVICE_LOCAL_ONLY;

use super::*;
use crate::simulated::SimulatedMaps;

fn served() -> (SimulatedMaps, ServiceTable) {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    let mut sticky = service(Some(30_080));
    sticky.external_policy = TrafficPolicy::Local;
    sticky.affinity_seconds = 30;
    table.set_service(sticky);
    table.set_endpoint(endpoint(1, 2));
    table.set_endpoint(endpoint(1, 3));
    table.set_endpoint(endpoint(2, 4));
    maps.apply(&table.plan(seconds(0)).ops);
    table.remove_endpoint(&endpoint(1, 3).key());
    maps.apply(&table.plan(seconds(1)).ops);
    maps.apply(&table.plan(seconds(20)).ops);
    (maps, table)
}

fn desire(table: &mut ServiceTable) {
    let mut sticky = service(Some(30_080));
    sticky.external_policy = TrafficPolicy::Local;
    sticky.affinity_seconds = 30;
    table.replace(vec![sticky], vec![endpoint(1, 2), endpoint(2, 4)]);
}

#[test]
fn a_restart_with_the_same_desired_set_writes_nothing() {
    let (maps, _) = served();
    let mut table = ServiceTable::restore("node-1", &maps.contents());
    desire(&mut table);
    let plan = table.plan(seconds(0));
    assert_eq!(plan.ops, []);
    assert_eq!(plan.names.len(), 3, "names are told again");
    assert!(table.plan(seconds(60)).ops.is_empty());
}

#[test]
fn a_restart_goes_on_with_ids_and_generations() {
    let (mut maps, _) = served();
    let generations: Vec<u32> = maps
        .services
        .values()
        .map(|entry| entry.generation)
        .collect();
    let mut table = ServiceTable::restore("node-1", &maps.contents());
    desire(&mut table);
    table.set_endpoint(endpoint(1, 9));
    maps.apply(&table.plan(seconds(0)).ops);
    let after: Vec<u32> = maps
        .services
        .values()
        .map(|entry| entry.generation)
        .collect();
    assert!(after.iter().zip(&generations).all(|(new, old)| new > old));
    assert_eq!(
        maps.backends.keys().copied().collect::<Vec<_>>(),
        [1, 3, 4],
        "id 2 was given once and is not given again"
    );
}

#[test]
fn what_nobody_wants_any_more_keeps_serving_until_the_desired_set_is_complete() {
    let (mut maps, _) = served();
    let mut table = ServiceTable::restore("node-1", &maps.contents());
    assert!(table.plan(seconds(0)).ops.is_empty());
    table.desired_complete();
    maps.apply(&table.plan(seconds(1)).ops);
    assert!(maps.services.is_empty());
    maps.apply(&table.plan(seconds(10)).ops);
    assert!(maps.slots.is_empty() && maps.tables.is_empty() && maps.backends.is_empty());
}

#[test]
fn what_a_crash_between_two_steps_left_is_cleaned_up() {
    let (mut maps, mut table) = served();
    table.set_endpoint(endpoint(1, 5));
    let ops = table.plan(seconds(30)).ops;
    // Cut off after each step in turn.
    for cut in 0..=ops.len() {
        let mut maps = maps.clone();
        maps.apply(&ops[..cut]);
        let mut restarted = ServiceTable::restore("node-1", &maps.contents());
        desire(&mut restarted);
        maps.apply(&restarted.plan(seconds(0)).ops);
        maps.apply(&restarted.plan(seconds(60)).ops);
        let entry = maps
            .services
            .values()
            .find(|entry| entry.flags & SERVICE_LOCAL_ONLY == 0)
            .unwrap();
        assert_eq!(entry.count, 2, "cut after {cut}");
        assert_eq!(
            maps.backends.len(),
            2,
            "cut after {cut}: {:?}",
            maps.backends
        );
        // Two slots of all backends and one of this node's.
        assert_eq!(maps.slots.len(), 3, "cut after {cut}: {:?}", maps.slots);
        assert_eq!(maps.tables.len(), 2, "cut after {cut}");
    }
    maps.apply(&ops);
}

#[test]
fn a_resync_repairs_maps_that_lost_entries() {
    let (mut maps, mut table) = served();
    let before = maps.clone();
    let lost = *maps.slots.keys().next().unwrap();
    maps.slots.remove(&lost);
    let key = *maps.services.keys().next_back().unwrap();
    maps.services.remove(&key);
    table.resync(&maps.contents());
    let ops = table.plan(seconds(40)).ops;
    // The hole is there until the flip, so only the end can be checked.
    let mut repaired = SimulatedMaps::default();
    repaired.clone_from(&maps);
    for op in &ops {
        if let MapOp::SetBackend { .. } | MapOp::SetSlots { .. } | MapOp::SetTable { .. } = op {
            repaired = unchecked(repaired, op);
        }
    }
    for op in ops
        .iter()
        .filter(|op| matches!(op, MapOp::SetService { .. }))
    {
        repaired = unchecked(repaired, op);
    }
    assert_eq!(
        repaired.services.keys().collect::<Vec<_>>(),
        before.services.keys().collect::<Vec<_>>()
    );
    repaired.apply(&[]);
    for entry in repaired.services.values() {
        for slot in 0..entry.count {
            assert!(
                repaired
                    .slots
                    .contains_key(&(entry.set, entry.generation, slot))
            );
        }
    }
}

#[test]
fn a_resync_removes_what_nobody_wants_only_when_the_desired_set_is_complete() {
    let (mut maps, _) = served();
    let mut table = ServiceTable::restore("node-1", &maps.contents());
    table.resync(&maps.contents());
    assert_eq!(
        table.plan(seconds(0)).ops,
        [],
        "nobody has said what is wanted"
    );
    table.desired_complete();
    // Done once, and again where the maps are read again.
    for now in [1, 2] {
        let plan = table.plan(seconds(now));
        assert!(
            plan.ops
                .iter()
                .any(|op| matches!(op, MapOp::RemoveService { .. })),
            "{:?}",
            plan.ops
        );
        table.resync(&maps.contents());
    }
    maps.apply(&table.plan(seconds(3)).ops);
    assert!(maps.services.is_empty());
}

/// Carries out one operation without the check in between.
fn unchecked(mut maps: SimulatedMaps, op: &MapOp) -> SimulatedMaps {
    maps.apply_unchecked(op);
    maps
}
