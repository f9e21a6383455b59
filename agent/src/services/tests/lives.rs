// SPDX-License-Identifier: Apache-2.0
//! The Service loop over fake maps and routes, in paused time and without root: a feed's snapshot and changes, a connection
//! that is made again, an agent that starts again, maps that are full, calls that fail.

use k8s_openapi::api::core::v1::Event;
use knarr_api::feed::change::Change as Wish;
use knarr_api::feed::from_node::Message as Said;
use knarr_api::feed::to_node::Message;
use knarr_api::feed::{Change, Delta, EndpointRemove, ServiceRemove, Snapshot};
use knarr_ebpf_common::types::mapped;
use knarr_ebpf_common::{BACKEND_ACTIVE, PROTOCOL_TCP, SCOPE_CLUSTER_IP, ServiceKey as MapKey};
use knarr_services::RETIRE_AFTER;
use tokio::task::JoinHandle;

use super::*;
use crate::edges::fake::services::{Broken, FakeServices};
use crate::outbox::Outbox;

/// How long in simulated time something may take: longer than the longest pause of the loop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node, and what its agent has said.
struct Lab {
    node: Arc<FakeServices>,
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    links: Arc<Notify>,
    agent: Option<(JoinHandle<Result<(), DatapathError>>, CancellationToken)>,
    version: u64,
    events: Vec<Event>,
    dir: tempfile::TempDir,
}

fn welcome() -> Welcome {
    Welcome {
        epoch: "e".into(),
        cluster_cidrs: vec!["10.244.0.0/16".into()],
        service_cidrs: vec!["10.96.0.0/12".into()],
        node_port_first: 30_000,
        node_port_last: 32_767,
        ..Welcome::default()
    }
}

/// A Service whose ClusterIP is 10.96.0.`host`.
fn service(host: u8) -> Wish {
    Wish::ServiceSet(ServiceSet {
        namespace: "ns".into(),
        name: format!("s{host}"),
        cluster_ips: vec![format!("10.96.0.{host}")],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..ServiceSet::default()
    })
}

fn no_service(host: u8) -> Wish {
    Wish::ServiceRemove(ServiceRemove {
        namespace: "ns".into(),
        name: format!("s{host}"),
    })
}

/// An endpoint of that Service at 10.244.1.`pod`.
fn endpoint(host: u8, pod: u8) -> Wish {
    Wish::EndpointSet(EndpointSet {
        namespace: "ns".into(),
        service: format!("s{host}"),
        address: format!("10.244.1.{pod}"),
        port: 8080,
        ready: true,
        serving: true,
        node_name: "n2".into(),
        ..EndpointSet::default()
    })
}

fn no_endpoint(host: u8, pod: u8) -> Wish {
    Wish::EndpointRemove(EndpointRemove {
        namespace: "ns".into(),
        service: format!("s{host}"),
        address: format!("10.244.1.{pod}"),
        port: 8080,
        ..EndpointRemove::default()
    })
}

/// Another node, whose address is 192.0.2.`host` and whose pods are in 10.244.`host`.0/24.
fn peer(host: u8) -> Wish {
    Wish::PeerSet(PeerSet {
        name: format!("n{host}"),
        addresses: vec![format!("192.0.2.{host}")],
        pod_cidrs: vec![format!("10.244.{host}.0/24")],
    })
}

fn route(host: u8) -> NodeRoute {
    NodeRoute {
        pod_cidr: format!("10.244.{host}.0/24").parse().expect("a range"),
        via: Ipv4Addr::new(192, 0, 2, host),
    }
}

impl Lab {
    /// A node that has never heard of a Service, without an agent.
    fn new() -> Lab {
        let dir = tempfile::tempdir().expect("tempdir");
        let (desired, _) = Desired::open(&dir.path().join("desired")).expect("opens");
        Lab {
            node: FakeServices::new(),
            desired,
            outbox: Arc::default(),
            metrics: Arc::default(),
            links: Arc::default(),
            agent: None,
            version: 0,
            events: Vec::new(),
            dir,
        }
    }

