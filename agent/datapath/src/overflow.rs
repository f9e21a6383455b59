// SPDX-License-Identifier: Apache-2.0
//! Which of the kernel programs' statistics mean that something had no room, and what to say about it.
//!
//! Maps that user space fills report it where they are written (`DatapathError::MapFull`). Evictions from
//! LRU maps are not among these: the kernel counts none; how full such a map is, is a metric. Decisions
//! only. Called by the agent's node reporter with each look.

use knarr_ebpf_common::Stat;

use crate::map_name::MapName;

/// The reason of an event about something that had no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowReason {
    /// A map was full.
    MapFull,
    /// Source ports ran out.
    PortsExhausted,
}

impl OverflowReason {
    /// As the event has it.
    pub fn as_str(self) -> &'static str {
        match self {
            OverflowReason::MapFull => "DatapathMapFull",
            OverflowReason::PortsExhausted => "DatapathPortsExhausted",
        }
    }
}

/// How much fits, as the pinned maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Entries of `FLOWS`, and of `NAT`.
    pub flows: u32,
    /// Entries of `AFFINITY`.
    pub affinity: u32,
    /// Entries of `COUNTERS`.
    pub counters: u32,
    /// Entries of `SOCKETS`.
    pub sockets: u32,
    /// First and last source port of flows to other nodes.
    pub snat_ports: (u16, u16),
}

/// Something that had no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// The event's reason.
    pub reason: OverflowReason,
    /// What, how much there is of it, what that meant, and how to have more. The same at each look, so that
    /// repetitions are counted and not listed.
    pub message: String,
}

/// Says what overflowed between two readings of the statistics. A statistic that went back (the pins were
/// removed) counts from zero.
pub fn overflows(before: &[(&str, u64)], after: &[(&str, u64)], room: &Room) -> Vec<Overflow> {
    let of = |stats: &[(&str, u64)], name: &str| {
        let found = stats.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, value)| *value)
    };
    Stat::NAMES
        .iter()
        .filter(|(_, name)| {
            let (old, new) = (of(before, name), of(after, name));
            new > old || (new < old && new > 0)
        })
        .filter_map(|(stat, _)| describe(*stat, room))
        .collect()
}

fn full(map: MapName, entries: u32, effect: &str) -> String {
    let flag = map.flag();
    format!("the map {map} took no more entries at {entries}, and {effect}; {flag} makes it larger")
}

/// What a statistic says about room; none where it is about something else.
fn describe(stat: Stat, room: &Room) -> Option<Overflow> {
    let map = |message| {
        Some(Overflow {
            reason: OverflowReason::MapFull,
            message,
        })
    };
    match stat {
        Stat::FlowInsertFailed => map(format!(
            "the map {} or {} took no more entries at {} each, and packets from outside were \
             dropped; {} makes them larger",
            MapName::Flows,
            MapName::Nat,
            room.flows,
            MapName::Flows.flag()
        )),
        Stat::AffinityInsertFailed => map(full(
            MapName::Affinity,
            room.affinity,
            "clients of Services with sessionAffinity may change their pod",
        )),
        Stat::CountersInsertFailed => map(full(
            MapName::Counters,
            room.counters,
            "connections to some Services are not counted",
        )),
        Stat::OriginInsertFailed => map(full(
            MapName::Sockets,
            room.sockets,
            "some programs see a pod's address as their peer's instead of the Service's",
        )),
        Stat::SnatPortsExhausted => Some(Overflow {
            reason: OverflowReason::PortsExhausted,
            message: format!(
                "no source port of {} to {} was free for another flow from outside to a backend on \
                 another node, and it was dropped: each backend can have that many from this node; more \
                 backends, or externalTrafficPolicy: Local, need fewer",
                room.snat_ports.0, room.snat_ports.1
            ),
        }),
        // The others are about packets and Services, not about room.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room {
        flows: 65_536,
        affinity: 1_024,
        counters: 131_072,
        sockets: 4_096,
        snat_ports: (10_000, 29_999),
    };

    fn reasons(before: &[(&str, u64)], after: &[(&str, u64)]) -> Vec<(&'static str, String)> {
        let found = overflows(before, after, &ROOM);
        found
            .into_iter()
            .map(|o| (o.reason.as_str(), o.message))
            .collect()
    }

    #[test]
    fn a_full_map_is_named_with_its_size_and_its_flag() {
        for (stat, map, size, flag) in [
            ("flow_insert_failed", "FLOWS", "65536", "--bpf-flows"),
            (
                "affinity_insert_failed",
                "AFFINITY",
                "1024",
                "--bpf-affinity",
            ),
            (
                "counters_insert_failed",
                "COUNTERS",
                "131072",
                "--bpf-services",
            ),
            ("origin_insert_failed", "SOCKETS", "4096", "--bpf-sockets"),
        ] {
            let found = reasons(&[(stat, 3)], &[(stat, 4)]);
            let [("DatapathMapFull", message)] = &found[..] else {
                panic!("{stat}: {found:?}");
            };
            for part in [map, size, flag] {
                assert!(message.contains(part), "{part} in {message}");
            }
        }
    }

    #[test]
    fn exhausted_source_ports_are_told_with_their_range() {
        let found = reasons(&[], &[("snat_ports_exhausted", 1)]);
        assert_eq!(found[0].0, "DatapathPortsExhausted");
        assert!(found[0].1.contains("10000 to 29999"), "{}", found[0].1);
    }

    #[test]
    fn what_stands_still_and_what_is_not_about_room_is_not_told() {
        assert_eq!(
            reasons(
                &[("flow_insert_failed", 7), ("no_route", 1)],
                &[("flow_insert_failed", 7), ("no_route", 9)],
            ),
            []
        );
        // Pins that were removed start from zero.
        let fresh = reasons(&[("flow_insert_failed", 7)], &[("flow_insert_failed", 2)]);
        assert_eq!(fresh.len(), 1);
        assert_eq!(
            reasons(&[("flow_insert_failed", 7)], &[("flow_insert_failed", 0)]),
            []
        );
    }

    #[test]
    fn the_same_overflow_again_has_the_same_words() {
        let first = reasons(&[("flow_insert_failed", 1)], &[("flow_insert_failed", 2)]);
        let again = reasons(&[("flow_insert_failed", 2)], &[("flow_insert_failed", 90)]);
        assert_eq!(first, again);
    }
}
