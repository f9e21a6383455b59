// SPDX-License-Identifier: Apache-2.0
//! Pods on a fake node: an agent's pod workers over the simulated world, in paused time and without root.
//!
//! Whole lives of pods are in `tests/lives`. Here is the node that they live on.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Event, PodStatus};
use knarr_agent_plan::support::SeLinux;
use knarr_api::feed::change::Change as Wish;
use knarr_api::feed::from_node::Message as Said;
use knarr_api::feed::to_node::Message;
use knarr_api::feed::{Change, Delta, PodRemove, PodSet, Snapshot, Welcome};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::edges::fake::FakeNode;

mod lives;

/// When every test begins, in milliseconds since 1970.
const BEGIN_MS: Millis = 1_700_000_000_000;
/// How long in simulated time something may take: longer than the longest back-off.
const PATIENCE: Duration = Duration::from_secs(600);

/// A node, and what its agent has said.
struct Lab {
    node: Arc<FakeNode>,
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    clock: Clock,
    machine: Arc<Machine>,
    agent: Option<(JoinHandle<()>, CancellationToken)>,
    version: u64,
    statuses: BTreeMap<String, PodStatus>,
    gone: Vec<String>,
    events: Vec<String>,
    dir: tempfile::TempDir,
}

fn machine() -> Machine {
    let cgroups = json!({"unified": "/sys/fs/cgroup", "legacy": [], "base": ""});
    Machine {
        node_name: "node".into(),
        hostname: "node".into(),
        node_ip: Ipv4Addr::LOCALHOST,
        uplinks: Vec::new(),
        cgroups: serde_json::from_value(cgroups).expect("a layout"),
        memory_bytes: 8 << 30,
        cpus: 4,
        kernel: String::new(),
        os_image: String::new(),
        machine_id: String::new(),
        boot_id: String::new(),
        system_uuid: String::new(),
        reserved_cpu_milli: 0,
        reserved_memory_bytes: 0,
        se_linux: SeLinux::Off,
    }
}

fn pod_set(name: &str, mut pod: Value) -> Wish {
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!("ns");
    pod["metadata"]["uid"] = json!(name);
    Wish::PodSet(PodSet {
        uid: name.into(),
        pod_json: pod.to_string().into(),
    })
}

impl Lab {
    /// A node with the image `i:1`, its pod range and a running agent.
    async fn new() -> Lab {
        let dir = tempfile::tempdir().expect("tempdir");
        let clock = Clock::Tokio(Instant::now(), BEGIN_MS);
        let node = FakeNode::new(dir.path(), clock);
        node.import("i:1");
        let (desired, _) = Desired::open(&dir.path().join("desired")).expect("opens");
        let mut lab = Lab {
            node,
            desired,
            outbox: Arc::default(),
            clock,
            machine: Arc::new(machine()),
            agent: None,
            version: 0,
            statuses: BTreeMap::new(),
            gone: Vec::new(),
            events: Vec::new(),
            dir,
        };
        lab.snapshot(Vec::new());
        lab.start().await;
        lab
    }

    /// Starts an agent, which takes over what is there.
    async fn start(&mut self) {
        let dir = self.dir.path();
        let context = Arc::new(Context {
            desired: self.desired.clone(),
            outbox: self.outbox.clone(),
            events: Arc::new(Events::new(self.outbox.clone(), "node")),
            edges: self.node.edges(),
            clock: self.clock,
            ipam: Ipam::open(dir).expect("opens"),
            records: Arc::new(Records::open(dir).expect("opens")),
            machine: self.machine.clone(),
            max_pods: 100,
            sysctls: AllowedSysctls::default(),
            pod_pids: None,
            metrics: Arc::default(),
            live: Arc::default(),
            starts: Semaphore::new(STARTS_AT_ONCE),
            ends: Semaphore::new(ENDS_AT_ONCE),
        });
        let pods = Pods::adopt(context).await.expect("adopts");
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(pods.run(shutdown.clone()));
        self.agent = Some((task, shutdown));
    }

    /// Ends the agent; its pods stay.
    async fn stop(&mut self) {
        let (task, shutdown) = self.agent.take().expect("an agent runs");
        shutdown.cancel();
        task.await.expect("it ends without a panic");
    }