    /// The same with an agent, and with a control plane that has named everything.
    async fn connected(wishes: Vec<Wish>) -> Lab {
        let mut lab = Lab::new();
        lab.welcome(welcome());
        lab.send(wishes, Snapshot::Last);
        lab.start();
        lab.settle().await;
        lab
    }

    /// Starts a Service loop over what the maps hold.
    fn start(&mut self) {
        let services = Services {
            desired: self.desired.clone(),
            maps: self.node.clone(),
            network: self.node.clone(),
            events: Arc::new(Events::new(self.outbox.clone(), "n1")),
            metrics: self.metrics.clone(),
            // As `start` does: it has prepared the node for these ranges already.
            welcome: self.desired.welcome().expect("a welcome came first"),
            data_dir: self.dir.path().to_owned(),
            node_name: "n1".to_owned(),
            node_ip: Ipv4Addr::new(192, 0, 2, 1),
            links: self.links.clone(),
            bursts: Arc::default(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(services.run(shutdown.clone()));
        self.agent = Some((task, shutdown));
    }

    /// Ends the loop; the maps go on serving.
    async fn stop(&mut self) {
        let (task, shutdown) = self.agent.take().expect("an agent runs");
        shutdown.cancel();
        let ended = task.await.expect("it ends without a panic");
        ended.expect("it ends without an error");
    }

    /// The agent starts again and has lost what it stored.
    async fn start_again_without_a_journal(&mut self) {
        self.stop().await;
        let dir = tempfile::tempdir().expect("tempdir");
        self.desired = Desired::open(dir.path()).expect("opens").0;
        self.welcome(welcome());
        self.start();
        self.settle().await;
    }

    fn welcome(&self, welcome: Welcome) {
        self.desired.apply(&Message::Welcome(welcome));
    }

    fn send(&mut self, wishes: Vec<Wish>, snapshot: Snapshot) {
        self.version += 1;
        let changes = wishes.into_iter().map(|c| Change { change: Some(c) });
        self.desired.apply(&Message::Delta(Delta {
            version: self.version,
            changes: changes.collect(),
            snapshot: snapshot.into(),
        }));
    }

    /// The control plane changes something.
    async fn change(&mut self, wishes: Vec<Wish>) {
        self.send(wishes, Snapshot::None);
        self.settle().await;
    }

    /// Lets the loop do what is due now: longer than it coalesces, shorter than anything that it waits for.
    async fn settle(&mut self) {
        self.sleep(COALESCE * 10).await;
    }

    async fn sleep(&mut self, time: Duration) {
        tokio::time::sleep(time).await;
        while let Some(said) = self.outbox.next() {
            if let Said::Event(event) = said {
                let event = serde_json::from_slice(&event.event_json).expect("an event");
                self.events.push(event);
            }
        }
    }

    /// Waits in simulated time; returns how many seconds it took.
    async fn until(&mut self, what: &str, holds: impl Fn(&Lab) -> bool) -> u64 {
        let begin = Instant::now();
        while !holds(self) {
            assert!(
                begin.elapsed() < PATIENCE,
                "{what} is waited for: {:#?}, {:#?}",
                self.node.calls(),
                self.node.maps()
            );
            self.sleep(Duration::from_millis(100)).await;
        }
        begin.elapsed().as_secs()
    }

    /// The last bytes of the pods that answer for 10.96.0.`host`; none where the maps do not have the address.
    fn answer(&self, host: u8) -> Option<Vec<u8>> {
        let key = MapKey {
            vip: mapped([10, 96, 0, host]),
            port_be: 80_u16.to_be(),
            protocol: PROTOCOL_TCP,
            scope: SCOPE_CLUSTER_IP,
        };
        let maps = self.node.maps();
        let mut pods = Vec::new();
        for backend in maps.answer(&key)? {
            assert_eq!(backend.port_be, 8080_u16.to_be());
            assert_eq!(backend.state, BACKEND_ACTIVE);
            assert_eq!(backend.address[..15], mapped([10, 244, 1, 0])[..15]);
            pods.push(backend.address[15]);
        }
        pods.sort_unstable();
        Some(pods)
    }

    /// Reasons and messages of the events.
    fn said(&self) -> Vec<(&str, &str)> {
        let said = self.events.iter().map(|event| {
            let reason = event.reason.as_deref().unwrap_or_default();
            (reason, event.message.as_deref().unwrap_or_default())
        });
        said.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_served_part_by_part_and_prunes_at_its_end() {
    // Something that an agent before this one left, and that the cluster does not have any more.
    let mut lab = Lab::connected(vec![service(9), endpoint(9, 9), peer(9)]).await;
    lab.start_again_without_a_journal().await;
    assert_eq!(lab.answer(9), Some(vec![9]), "it serves until all is known");
    lab.send(vec![service(7), endpoint(7, 1)], Snapshot::Part);
    lab.settle().await;
    assert_eq!(lab.answer(7), Some(vec![1]));
    assert_eq!(lab.answer(9), Some(vec![9]));
    lab.send(vec![endpoint(7, 2), peer(1), peer(2)], Snapshot::Part);
    lab.settle().await;
    assert_eq!(lab.answer(7), Some(vec![1, 2]));
    assert_eq!(lab.node.routes(), [route(2), route(9)]);
    lab.send(Vec::new(), Snapshot::Last);
    lab.settle().await;
    assert_eq!(lab.answer(9), None);
    assert_eq!(lab.node.routes(), [route(2)], "none to this node itself");
    lab.sleep(RETIRE_AFTER * 2).await;
    let left = lab.node.maps();
    assert_eq!((left.backends.len(), left.slots.len()), (2, 2));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_changes_flips_its_service_and_what_it_leaves_goes_later() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1)]).await;
    let applies = lab.node.calls().applies;
    lab.change(vec![endpoint(7, 2)]).await;
    assert_eq!(lab.answer(7), Some(vec![1, 2]));
    lab.change(vec![no_endpoint(7, 1)]).await;
    assert_eq!(lab.answer(7), Some(vec![2]));
    assert_eq!(lab.node.calls().applies, applies + 2);
    // A program may be reading what the flip has left.
    let kept = lab.node.maps();
    assert_eq!((kept.backends.len(), kept.purged_backends.len()), (2, 0));
    let waited = lab
        .until("the purge", |lab| !lab.node.walks().is_empty())
        .await;
    assert_eq!(waited, RETIRE_AFTER.as_secs());
    assert_eq!(lab.node.maps().backends.len(), 1);
    lab.change(vec![no_service(7)]).await;
    assert_eq!(lab.answer(7), None);
    lab.sleep(RETIRE_AFTER * 2).await;
    let left = lab.node.maps();
    assert_eq!((left.backends.len(), left.slots.len()), (0, 0));
    let mut purged = left.purged_backends;
    purged.sort_unstable();
    assert_eq!(purged.len(), 2, "{purged:?}");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_plan() {
    let mut lab = Lab::connected(vec![service(7)]).await;
    let applies = lab.node.calls().applies;
    // The first is not held back; those that come while it is carried out wait for each other.
    for pod in 1..=20 {
        lab.send(vec![endpoint(7, pod)], Snapshot::None);
        tokio::task::yield_now().await;
    }
    lab.settle().await;
    assert_eq!(lab.answer(7).map(|pods| pods.len()), Some(20));
    assert!(
        lab.node.calls().applies <= applies + 2,
        "{:?}",
        lab.node.calls()
    );
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_made_again_writes_only_what_differs() {
    let all = || {
        vec![
            service(7),
            endpoint(7, 1),
            service(8),
            endpoint(8, 2),
            peer(2),
        ]
    };
    let mut lab = Lab::connected(all()).await;
    let before = (lab.node.calls().applies, lab.node.maps());
    let resumed = Welcome {
        resumed: true,
        ..welcome()
    };
    lab.welcome(resumed);
    lab.settle().await;
    lab.welcome(welcome());
    lab.send(all(), Snapshot::Last);
    lab.settle().await;
    assert_eq!((lab.node.calls().applies, lab.node.maps()), before);
    assert_eq!(lab.node.routes(), [route(2)]);
    // While the connection was away, one Service went and another got an endpoint.
    lab.welcome(welcome());
    lab.send(
        vec![service(7), endpoint(7, 1), endpoint(7, 3)],
        Snapshot::Part,
    );
    lab.settle().await;
    assert_eq!(lab.answer(7), Some(vec![1, 3]));
    assert_eq!(lab.answer(8), Some(vec![2]), "it may be named yet");
    lab.send(Vec::new(), Snapshot::Last);
    lab.settle().await;
    assert_eq!(lab.answer(8), None);
    assert_eq!(lab.node.routes(), []);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_starts_again_adopts_the_maps_and_writes_nothing() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1), peer(2)]).await;
    let before = (lab.node.calls().applies, lab.node.maps());
    lab.stop().await;
    assert_eq!(lab.answer(7), Some(vec![1]), "it serves meanwhile");
    lab.start();
    lab.settle().await;
    assert_eq!((lab.node.calls().applies, lab.node.maps()), before);
    lab.change(vec![endpoint(7, 2)]).await;
    assert_eq!(lab.answer(7), Some(vec![1, 2]));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_map_is_an_event_costs_no_other_service_and_is_tried_again() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1)]).await;
    lab.node.resize_backends(2);
    lab.change(vec![service(8), endpoint(8, 2), endpoint(8, 3)])
        .await;
    assert_eq!(lab.answer(7), Some(vec![1]));
    assert_eq!(lab.answer(8), None, "half of a Service is not served");
    assert_eq!(
        lab.said(),
        [(
            "ServiceProgrammingFailed",
            "the map BACKENDS is full at 2 entries; --bpf-backends makes it larger"
        )]
    );
    let metrics = lab.metrics.text().expect("text");
    assert!(metrics.contains("services_failed_total 1"), "{metrics}");
    // Other changes go on.
    lab.change(vec![service(6)]).await;
    assert_eq!(lab.answer(6), Some(Vec::new()));
    let attempts = lab.said().len();
    let waited = lab
        .until("another attempt", |lab| lab.said().len() > attempts)
        .await;
    assert_eq!(waited, RESYNC_AFTER.as_secs());
    lab.node.resize_backends(8);
    lab.until("the Service", |lab| lab.answer(8) == Some(vec![2, 3]))
        .await;
    lab.sleep(RETIRE_AFTER * 3).await;
    let left = lab.node.maps();
    assert_eq!((left.backends.len(), left.slots.len()), (3, 3));
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn maps_that_cannot_be_written_are_read_again_before_the_next_plan() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1)]).await;
    lab.node.break_it(Broken::Writing);
    lab.change(vec![endpoint(7, 2)]).await;
    assert_eq!(lab.answer(7), Some(vec![1]), "it serves what it had");
    assert_eq!(lab.said()[0].0, "ServiceProgrammingFailed");
    lab.node.mend(Broken::Writing);
    lab.node.break_it(Broken::Reading);
    let (applies, restores) = (lab.node.calls().applies, lab.node.calls().restores);
    lab.change(vec![endpoint(7, 3)]).await;
    lab.sleep(RESYNC_AFTER * 2).await;
    assert!(lab.node.calls().restores > restores + 1);
    assert_eq!(
        lab.node.calls().applies,
        applies,
        "nobody knows what they hold"
    );
    lab.node.mend(Broken::Reading);
    let waited = lab
        .until("all endpoints", |lab| lab.answer(7) == Some(vec![1, 2, 3]))
        .await;
    assert!(waited <= RESYNC_AFTER.as_secs(), "{waited}");
    // Nothing is wrong any more, so nothing is read again.
    lab.sleep(RETIRE_AFTER * 2).await;
    let restores = lab.node.calls().restores;
    lab.sleep(RESYNC_AFTER * 3).await;
    assert_eq!(lab.node.calls().restores, restores);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn maps_that_cannot_be_read_at_the_start_end_the_loop() {
    let mut lab = Lab::new();
    lab.welcome(welcome());
    lab.node.break_it(Broken::Reading);
    lab.start();
    let (task, _shutdown) = lab.agent.take().expect("it was started");
    let ended = task.await.expect("no panic");
    assert!(matches!(ended, Err(DatapathError::Map { .. })), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn routes_are_set_again_until_they_are_taken_and_when_links_change() {
    let mut lab = Lab::connected(vec![peer(2)]).await;
    assert_eq!(lab.node.routes(), [route(2)]);
    lab.node.break_it(Broken::Routes);
    lab.change(vec![peer(3), service(7), endpoint(7, 1)]).await;
    assert_eq!(lab.node.routes(), [route(2)]);
    assert_eq!(
        lab.answer(7),
        Some(vec![1]),
        "Services do not wait for routes"
    );
    lab.sleep(RESYNC_AFTER * 2).await;
    lab.node.mend(Broken::Routes);
    let waited = lab
        .until("the route", |lab| lab.node.routes() == [route(2), route(3)])
        .await;
    assert!(waited <= RESYNC_AFTER.as_secs(), "{waited}");
    let calls = lab.node.calls();
    lab.sleep(RESYNC_AFTER * 3).await;
    assert_eq!(lab.node.calls(), calls, "nothing is left to do");
    lab.node.lose_routes();
    lab.links.notify_one();
    lab.settle().await;
    assert_eq!(lab.node.routes(), [route(2), route(3)]);
    assert_eq!(lab.node.guarded(), ["10.96.0.0/12", "10.244.0.0/16"]);
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn other_ranges_are_prepared_as_soon_as_the_node_lets_them() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1)]).await;
    assert_eq!(lab.node.calls().prepares, 0, "the start has done it");
    lab.node.break_it(Broken::Preparing);
    lab.welcome(Welcome {
        service_cidrs: vec!["10.112.0.0/12".into()],
        node_port_last: 31_000,
        ..welcome()
    });
    lab.send(vec![service(7), endpoint(7, 1)], Snapshot::Last);
    let tries = 1 + PREPARE_TRIES as usize;
    lab.until("the first attempts", |lab| {
        lab.node.calls().prepares == tries
    })
    .await;
    assert_eq!(lab.node.guarded(), Vec::<String>::new());
    lab.settle().await;
    assert_eq!(lab.node.node_ports(), Some(30_000..=31_000));
    lab.node.mend(Broken::Preparing);
    let waited = lab
        .until("the ranges", |lab| !lab.node.guarded().is_empty())
        .await;
    assert!(waited <= RESYNC_AFTER.as_secs(), "{waited}");
    assert_eq!(lab.node.guarded(), ["10.112.0.0/12", "10.244.0.0/16"]);
    let calls = lab.node.calls();
    lab.sleep(RESYNC_AFTER * 3).await;
    assert_eq!(lab.node.calls(), calls, "they are prepared once");
    lab.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_purge_that_fails_holds_up_no_service() {
    let mut lab = Lab::connected(vec![service(7), endpoint(7, 1)]).await;
    lab.node.break_it(Broken::Purging);
    lab.change(vec![endpoint(7, 2), no_endpoint(7, 1)]).await;
    lab.until("a purge", |lab| !lab.node.walks().is_empty())
        .await;
    lab.change(vec![endpoint(7, 3)]).await;
    assert_eq!(lab.answer(7), Some(vec![2, 3]));
    lab.node.mend(Broken::Purging);
    lab.until("the purge", |lab| {
        lab.node.maps().purged_backends.len() == 1
    })
    .await;
    assert_eq!(lab.said(), [], "traffic does not need it");
    lab.stop().await;
}
