// SPDX-License-Identifier: Apache-2.0
//! The desired state and its file, cut off at every place.
use knarr_api::feed::ToNode;
use knarr_api::feed::{
    EndpointRemove, NodeSet, ObjectRemove, PodRemove, PodSet, ServicePort, ServiceRemove,
};

use super::*;

fn welcome(epoch: &str, resumed: bool) -> ToNode {
    to(Message::Welcome(Welcome {
        epoch: epoch.into(),
        resumed,
        pod_cidrs: vec!["10.244.1.0/24".into()],
        ..Welcome::default()
    }))
}

fn to(message: Message) -> ToNode {
    ToNode {
        message: Some(message),
    }
}

fn delta(version: u64, snapshot: Snapshot, kinds: Vec<Kind>) -> ToNode {
    to(Message::Delta(Delta {
        version,
        changes: kinds
            .into_iter()
            .map(|kind| Change { change: Some(kind) })
            .collect(),
        snapshot: snapshot.into(),
    }))
}

fn pod(uid: &str) -> Kind {
    Kind::PodSet(PodSet {
        uid: uid.into(),
        pod_json: format!(r#"{{"metadata":{{"name":"{uid}","namespace":"ns","uid":"{uid}"}}}}"#)
            .into(),
    })
}

fn service(name: &str) -> Kind {
    Kind::ServiceSet(ServiceSet {
        namespace: "ns".into(),
        name: name.into(),
        cluster_ips: vec!["10.96.0.7".into()],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..ServiceSet::default()
    })
}

fn endpoint(address: &str) -> Kind {
    Kind::EndpointSet(EndpointSet {
        namespace: "ns".into(),
        service: "s".into(),
        address: address.into(),
        port: 80,
        ready: true,
        ..EndpointSet::default()
    })
}

/// Appends and applies, as the feed does.
fn feed(desired: &Desired, journal: &mut Journal, messages: &[ToNode]) {
    for message in messages {
        journal.append(message).expect("appends");
        desired.apply(message.message.as_ref().expect("message"));
    }
}

fn history() -> Vec<ToNode> {
    vec![
        welcome("e1", false),
        delta(5, Snapshot::Part, vec![pod("a"), service("s")]),
        delta(5, Snapshot::Last, vec![pod("b"), endpoint("10.0.0.1")]),
        delta(6, Snapshot::None, vec![pod("c"), endpoint("10.0.0.2")]),
        delta(
            9,
            Snapshot::None,
            vec![Kind::PodRemove(PodRemove { uid: "a".into() })],
        ),
    ]
}

#[test]
fn a_restart_finds_what_the_last_connection_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    assert_eq!(desired.resume(), None);
    feed(&desired, &mut journal, &history());
    drop((desired, journal));
    let (desired, _) = Desired::open(dir.path()).expect("opens");
    assert_eq!(desired.resume(), Some(("e1".into(), 9)));
    assert_eq!(desired.pod_uids(), ["b", "c"]);
    desired.touch_services();
    let changes = desired.take_touched_services();
    assert_eq!(changes.services.len(), 1);
    assert_eq!(changes.endpoints.len(), 2);
    assert!(changes.complete);
    assert_eq!(
        desired.welcome().expect("welcome").pod_cidrs,
        ["10.244.1.0/24"]
    );
}