    fn send(&mut self, changes: Vec<Wish>, snapshot: Snapshot) {
        self.version += 1;
        let changes = changes.into_iter().map(|c| Change { change: Some(c) });
        self.desired.apply(&Message::Delta(Delta {
            version: self.version,
            changes: changes.collect(),
            snapshot: snapshot.into(),
        }));
    }

    /// The control plane binds or changes a pod, whose name is its UID.
    fn set(&mut self, name: &str, pod: Value) {
        self.send(vec![pod_set(name, pod)], Snapshot::None);
    }

    /// A control plane connects and names all pods that there are.
    fn snapshot(&mut self, pods: Vec<(&str, Value)>) {
        self.desired.apply(&Message::Welcome(Welcome {
            epoch: "e".into(),
            pod_cidrs: vec!["10.244.1.0/24".into()],
            ..Welcome::default()
        }));
        let pods = pods.into_iter().map(|(name, pod)| pod_set(name, pod));
        self.send(pods.collect(), Snapshot::Last);
    }

    /// The control plane forgets a pod.
    fn forget(&mut self, name: &str) {
        let remove = PodRemove { uid: name.into() };
        self.send(vec![Wish::PodRemove(remove)], Snapshot::None);
    }

    /// Takes in what the agent has said.
    fn listen(&mut self) {
        while let Some(said) = self.outbox.next() {
            match said {
                Said::Pod(report) => {
                    let status = serde_json::from_slice(&report.status_json).expect("a status");
                    self.statuses.insert(report.uid, status);
                }
                Said::PodGone(gone) => self.gone.push(gone.uid),
                Said::Event(event) => {
                    let event: Event = serde_json::from_slice(&event.event_json).expect("an event");
                    self.events.extend(event.reason);
                }
                _ => {}
            }
        }
    }

    /// Waits in simulated time until the agent has said or done what `holds` asks for.
    async fn until(&mut self, what: &str, holds: impl Fn(&Lab) -> bool) {
        let begin = Instant::now();
        loop {
            self.listen();
            if holds(self) {
                return;
            }
            let (log, statuses) = (self.node.log(), &self.statuses);
            assert!(
                begin.elapsed() < PATIENCE,
                "{what} is waited for; done: {log:#?}, said: {statuses:#?}, events: {:?}",
                self.events
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_phase(&mut self, name: &str, phase: &str) {
        self.until(phase, |lab| lab.phase(name) == Some(phase))
            .await;
    }

    fn phase(&self, name: &str) -> Option<&str> {
        self.statuses.get(name)?.phase.as_deref()
    }

    /// Why the first container of a pod waits.
    fn waiting(&self, name: &str) -> Option<&str> {
        let statuses = self.statuses.get(name)?.container_statuses.as_ref()?;
        let state = statuses.first()?.state.as_ref()?;
        state.waiting.as_ref()?.reason.as_deref()
    }

    fn restarts(&self, name: &str) -> i32 {
        let statuses = self.statuses.get(name);
        let statuses = statuses.and_then(|s| s.container_statuses.as_ref());
        statuses
            .and_then(|s| s.first())
            .map_or(0, |s| s.restart_count)
    }

    fn is_ready(&self, name: &str) -> bool {
        let conditions = self.statuses.get(name).and_then(|s| s.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|c| c.type_ == "Ready" && c.status == "True")
    }

    fn end(&self, name: &str, container: &str, exit_code: i32) {
        let sandbox = self.node.sandbox(name).expect("it has a sandbox");
        sandbox.end(container, exit_code);
    }
}

#[tokio::test]
async fn a_link_that_cannot_be_removed_keeps_no_other_from_being_removed() {
    let removed = parking_lot::Mutex::new(Vec::new());
    let removals = ["a", "stuck", "b"].map(|name| {
        let removed = &removed;
        async move {
            // The others are still at it when this one fails.
            if name == "stuck" {
                anyhow::bail!("it is stuck");
            }
            tokio::task::yield_now().await;
            removed.lock().push(name);
            Ok(())
        }
    });
    let mut pruned = Pruned::All;
    note_all(&mut pruned, "a link", removals.into_iter()).await;
    assert_eq!(pruned, Pruned::Partly, "it is tried again");
    assert_eq!(*removed.lock(), ["a", "b"]);
    assert_eq!(pruned.note("the next", Ok::<_, anyhow::Error>(1)), Some(1));
    assert_eq!(pruned, Pruned::Partly, "what follows does not hide it");
}
