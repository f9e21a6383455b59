// SPDX-License-Identifier: Apache-2.0
//! kill -9 of the control plane: nothing acknowledged is lost, and traffic goes on while it is away.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use knarr_tests::faults::{self, Whole};
use knarr_tests::hosts::{CLIENT, NODES};
use knarr_tests::lab::up_dir;
use knarr_tests::load;
use knarr_tests::manifests;
use knarr_tests::{Cluster, From, Load, eventually};

/// How often the control plane is killed.
const ROUNDS: usize = 3;
/// Clients that write at once.
const WRITERS: usize = 2;
/// So many writes are acknowledged before each kill: every writer has come through more than once, so a write of
/// each is on its way in the moment of the kill, and the newest ones are only just written.
const WRITES_BEFORE_KILL: usize = 6;
/// So many over all rounds, or too little was at stake.
const ACKNOWLEDGED_MIN: usize = ROUNDS * WRITES_BEFORE_KILL;
/// Time for those writes on two cores that also carry the cluster and its load.
const WRITES_LIMIT: Duration = Duration::from_secs(30);
/// How long it stays away: longer than a write takes, so each writer has one that fails.
const AWAY: Duration = Duration::from_secs(2);

/// Writers that note what was acknowledged, until they are stopped.
struct Writers {
    acknowledged: Arc<Mutex<Vec<String>>>,
    failed: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Writers {
    fn start(cluster: &Cluster, round: usize) -> Self {
        let mut writers = Self {
            acknowledged: Arc::default(),
            failed: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for writer in 0..WRITERS {
            let kubectl = cluster.kubectl.clone();
            let acknowledged = Arc::clone(&writers.acknowledged);
            let failed = Arc::clone(&writers.failed);
            let stop = Arc::clone(&writers.stop);
            writers.threads.push(thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = format!("written-{round}-{writer}-{number}");
                    let args = [
                        "create",
                        "configmap",
                        &name,
                        "--from-literal=number=1",
                        "--request-timeout=5s",
                    ];
                    if kubectl.run(&args).success {
                        acknowledged
                            .lock()
                            .expect("a writer does not panic")
                            .push(name);
                    } else {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        writers
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged
            .lock()
            .expect("a writer does not panic")
            .len()
    }

    /// What was acknowledged, and how many writes were not.
    fn stop(self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer does not panic");
        }
        let acknowledged = self.acknowledged.lock().expect("a writer does not panic");
        (acknowledged.clone(), self.failed.load(Ordering::Relaxed))
    }
}

fn assert_all_there(cluster: &Cluster, acknowledged: &BTreeSet<String>, when: &str) {
    let listed = cluster
        .kubectl
        .ok(&["get", "configmaps", "--output", "name"]);
    let there: BTreeSet<String> = listed
        .lines()
        .filter_map(|line| line.strip_prefix("configmap/"))
        .map(str::to_owned)
        .collect();
    let gone: Vec<&String> = acknowledged.difference(&there).collect();
    assert!(
        gone.is_empty(),
        "{when}: {gone:?} were acknowledged and are gone; {} were acknowledged",
        acknowledged.len()
    );
}

#[test]
fn killing_the_control_plane_loses_nothing_acknowledged_and_no_request() {
    let _whole = Whole;
    let cluster = Cluster::namespace("control-kill");
    let addresses = cluster.serve(
        &manifests::probed_echo_deployment("web", 4),
        &manifests::echo_service("web"),
    );
    let uids = |cluster: &Cluster| {
        let mut uids: Vec<String> = cluster
            .kubectl
            .items(&["get", "pods", "--selector", "app=web"])
            .iter()
            .map(|pod| pod["metadata"]["uid"].to_string())
            .collect();
        uids.sort();
        uids
    };
    let pods = uids(&cluster);
    let mut loads = Vec::new();
    for node in NODES {
        loads.push(Load::start(node, From::Requests, &addresses.cluster(80)));
        loads.push(Load::start(
            CLIENT,
            From::Requests,
            &addresses.node(node, 80),
        ));
    }
    loads.push(Load::start("node-2", From::KeptTcp, &addresses.cluster(81)));

    let mut acknowledged = BTreeSet::new();
    let killed = load::around(|| {
        for round in 0..ROUNDS {
            let writers = Writers::start(&cluster, round);
            eventually("writes are acknowledged", WRITES_LIMIT, || {
                match writers.acknowledged() {
                    enough if enough >= WRITES_BEFORE_KILL => Ok(()),
                    few => Err(format!("{few} of {WRITES_BEFORE_KILL}")),
                }
            });
            faults::kill_control();
            thread::sleep(AWAY);
            let (written, failed) = writers.stop();
            assert!(
                failed >= WRITERS,
                "only {failed} writes failed, so hardly anybody wrote when it was killed"
            );
            acknowledged.extend(written);
            faults::start_control();
            assert_all_there(&cluster, &acknowledged, &format!("after kill {round}"));
        }
    });

    faults::all_ready();
    assert!(
        acknowledged.len() >= ACKNOWLEDGED_MIN,
        "only {} writes were acknowledged in {ROUNDS} rounds",
        acknowledged.len()
    );
    assert_all_there(&cluster, &acknowledged, "after all rounds");
    assert_eq!(
        uids(&cluster),
        pods,
        "pods were replaced although nothing happened to them"
    );
    // And it works: a change is carried out.
    cluster
        .kubectl
        .ok(&["scale", "deployment/web", "--replicas=6"]);
    cluster.kubectl.rolled_out("web");
    for load in loads {
        let what = load.what().to_owned();
        load.stop().assert_unbroken_around(&what, &killed);
    }
}

#[test]
fn a_node_reconnects_and_reports_what_happened_meanwhile() {
    let _whole = Whole;
    let cluster = Cluster::namespace("control-away");
    cluster.kubectl.apply(&manifests::script_pod(
        "ends",
        "node-2",
        "echo started; sleep 4; exit 3",
    ));
    cluster.kubectl.until(
        "pod/ends",
        "/status/phase",
        "Running",
        Duration::from_secs(30),
    );
    let log = up_dir().join("logs/node-2.log");
    let before = fs::read_to_string(&log).expect("the agent's log").len();
    faults::kill_control();
    thread::sleep(Duration::from_secs(6));
    faults::start_control();
    let log = fs::read_to_string(&log).expect("the agent's log");
    let told = log[before..]
        .lines()
        .find(|line| line.contains("no control plane (pods and Services go on): "))
        .expect("the agent says that it is alone");
    assert!(!told.contains("://docs"), "no page for programmers: {told}");
    cluster.kubectl.until(
        "pod/ends",
        "/status/containerStatuses/0/state/terminated/exitCode",
        "3",
        Duration::from_secs(30),
    );
    assert!(cluster.kubectl.ok(&["logs", "ends"]).contains("started"));
}
