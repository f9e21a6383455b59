// SPDX-License-Identifier: Apache-2.0
//! Random histories: every field of Services and endpoints changes, time passes, operations fail, the agent
//! crashes between two operations and starts again. After each operation the maps must be whole
//! ([`SimulatedMaps`] checks), and in the end they must hold what is desired and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use knarr_ebpf_common::{BACKEND_ACTIVE, BACKEND_LOCAL, BACKEND_TERMINATING, ServiceEntry};

use super::super::desired::{Endpoint, Endpoints, NeedsTable, Nodes, SetKind, Wanted, resolve};
use super::*;
use crate::simulated::SimulatedMaps;

const NODE: &str = "node-1";
/// Histories, each of its own seed.
const HISTORIES: u64 = 20;
const STEPS: u32 = 400;
/// Longer than [`RETIRE_AFTER`]: what was retired is swept.
const SETTLED: u64 = 60;

/// A small linear congruential generator: a run is the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }

    fn is_one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

const PORT_NAMES: [&str; 3] = ["http", "dns", "metrics"];

fn random_port(random: &mut Random, name: &str) -> DesiredPort {
    use ServiceProtocol::{Sctp, Tcp, Udp};
    DesiredPort {
        name: name.to_owned(),
        protocol: random.of(&[Tcp, Tcp, Tcp, Udp, Udp, Sctp]),
        port: random.of(&[80, 53]),
        node_port: random.of(&[None, None, Some(30_080), Some(30_081), Some(30_082)]),
    }
}

fn random_service(random: &mut Random, name: ServiceName) -> DesiredService {
    let mut made = DesiredService {
        name,
        cluster_ips: Vec::new(),
        ports: Vec::new(),
        affinity_seconds: 0,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    };
    for field in 0..FIELDS {
        change_field(random, &mut made, field);
    }
    made
}

/// Fields of a Service that change on their own.
const FIELDS: u64 = 5;

fn change_field(random: &mut Random, service: &mut DesiredService, field: u64) {
    let policies = [TrafficPolicy::Cluster, TrafficPolicy::Local];
    match field {
        0 => service.internal_policy = random.of(&policies),
        1 => service.external_policy = random.of(&policies),
        2 => service.affinity_seconds = random.of(&[0, 0, 60, 10_800]),
        3 => {
            let ips: BTreeSet<IpAddr> = (0..random.below(3))
                .map(|_| IpAddr::from([10, 96, 0, 1 + random.below(4) as u8]))
                .collect();
            service.cluster_ips = ips.into_iter().collect();
            if random.is_one_in(4) {
                service.cluster_ips.push("fd00::10".parse().unwrap());
            }
        }
        // Ports of one Service differ in (port, protocol) and in NodePort, as the API wants it.
        _ => {
            let mut ports: Vec<DesiredPort> = Vec::new();
            for name in PORT_NAMES {
                let port = random_port(random, name);
                let collides = ports.iter().any(|other| {
                    (other.port, other.protocol) == (port.port, port.protocol)
                        || (other.node_port.is_some() && other.node_port == port.node_port)
                });
                if !collides && !random.is_one_in(3) {
                    ports.push(port);
                }
            }
            service.ports = ports;
        }
    }
}

fn random_endpoint(random: &mut Random, service: ServiceName) -> DesiredEndpoint {
    let host = random.below(4) as u8;
    DesiredEndpoint {
        service,
        port_name: random.of(&PORT_NAMES).to_owned(),
        address: if random.is_one_in(12) {
            "fd00::20".parse().unwrap()
        } else {
            IpAddr::from([10, 244, 0, 2 + host])
        },
        port: random.of(&[8080, 8080, 8081]),
        ready: random.is_one_in(2),
        serving: !random.is_one_in(4),
        terminating: random.is_one_in(2),
        node_name: format!("node-{}", 1 + random.below(2)),
        pod: format!("default/web-{}", random.below(3)),
    }
}