#[test]
fn a_file_cut_off_anywhere_gives_a_prefix_of_the_history() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    let whole = std::fs::read(dir.path().join("state")).expect("reads");
    let expected: Vec<(Option<u64>, Vec<String>)> = (0..=history().len())
        .map(|n| {
            let dir = tempfile::tempdir().expect("tempdir");
            let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
            feed(&desired, &mut journal, &history()[..n]);
            (desired.resume().map(|(_, v)| v), desired.pod_uids())
        })
        .collect();
    let mut last = 0;
    for len in 0..=whole.len() {
        let cut = tempfile::tempdir().expect("tempdir");
        let mut bytes = whole[..len].to_vec();
        if len < whole.len() {
            // Not only short: what comes after the cut is garbage.
            bytes.extend_from_slice(&[0x5a; 3]);
        }
        std::fs::write(cut.path().join("state"), bytes).expect("writes");
        let (desired, mut journal) = Desired::open(cut.path()).expect("opens");
        let seen = (desired.resume().map(|(_, v)| v), desired.pod_uids());
        let at = expected[last..]
            .iter()
            .position(|e| *e == seen)
            .expect("a state of the history");
        last += at;
        // And it goes on from there.
        feed(&desired, &mut journal, &history());
        drop((desired, journal));
        let (desired, _) = Desired::open(cut.path()).expect("opens again");
        assert_eq!(desired.pod_uids(), ["b", "c"], "cut at {len}");
    }
    assert_eq!(last, expected.len() - 1);
}

#[test]
fn a_snapshot_that_was_cut_off_is_not_resumed_and_prunes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    feed(
        &desired,
        &mut journal,
        &[
            welcome("e2", false),
            delta(3, Snapshot::Part, vec![pod("z")]),
        ],
    );
    assert_eq!(desired.resume(), None);
    drop((desired, journal));
    // A file that is written again from such a state is not more complete than it.
    for _ in 0..3 {
        let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
        assert_eq!(desired.resume(), None);
        assert_eq!(desired.pod_uids(), ["b", "c", "z"]);
        assert!(!desired.take_touched_pods().complete);
        desired.compact(&mut journal).expect("compacts");
    }
}

#[test]
fn a_snapshot_within_a_connection_removes_what_it_does_not_name_and_nothing_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    feed(
        &desired,
        &mut journal,
        &[
            welcome("e1", true),
            delta(20, Snapshot::Part, vec![pod("a"), service("s")]),
        ],
    );
    assert_eq!(desired.resume(), None, "half a snapshot is not resumed");
    let last = delta(20, Snapshot::Last, vec![pod("c")]);
    feed(&desired, &mut journal, &[last]);
    assert_eq!(desired.pod_uids(), ["a", "c"]);
    assert_eq!(desired.lock().services.len(), 1);
    assert_eq!(desired.resume(), Some(("e1".to_owned(), 20)));
    drop((desired, journal));
    let (again, _) = Desired::open(dir.path()).expect("opens");
    assert_eq!(again.pod_uids(), ["a", "c"], "the file says the same");
}

#[test]
fn a_snapshot_removes_what_it_does_not_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    desired.take_touched_pods();
    desired.take_touched_services();
    feed(
        &desired,
        &mut journal,
        &[
            welcome("e2", false),
            delta(3, Snapshot::Part, vec![pod("b")]),
            delta(3, Snapshot::Last, vec![]),
        ],
    );
    assert_eq!(desired.pod_uids(), ["b"]);
    let pods = desired.take_touched_pods();
    assert_eq!(
        pods.uids.into_iter().collect::<Vec<_>>(),
        ["c"],
        "an equal pod is not touched"
    );
    assert!(pods.complete);
    let services = desired.take_touched_services();
    assert!(services.services.iter().all(|(_, value)| value.is_none()));
    assert_eq!((services.services.len(), services.endpoints.len()), (1, 2));
    assert_eq!(desired.resume(), Some(("e2".into(), 3)));
}

