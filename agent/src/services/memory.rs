// SPDX-License-Identifier: Apache-2.0
//! What many Services cost in memory, and that it comes back: the desired state, the table and its plans together.

use knarr_api::feed::{
    Change, Delta, ServicePort, ServiceRemove, Snapshot, change::Change as Kind, to_node::Message,
};

use super::*;

pub(crate) const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
/// For a Service with three endpoints.
const BYTES_MAX: u64 = 3_000;
/// What may stay when all of them are gone.
pub(crate) const LEFT_BYTES_MAX: u64 = 10_000_000;
/// Changes of one message, as the control plane sends them.
pub(crate) const CHANGES: usize = 256;

/// Anonymous memory of this process, which runs this test alone, without what the allocator can give back.
pub(crate) fn anonymous_bytes() -> u64 {
    knarr_base::memory::trim();
    resident_bytes()
}

/// Anonymous memory of this process as it is.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|value| value.split_whitespace().next());
    let kib: u64 = kib.expect("RssAnon").parse().expect("a number");
    kib * 1024
}

fn name_of(number: u32) -> String {
    format!("service-{number:05}")
}

fn address_of(number: u32, place: u32) -> String {
    Ipv4Addr::from(0x0af4_0000 + number * ENDPOINTS + place).to_string()
}

pub(crate) fn set(number: u32) -> Vec<Kind> {
    let namespace = "load".to_owned();
    let mut kinds = vec![Kind::ServiceSet(ServiceSet {
        namespace: namespace.clone(),
        name: name_of(number),
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0000 + number).to_string()],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..ServiceSet::default()
    })];
    kinds.extend((0..ENDPOINTS).map(|place| {
        Kind::EndpointSet(EndpointSet {
            namespace: namespace.clone(),
            service: name_of(number),
            address: address_of(number, place),
            port: 8080,
            ready: true,
            serving: true,
            node_name: format!("node-{place}"),
            pod: format!("load/{}-{place}", name_of(number)),
            ..EndpointSet::default()
        })
    }));
    kinds
}

/// A Service goes before its endpoints do, and no message names these afterwards.
pub(crate) fn remove(number: u32) -> Vec<Kind> {
    vec![Kind::ServiceRemove(ServiceRemove {
        namespace: "load".to_owned(),
        name: name_of(number),
    })]
}

pub(crate) fn take(desired: &Desired, table: &mut ServiceTable) {
    take_changes(table, desired.take_touched_services());
}

fn tell(desired: &Desired, table: &mut ServiceTable, kinds: impl Fn(u32) -> Vec<Kind>) {
    let all: Vec<u32> = (0..SERVICES).collect();
    for part in all.chunks(CHANGES) {
        let changes = part
            .iter()
            .flat_map(|number| kinds(*number))
            .map(|kind| Change { change: Some(kind) });
        desired.apply(&Message::Delta(Delta {
            version: 1,
            changes: changes.collect(),
            snapshot: Snapshot::default().into(),
        }));
        take(desired, table);
    }
}

#[test]
fn ten_thousand_services_take_little_memory_and_give_it_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, journal) = Desired::open(dir.path()).expect("opens");
    let mut table = ServiceTable::restore("node-1", &MapContents::default());
    table.desired_complete();
    let before = anonymous_bytes();
    tell(&desired, &mut table, set);
    let operations = table.plan(Duration::from_secs(0)).ops.len();
    assert_eq!(operations, 10_000 * (3 + 1 + 1));
    let each = anonymous_bytes().saturating_sub(before) / u64::from(SERVICES);
    assert!(each <= BYTES_MAX, "{each} bytes for a Service");

    tell(&desired, &mut table, remove);
    for second in 1..20 {
        drop(table.plan(Duration::from_secs(second)));
    }
    let left = anonymous_bytes().saturating_sub(before);
    assert!(left <= LEFT_BYTES_MAX, "{left} bytes stay");
    eprintln!("{each} bytes for a Service, {left} bytes stay");
    drop((desired, journal));
}