/// What the control plane wants; it outlives each run of the agent.
#[derive(Default)]
struct Desired {
    services: BTreeMap<ServiceName, DesiredService>,
    endpoints: BTreeMap<EndpointKey, DesiredEndpoint>,
}

impl Desired {
    /// One random change, applied to the table as the feed does.
    fn change(&mut self, random: &mut Random, table: &mut ServiceTable) {
        let name = ServiceName::new("default", random.of(&["a", "b", "c"]));
        match random.below(10) {
            0..=3 => {
                let mut service = match self.services.get(&name) {
                    Some(known) => known.clone(),
                    None => random_service(random, name.clone()),
                };
                let field = random.below(FIELDS);
                change_field(random, &mut service, field);
                self.services.insert(name, service.clone());
                table.set_service(service);
            }
            4 if random.is_one_in(4) => {
                self.services.remove(&name);
                table.remove_service(&name);
            }
            4..=7 => {
                let endpoint = random_endpoint(random, name);
                self.endpoints.insert(endpoint.key(), endpoint.clone());
                table.set_endpoint(endpoint);
            }
            _ => {
                let keys: Vec<EndpointKey> = self.endpoints.keys().cloned().collect();
                if !keys.is_empty() {
                    let key = random.of(&keys);
                    self.endpoints.remove(&key);
                    table.remove_endpoint(&key);
                }
            }
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let ports = self.services.values().flat_map(|service| {
            service.ports.iter().filter_map(|port| {
                let mut nodes = Nodes::default();
                let endpoints: Endpoints = self
                    .endpoints
                    .values()
                    .filter(|e| e.service == service.name && e.port_name == port.name)
                    .map(|e| ((e.address, e.port), Endpoint::new(e.clone(), &mut nodes)))
                    .collect();
                resolve(service, port, &endpoints, NODE)
            })
        });
        ports.collect()
    }
}

/// What an address leads to, without ids and generations.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    flags: u16,
    affinity_seconds: u32,
    active: BTreeSet<(knarr_ebpf_common::Address, u16, u8)>,
    terminating: BTreeSet<(knarr_ebpf_common::Address, u16, u8)>,
    has_table: bool,
}

fn wanted_answer(wanted: &Wanted, kind: SetKind, flags: u16) -> Answer {
    let of = |state: u8| -> BTreeSet<_> {
        wanted
            .backends
            .iter()
            .filter(|(_, b)| b.state == state)
            .filter(|(_, b)| kind == SetKind::Cluster || b.flags & BACKEND_LOCAL != 0)
            .map(|((address, port), b)| (*address, *port, b.flags))
            .collect()
    };
    let (active, terminating) = (of(BACKEND_ACTIVE), of(BACKEND_TERMINATING));
    Answer {
        flags,
        affinity_seconds: wanted.affinity_seconds,
        has_table: wanted.needs_table == NeedsTable::Yes
            && !(active.is_empty() && terminating.is_empty()),
        active,
        terminating,
    }
}

fn found_answer(maps: &SimulatedMaps, entry: &ServiceEntry) -> Answer {
    let of = |slots: std::ops::Range<u32>, state: u8| -> BTreeSet<_> {
        slots
            .map(|slot| {
                let id = maps.slots[&(entry.set, entry.generation, slot)];
                let backend = maps.backends[&id];
                assert_eq!(backend.state, state, "{backend:?}");
                assert_eq!(backend.service, entry.service, "{backend:?}");
                (backend.address, backend.port_be, backend.flags)
            })
            .collect()
    };
    let active = of(0..entry.count, BACKEND_ACTIVE);
    let terminating = of(
        entry.count..entry.count + entry.terminating,
        BACKEND_TERMINATING,
    );
    if entry.table_len > 0 {
        let table: BTreeSet<u32> = maps.tables[&(entry.set, entry.generation)]
            .iter()
            .copied()
            .collect();
        let usable = match entry.count {
            0 => 0..entry.terminating,
            count => 0..count,
        };
        let slots: BTreeSet<u32> = usable
            .map(|slot| maps.slots[&(entry.set, entry.generation, slot)])
            .collect();
        assert_eq!(table, slots, "{entry:?}");
    }
    Answer {
        flags: entry.flags,
        affinity_seconds: entry.affinity_seconds,
        active,
        terminating,
        has_table: entry.table_len > 0,
    }
}

