// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Properties of the tables: even, the same on every node, stable under change.

use super::*;
use crate::types::mapped;

fn members(ids: impl Iterator<Item = u32>) -> Vec<Member> {
    ids.map(|id| Member {
        address: mapped([10, 244, (id / 250) as u8, (id % 250) as u8 + 1]),
        port_be: 8080_u16.to_be(),
        backend: id,
    })
    .collect()
}

fn shares(table: &[u32], id: u32) -> usize {
    table.iter().filter(|backend| **backend == id).count()
}

#[test]
fn shares_differ_by_at_most_one_place() {
    for count in [2_u32, 3, 7, 50, 300] {
        let table = build(&members(0..count));
        let all: Vec<usize> = (0..count).map(|id| shares(&table, id)).collect();
        let spread = all.iter().max().unwrap() - all.iter().min().unwrap();
        assert!(spread <= 1, "{count} backends: {all:?}");
        assert!(table.len().is_power_of_two() && table.len().is_multiple_of(TABLE_CHUNK));
    }
}

#[test]
fn the_order_of_members_does_not_matter() {
    let forward = members(0..9);
    let mut backward = forward.clone();
    backward.reverse();
    assert_eq!(build(&forward), build(&backward));
}

#[test]
fn local_ids_do_not_change_who_owns_a_place() {
    let here = build(&members(0..5));
    let mut renamed = members(0..5);
    for member in &mut renamed {
        member.backend += 1000;
    }
    let there: Vec<u32> = build(&renamed).iter().map(|id| id - 1000).collect();
    assert_eq!(here, there);
}

#[test]
fn removing_one_backend_moves_few_other_places() {
    let before = build(&members(0..20));
    let after = build(&members((0..20).filter(|id| *id != 7)));
    assert_eq!(before.len(), after.len());
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| **old != 7 && old != new)
        .count();
    assert!(
        moved * 10 < before.len(),
        "{moved} of {} places moved without need",
        before.len()
    );
}

#[test]
fn clients_are_spread_evenly_over_the_table() {
    let table = build(&members(0..3));
    let mut counts = [0_usize; 3];
    for client in 0..30_000_u32 {
        let address = mapped(std::net::Ipv4Addr::from(0x0a00_0000 + client).octets());
        let place = hash::client(&address) as usize & (table.len() - 1);
        counts[table[place] as usize] += 1;
    }
    for count in counts {
        assert!((9_500..=10_500).contains(&count), "{counts:?}");
    }
}

#[test]
fn no_members_need_no_table() {
    assert_eq!(build(&[]), Vec::<u32>::new());
    assert_eq!(len_for(0), 0);
}