#[test]
fn whether_the_node_gets_new_pods_is_known_after_a_restart_and_a_snapshot_without_it_says_that_it_does()
 {
    let dir = tempfile::tempdir().expect("temporary directory");
    let set = |unschedulable| Kind::NodeSet(NodeSet { unschedulable });
    let told = |desired: &Desired| *desired.watch_scheduling().borrow();
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    let watched = desired.watch_scheduling();
    assert_eq!(told(&desired), Scheduling::Schedulable);
    let connected = [
        welcome("e1", false),
        delta(5, Snapshot::Last, vec![pod("a")]),
        delta(6, Snapshot::None, vec![set(true)]),
    ];
    feed(&desired, &mut journal, &connected);
    assert!(watched.has_changed().expect("watched"));
    assert_eq!(told(&desired), Scheduling::Unschedulable);
    // From the messages themselves, and from a file that was written afresh.
    drop((desired, journal));
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    assert_eq!(told(&desired), Scheduling::Unschedulable);
    desired.compact(&mut journal).expect("compacts");
    drop((desired, journal));
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    assert_eq!(told(&desired), Scheduling::Unschedulable);
    let again = [
        welcome("e2", false),
        delta(1, Snapshot::Part, vec![set(true)]),
        delta(1, Snapshot::Last, vec![pod("a")]),
    ];
    feed(&desired, &mut journal, &again);
    assert_eq!(told(&desired), Scheduling::Unschedulable);
    let without = [
        welcome("e3", false),
        delta(1, Snapshot::Last, vec![pod("a")]),
    ];
    feed(&desired, &mut journal, &without);
    assert_eq!(told(&desired), Scheduling::Schedulable);
}

#[test]
fn a_rewritten_file_holds_the_same_and_less() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    for n in 10..2_000 {
        let change = delta(
            n,
            Snapshot::None,
            vec![endpoint(&format!("10.0.1.{}", n % 5))],
        );
        feed(&desired, &mut journal, &[change]);
    }
    let before = std::fs::metadata(dir.path().join("state"))
        .expect("stat")
        .len();
    desired.compact(&mut journal).expect("rewrites");
    let after = std::fs::metadata(dir.path().join("state"))
        .expect("stat")
        .len();
    assert!(after * 10 < before, "{before} to {after}");
    feed(
        &desired,
        &mut journal,
        &[delta(2_000, Snapshot::None, vec![pod("d")])],
    );
    drop((desired, journal));
    let (desired, _) = Desired::open(dir.path()).expect("opens");
    assert_eq!(desired.resume(), Some(("e1".into(), 2_000)));
    assert_eq!(desired.pod_uids(), ["b", "c", "d"]);
    desired.touch_services();
    assert_eq!(desired.take_touched_services().endpoints.len(), 7);
}

#[test]
fn the_file_stays_small_when_what_it_told_of_is_gone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    let address = |n: u64| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    let endpoint_remove = |n: u64| {
        Kind::EndpointRemove(EndpointRemove {
            namespace: "ns".into(),
            service: "s".into(),
            address: address(n),
            port: 80,
            ..EndpointRemove::default()
        })
    };
    let told = |journal: &mut Journal, change: Kind| {
        feed(
            &desired,
            journal,
            &[delta(10, Snapshot::None, vec![change])],
        );
        let is_due = journal.wants_rewrite(desired.journal_bytes());
        if is_due {
            desired.compact(journal).expect("rewrites");
            assert!(!journal.wants_rewrite(desired.journal_bytes()));
        }
        is_due
    };
    let many = 20_000;
    let rewrites = (0..many).filter(|n| told(&mut journal, endpoint(&address(*n))));
    assert_eq!(rewrites.count(), 0, "nothing was out of date");
    let full = std::fs::metadata(dir.path().join("state"))
        .expect("stat")
        .len();
    let rewrites = (0..many).filter(|n| told(&mut journal, endpoint_remove(*n)));
    let rewrites = rewrites.count();
    assert!((2..12).contains(&rewrites), "{rewrites} rewrites");
    let left = std::fs::metadata(dir.path().join("state"))
        .expect("stat")
        .len();
    assert!(full > 600 << 10 && left < 300 << 10, "{full} to {left}");
    drop((desired, journal));
    let (desired, _) = Desired::open(dir.path()).expect("opens");
    assert_eq!(desired.pod_uids(), ["b", "c"]);
}

#[test]
fn a_file_of_another_version_is_put_aside() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("state"), b"KNARRDS9 and more").expect("writes");
    let (desired, _) = Desired::open(dir.path()).expect("opens");
    assert_eq!(desired.resume(), None);
    assert!(dir.path().join("state.unknown").exists());
}