/// The maps answer for every address that is wanted, as one of those that want it says, and hold no other.
fn check_settled(desired: &Desired, maps: &SimulatedMaps) {
    let wanted = desired.wanted();
    let mut by_key: BTreeMap<ServiceKey, Vec<Answer>> = BTreeMap::new();
    for port in &wanted {
        for (key, kind, flags) in &port.keys {
            let answer = wanted_answer(port, *kind, *flags);
            by_key.entry(*key).or_default().push(answer);
        }
    }
    assert_eq!(
        maps.services.keys().collect::<Vec<_>>(),
        by_key.keys().collect::<Vec<_>>()
    );
    let contested = by_key.values().any(|answers| answers.len() > 1);
    for (key, answers) in by_key {
        let found = found_answer(maps, &maps.services[&key]);
        assert!(answers.contains(&found), "{key:?}: {found:?}, {answers:?}");
    }
    // A port whose every address belongs to another one keeps its backends.
    if contested {
        return;
    }
    let live: BTreeSet<(u32, u32)> = maps
        .services
        .values()
        .map(|entry| (entry.set, entry.generation))
        .collect();
    for (set, generation, slot) in maps.slots.keys() {
        assert!(
            live.contains(&(*set, *generation)),
            "slot {slot} of {set}/{generation} is left"
        );
    }
    for at in maps.tables.keys() {
        assert!(live.contains(at), "table {at:?} is left");
    }
    let backends: usize = wanted.iter().map(|port| port.backends.len()).sum();
    assert_eq!(maps.backends.len(), backends, "backends are left");
}

/// A new run of the agent: it reads the maps, and the feed sends the desired set piece by piece, while things change.
fn restart(
    desired: &mut Desired,
    maps: &mut SimulatedMaps,
    random: &mut Random,
    now: &mut u64,
) -> ServiceTable {
    let mut table = ServiceTable::restore(NODE, &maps.contents());
    *now = random.below(100);
    let mut services: Vec<DesiredService> = desired.services.values().cloned().collect();
    let mut endpoints: Vec<DesiredEndpoint> = desired.endpoints.values().cloned().collect();
    while !services.is_empty() || !endpoints.is_empty() {
        let index = random.below((services.len() + endpoints.len()) as u64) as usize;
        if index < services.len() {
            table.set_service(services.swap_remove(index));
        } else {
            table.set_endpoint(endpoints.swap_remove(index - services.len()));
        }
        if random.is_one_in(4) {
            maps.apply(&table.plan(seconds(*now)).ops);
            *now += random.below(8);
        }
        if random.is_one_in(12) {
            table.resync(&maps.contents());
        }
    }
    if random.is_one_in(2) {
        desired.change(random, &mut table);
    }
    table.desired_complete();
    table
}

fn run(seed: u64) {
    let random = &mut Random(seed);
    let mut desired = Desired::default();
    let mut maps = SimulatedMaps::default();
    let mut now = 0;
    let mut table = ServiceTable::restore(NODE, &maps.contents());
    table.desired_complete();
    for _ in 0..STEPS {
        for _ in 0..random.below(3) {
            desired.change(random, &mut table);
        }
        now += random.of(&[0, 0, 1, 2, 4, 9]);
        let ops = table.plan(seconds(now)).ops;
        match random.below(40) {
            // The agent is killed between two operations.
            0 => {
                maps.apply(&ops[..random.below(ops.len() as u64 + 1) as usize]);
                table = restart(&mut desired, &mut maps, random, &mut now);
            }
            // Nothing of it reached the maps.
            1 => table.resync(&maps.contents()),
            // A map was full: one operation was carried out in part.
            2 => {
                let full = random.below(ops.len() as u64 + 1) as usize;
                let _ = maps.apply_full(&ops, full);
                table.resync(&maps.contents());
            }
            _ => maps.apply(&ops),
        }
        if random.is_one_in(25) {
            maps.apply(&table.plan(seconds(now)).ops);
            now += SETTLED;
            maps.apply(&table.plan(seconds(now)).ops);
            assert_eq!(table.next_wake(), None, "everything is swept");
            check_settled(&desired, &maps);
        }
    }
}

#[test]
fn random_histories_never_leave_a_dangling_entry_and_end_as_desired() {
    for seed in 1..=HISTORIES {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "history {seed}");
    }
}

#[test]
fn a_service_whose_policy_goes_there_and_back_keeps_its_slots() {
    type Change = fn(&mut DesiredService);
    let there: [(&str, Change); 3] = [
        ("internalTrafficPolicy", |s| {
            s.internal_policy = TrafficPolicy::Local;
        }),
        ("a NodePort beside internalTrafficPolicy Local", |s| {
            s.internal_policy = TrafficPolicy::Local;
            s.ports[0].node_port = Some(30_080);
        }),
        ("externalTrafficPolicy", |s| {
            s.ports[0].node_port = Some(30_080);
            s.external_policy = TrafficPolicy::Local;
        }),
    ];
    for (what, change) in there {
        for start_there in [false, true] {
            let (mut one, mut other) = (service(None), service(None));
            change(if start_there { &mut one } else { &mut other });
            if what.starts_with("a NodePort") {
                one.internal_policy = TrafficPolicy::Local;
                other.internal_policy = TrafficPolicy::Local;
            }
            let mut table = table();
            let mut maps = SimulatedMaps::default();
            for host in 2..5 {
                table.set_endpoint(endpoint(1, host));
            }
            for (now, service) in [(0, &one), (1, &other), (2, &one)] {
                table.set_service(service.clone());
                maps.apply(&table.plan(seconds(now)).ops);
            }
            // The fake fails here where what is live is swept.
            for now in 3..20 {
                maps.apply(&table.plan(seconds(now)).ops);
            }
            assert!(
                maps.services.values().all(|entry| entry.count == 3),
                "{what}"
            );
        }
    }
}

#[test]
fn an_address_that_two_services_want_goes_to_the_other_when_the_first_gives_it_up() {
    let mut table = table();
    let mut maps = SimulatedMaps::default();
    let with = |name: &str, port: Option<u16>, ip: u8| DesiredService {
        name: ServiceName::new("default", name),
        cluster_ips: vec![IpAddr::from([10, 96, 0, ip])],
        ..service(port)
    };
    for (first, second) in [("a", "b"), ("b", "a")] {
        table.set_service(with(first, Some(30_080), 1));
        maps.apply(&table.plan(seconds(0)).ops);
        table.set_service(with(second, Some(30_080), 2));
        maps.apply(&table.plan(seconds(1)).ops);
        assert_eq!(maps.services.len(), 4, "both, and one NodePort");
        let owner = |maps: &SimulatedMaps| {
            let node_port = maps.services.iter().find(|(key, _)| key.vip == [0; 16]);
            node_port.map(|(_, entry)| entry.service)
        };
        let before = owner(&maps);
        table.set_service(with(first, None, 1));
        maps.apply(&table.plan(seconds(2)).ops);
        assert_eq!(maps.services.len(), 4, "the NodePort is still there");
        assert_ne!(owner(&maps), before);
        for name in [first, second] {
            table.remove_service(&ServiceName::new("default", name));
        }
        maps.apply(&table.plan(seconds(3)).ops);
    }
}