#[test]
fn only_what_changed_is_handed_out() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    desired.take_touched_services();
    let mut watch = desired.watch_services();
    watch.borrow_and_update();
    let remove = Kind::EndpointRemove(EndpointRemove {
        namespace: "ns".into(),
        service: "s".into(),
        address: "10.0.0.1".into(),
        port: 80,
        ..EndpointRemove::default()
    });
    feed(
        &desired,
        &mut journal,
        &[delta(
            10,
            Snapshot::None,
            vec![remove, endpoint("10.0.0.9")],
        )],
    );
    assert!(watch.has_changed().expect("open"));
    let changes = desired.take_touched_services();
    assert!(changes.services.is_empty());
    let values: Vec<(String, bool)> = changes
        .endpoints
        .iter()
        .map(|(key, value)| (key.3.clone(), value.is_some()))
        .collect();
    assert_eq!(
        values,
        [("10.0.0.1".into(), false), ("10.0.0.9".into(), true)]
    );
    feed(
        &desired,
        &mut journal,
        &[delta(
            11,
            Snapshot::None,
            vec![Kind::ServiceRemove(ServiceRemove {
                namespace: "ns".into(),
                name: "s".into(),
            })],
        )],
    );
    let changes = desired.take_touched_services();
    assert!(changes.services[0].1.is_none());
    let gone: Vec<(String, bool)> = changes
        .endpoints
        .iter()
        .map(|(key, value)| (key.3.clone(), value.is_none()))
        .collect();
    assert_eq!(
        gone,
        [("10.0.0.2".into(), true), ("10.0.0.9".into(), true)],
        "the endpoints of a Service go with it"
    );
}

#[test]
fn objects_of_a_namespace_are_found_and_wake_its_pods() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    desired.take_touched_pods();
    let object = ObjectSet {
        kind: "ConfigMap".into(),
        namespace: "ns".into(),
        name: "conf".into(),
        object_json: r#"{"data":{"a":"1"}}"#.into(),
    };
    feed(
        &desired,
        &mut journal,
        &[delta(10, Snapshot::None, vec![Kind::ObjectSet(object)])],
    );
    assert!(desired.take_touched_pods().namespaces.contains("ns"));
    assert!(desired.objects("ns").config_maps.contains_key("conf"));
    assert!(desired.objects("other").config_maps.is_empty());
    // Read once: what one pod was given is what the next one is given.
    let (one, two) = (desired.objects("ns"), desired.objects("ns"));
    assert!(std::sync::Arc::ptr_eq(
        &one.config_maps["conf"],
        &two.config_maps["conf"]
    ));
    let gone = ObjectRemove {
        kind: "ConfigMap".into(),
        namespace: "ns".into(),
        name: "conf".into(),
    };
    feed(
        &desired,
        &mut journal,
        &[delta(11, Snapshot::None, vec![Kind::ObjectRemove(gone)])],
    );
    assert!(desired.objects("ns").config_maps.is_empty());
    assert_eq!(desired.service_vars("ns")[0].cluster_ip, "10.96.0.7");
}

#[test]
fn a_file_that_lost_what_was_written_is_written_anew() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, mut journal) = Desired::open(dir.path()).expect("opens");
    feed(&desired, &mut journal, &history());
    let lost = journal.to_sync().expect("is whole");
    assert!(journal.tear(&lost));
    assert!(journal.to_sync().is_none() && journal.wants_rewrite(desired.journal_bytes()));
    assert!(journal.append(&history()[0]).is_err());
    // An attempt that was cut off left a file with a mode of its own.
    let left = dir.path().join("state.new");
    std::fs::write(&left, b"half").expect("writes");
    std::fs::set_permissions(&left, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    assert_eq!(
        desired.compact(&mut journal).expect("rewrites"),
        Compacted::Written
    );
    let mode = std::fs::metadata(dir.path().join("state")).expect("stat");
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    // The replaced file's failures are no longer the journal's.
    assert!(!journal.tear(&lost) && journal.to_sync().is_some());
}
