// SPDX-License-Identifier: Apache-2.0
//! The pod state machine, driven against a small simulated runtime.
use knarr_pod::{ContainerPhase, ExitReason};
use serde_json::json;

use super::*;
use crate::observed::{ImageView, RecordStore};
use crate::probe::ProbeView;
use crate::simulated::{KILLED_EXIT_CODE, SimulatedSandbox};
use crate::status::status;

mod sandbox;
mod status;
mod stops;

const NOW: Millis = 1_700_000_000_000;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
        "spec": spec,
    }))
    .expect("a pod")
}

fn simple() -> Pod {
    pod(json!({"containers": [{"name": "c", "image": "i:1"}]}))
}

/// A pod in a simulated sandbox, and all that its planner knows.
struct World {
    sandbox: Option<SimulatedSandbox>,
    health: SandboxHealth,
    pod: Pod,
    wanted: Wanted,
    record: PodRecord,
    observed: Observed,
    now: Millis,
    log: Vec<String>,
    released: u32,
}

impl World {
    fn new(pod: Pod) -> World {
        let mut observed = Observed {
            network: Network::Known,
            ..Observed::default()
        };
        for (c, _) in containers(pod.spec.as_ref().expect("spec")) {
            let image = c.image.clone().unwrap_or_default();
            observed.images.insert(
                image,
                ImageView::Present {
                    id: "sha256:1".into(),
                },
            );
        }
        World {
            sandbox: None,
            health: SandboxHealth::Alive,
            record: PodRecord::new(&pod, NOW),
            pod,
            wanted: Wanted::Yes,
            observed,
            now: NOW,
            log: Vec::new(),
            released: 0,
        }
    }

    fn look(&mut self) {
        let health = self.health;
        self.observed.sandbox = self.sandbox.as_ref().map(|s| SandboxView {
            attempt: s.attempt,
            ips: vec!["10.244.0.9".into()],
            health,
        });
        let containers = self.sandbox.iter().flat_map(|s| s.containers.clone());
        self.observed.containers = containers.collect();
        self.record.absorb(&self.observed, self.now);
    }

    fn sandbox(&mut self) -> &mut SimulatedSandbox {
        self.sandbox.as_mut().expect("sandbox")
    }

    fn plan(&mut self) -> Plan {
        self.look();
        plan(
            &self.pod,
            self.wanted,
            &self.record,
            &self.observed,
            self.now,
        )
    }

    fn apply(&mut self, action: &PodAction) {
        match action {
            PodAction::CreateSandbox { attempt } => {
                self.log.push(format!("sandbox {attempt}"));
                self.sandbox = Some(SimulatedSandbox::new(*attempt));
                self.health = SandboxHealth::Alive;
                self.record.sandboxes = attempt + 1;
            }
            PodAction::WireSandbox => {
                self.log.push("wire".into());
                self.health = SandboxHealth::Alive;
            }
            PodAction::StartContainer { name, attempt } => {
                self.log.push(format!("start {name} {attempt}"));
                let (image, now) = (self.image(name), self.now);
                let sandbox = self.sandbox();
                sandbox.start(name, *attempt, &image, now);
                let sandbox = sandbox.attempt;
                self.record.started(name, *attempt, sandbox, self.now);
            }
            PodAction::Refuse {
                name,
                reason,
                message,
            } => {
                self.log.push(format!("refuse {name} {}", reason.as_str()));
                self.record.refused(name, *reason, message, self.now);
            }
            PodAction::PreStop {
                name,
                grace_ms,
                sleep_ms,
                cause,
                ..
            } => {
                self.log.push(format!("sleep {name} {sleep_ms}"));
                self.record
                    .pre_stopping(name, *cause, *grace_ms, *sleep_ms, self.now);
            }
            PodAction::Stop {
                name,
                grace_ms,
                cause,
                ..
            } => {
                self.log.push(format!("stop {name} {grace_ms}"));
                self.record.stopping(name, *cause, *grace_ms, self.now);
            }
            PodAction::Kill { name, attempt } => {
                self.log.push(format!("kill {name}"));
                self.exit_attempt(name, *attempt, KILLED_EXIT_CODE, ExitReason::Error);
            }
            PodAction::RemoveContainer { name, attempt } => {
                self.log.push(format!("remove {name} {attempt}"));
                self.sandbox().remove(name, *attempt);
            }
            PodAction::BeginTermination { failure } => {
                self.record.termination = Some(crate::record::Termination {
                    since_ms: self.now,
                    failure: failure.clone(),
                });
            }
            PodAction::DestroySandbox => {
                self.log.push("destroy".into());
                self.sandbox = None;
            }
            PodAction::Release => {
                self.log.push("release".into());
                self.released += 1;
            }
        }
    }

    /// Plans and applies until nothing is left to do now; returns when it wants to look again.
    fn settle(&mut self) -> Option<Millis> {
        for _ in 0..20 {
            let plan = self.plan();
            if plan.actions.is_empty() || self.released > 0 {
                return plan.wake_ms;
            }
            for action in &plan.actions {
                self.apply(action);
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    fn exit(&mut self, name: &str, code: i32) {
        let attempt = self.record.containers[name].attempt().expect("attempt");
        let now = self.now;
        self.sandbox().end(name, attempt, code, now);
    }

    fn exit_attempt(&mut self, name: &str, attempt: u32, code: i32, reason: ExitReason) {
        let now = self.now;
        self.sandbox().exit(name, attempt, code, reason, now);
    }

    fn image(&self, name: &str) -> String {
        let spec = self.pod.spec.as_ref().expect("spec");
        let mut all = containers(spec);
        let found = all.find(|(c, _)| c.name == name).expect("container");
        found.0.image.clone().unwrap_or_default()
    }

    fn set_image(&mut self, image: &str) {
        self.pod.spec.as_mut().expect("spec").containers[0].image = Some(image.into());
        let view = ImageView::Present {
            id: "sha256:2".into(),
        };
        self.observed.images.insert(image.into(), view);
    }

    fn status(&mut self) -> k8s_openapi::api::core::v1::PodStatus {
        self.look();
        let ips = ["192.168.0.1".to_owned()];
        status(
            &self.pod,
            self.wanted,
            &mut self.record,
            &self.observed,
            &ips,
            self.now,
        )
    }

    fn phase(&mut self) -> String {
        self.status().phase.expect("phase")
    }

    fn delete(&mut self, grace: i64) {
        let time = crate::status::time(self.now + grace * 1000);
        self.pod.metadata.deletion_timestamp = Some(time);
        self.pod.metadata.deletion_grace_period_seconds = Some(grace);
    }

    fn waiting_reason(&mut self, at: usize) -> String {
        let status = self.status();
        let statuses = status.container_statuses.expect("statuses");
        let waiting = statuses[at].state.clone().and_then(|s| s.waiting);
        waiting.and_then(|w| w.reason).unwrap_or_default()
    }
}

#[test]
fn a_pod_waits_for_the_pod_range_of_its_node() {
    let mut w = World::new(simple());
    w.observed.network = Network::Unknown;
    assert_eq!(
        w.plan(),
        Plan {
            stage: Stage::Pending,
            actions: vec![],
            wake_ms: None
        }
    );
    w.pod.spec.as_mut().expect("spec").host_network = Some(true);
    assert_eq!(w.plan().stage, Stage::Sandbox);
}

#[test]
fn a_fresh_pod_gets_a_sandbox_and_then_its_container() {
    let mut w = World::new(simple());
    assert_eq!(w.phase(), "Pending");
    assert_eq!(w.waiting_reason(0), "ContainerCreating");
    assert_eq!(w.settle(), None);
    assert_eq!(w.log, ["sandbox 0", "start c 0"]);
    assert_eq!(w.phase(), "Running");
    assert_eq!(w.plan().stage, Stage::Running);
}

#[test]
fn a_crashing_container_is_restarted_with_growing_delays_and_says_so() {
    let mut w = World::new(simple());
    w.settle();
    w.exit("c", 1);
    assert_eq!(w.settle(), None, "the first restart is immediate");
    w.exit("c", 1);
    assert_eq!(w.settle(), Some(w.now + 10_000));
    assert_eq!(w.waiting_reason(0), "CrashLoopBackOff");
    let status = w.status().container_statuses.expect("statuses").remove(0);
    let message = status.state.and_then(|s| s.waiting).and_then(|w| w.message);
    assert_eq!(
        message.as_deref(),
        Some("back-off 10s restarting failed container=c pod=web_default(u1)")
    );
    assert_eq!(status.restart_count, 1);
    let last = status
        .last_state
        .and_then(|s| s.terminated)
        .expect("last state");
    assert_eq!((last.exit_code, last.reason.as_deref()), (1, Some("Error")));
    assert_eq!(w.phase(), "Running");
    w.now += 10_000;
    assert_eq!(w.settle(), None);
    w.exit("c", 1);
    assert_eq!(w.settle(), Some(w.now + 20_000));
    assert_eq!(
        w.log,
        [
            "sandbox 0",
            "start c 0",
            "start c 1",
            "remove c 0",
            "start c 2",
            "remove c 1"
        ]
    );
}

#[test]
fn restart_policies_decide_by_exit_code() {
    for (policy, code, expect) in [
        ("Always", 0, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 3, "Running"),
        ("Never", 0, "Succeeded"),
        ("Never", 3, "Failed"),
    ] {
        let mut w = World::new(pod(json!({
            "restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]})));
        w.settle();
        w.exit("c", code);
        w.settle();
        assert_eq!(w.phase(), expect, "{policy} {code}");
        let restarted = w.log.contains(&"start c 1".to_owned());
        assert_eq!(restarted, expect == "Running", "{policy} {code}");
    }
}

#[test]
fn a_finished_pod_gives_its_sandbox_back_and_stays_finished() {
    let mut w = World::new(pod(json!({
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]})));
    w.settle();
    w.exit("c", 0);
    assert_eq!(w.settle(), None);
    assert_eq!(w.log.last().map(String::as_str), Some("destroy"));
    assert_eq!(
        w.plan(),
        Plan {
            stage: Stage::Terminated,
            actions: vec![],
            wake_ms: None
        }
    );
    let terminated = w.status().container_statuses.expect("statuses")[0]
        .state
        .clone();
    assert_eq!(
        terminated.and_then(|s| s.terminated).map(|t| t.exit_code),
        Some(0)
    );
}

#[test]
fn init_containers_run_one_after_another_before_the_others() {
    let mut w = World::new(pod(json!({
        "initContainers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}],
        "containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]})));
    assert_eq!(w.waiting_reason(0), "PodInitializing");
    w.settle();
    assert_eq!(w.log, ["sandbox 0", "start a 0"]);
    assert_eq!(w.plan().stage, Stage::Init(0));
    w.exit("a", 0);
    w.settle();
    assert_eq!(w.plan().stage, Stage::Init(1));
    assert_eq!(w.phase(), "Pending");
    w.exit("b", 1);
    w.settle();
    w.exit("b", 0);
    w.settle();
    assert_eq!(
        w.log,
        [
            "sandbox 0",
            "start a 0",
            "start b 0",
            "start b 1",
            "remove b 0",
            "start c 0",
            "start d 0"
        ]
    );
    assert_eq!(w.phase(), "Running");
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let mut w = World::new(pod(json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": "i:1"}],
        "containers": [{"name": "c", "image": "i:1"}]})));
    w.settle();
    w.exit("a", 2);
    w.settle();
    assert_eq!(w.phase(), "Failed");
    assert_eq!(w.log, ["sandbox 0", "start a 0", "destroy"]);
}

#[test]
fn a_sidecar_starts_first_is_restarted_and_is_stopped_last() {
    let mut w = World::new(pod(json!({
        "initContainers": [{"name": "s", "image": "i:1", "restartPolicy": "Always"},
                           {"name": "a", "image": "i:1"}],
        "containers": [{"name": "c", "image": "i:1"}]})));
    w.settle();
    assert_eq!(w.log, ["sandbox 0", "start s 0", "start a 0"]);
    w.exit("a", 0);
    w.settle();
    w.exit("s", 0);
    w.settle();
    assert!(w.log.contains(&"start s 1".to_owned()), "{:?}", w.log);
    w.log.clear();
    w.delete(30);
    w.settle();
    assert_eq!(w.log, ["stop c 30000"]);
    w.exit("c", 0);
    w.settle();
    assert_eq!(w.log.last().map(String::as_str), Some("stop s 30000"));
    w.exit("s", 0);
    w.settle();
    assert_eq!(w.log[w.log.len() - 2..], ["destroy", "release"]);
}

#[test]
fn a_sidecar_does_not_keep_a_finished_pod_alive() {
    let mut w = World::new(pod(json!({
        "restartPolicy": "OnFailure",
        "initContainers": [{"name": "s", "image": "i:1", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "i:1"}]})));
    w.settle();
    w.exit("c", 0);
    w.settle();
    assert_eq!(w.log.last().map(String::as_str), Some("stop s 30000"));
    assert_eq!(w.phase(), "Running");
    w.exit("s", 143);
    w.settle();
    assert_eq!(w.phase(), "Succeeded");
}

#[test]
fn a_deleted_pod_is_stopped_killed_after_its_grace_and_then_gone() {
    let mut w = World::new(simple());
    w.settle();
    w.delete(5);
    assert_eq!(w.settle(), Some(NOW + 5_000));
    assert_eq!(w.log[2..], ["stop c 5000"]);
    w.now += 5_000;
    w.settle();
    assert_eq!(w.log[3..], ["kill c", "destroy", "release"]);
    assert_eq!(w.phase(), "Failed");
}

#[test]
fn a_shorter_grace_in_a_second_delete_is_obeyed() {
    let mut w = World::new(simple());
    w.settle();
    w.delete(300);
    w.settle();
    w.now += 2_000;
    w.delete(1);
    w.settle();
    assert_eq!(w.log[3..], ["kill c", "destroy", "release"]);
}

#[test]
fn a_pod_that_vanished_from_the_api_ends_within_a_second() {
    let mut w = World::new(simple());
    w.settle();
    w.wanted = Wanted::Removed;
    assert_eq!(w.settle(), Some(NOW + 1_000));
    w.now += 1_000;
    w.settle();
    assert_eq!(w.released, 1);
}

#[test]
fn a_pod_deleted_before_anything_was_made_is_released_at_once() {
    let mut w = World::new(simple());
    w.delete(30);
    w.settle();
    assert_eq!(w.log, ["release"]);
}

#[test]
fn pre_stop_sleep_counts_into_the_grace_period() {
    let mut w = World::new(pod(json!({"containers": [{"name": "c", "image": "i:1",
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}, "stopSignal": "SIGUSR1"}}]})));
    w.settle();
    w.delete(10);
    assert_eq!(w.settle(), Some(NOW + 3_000));
    w.now += 3_000;
    let stop = w.plan().actions;
    assert_eq!(
        stop,
        [PodAction::Stop {
            name: "c".into(),
            attempt: 0,
            signal: Some("SIGUSR1".into()),
            grace_ms: 7_000,
            cause: StopCause::Ending,
            message: Some("Stopping container c".into()),
        }]
    );
}

#[test]
fn a_missing_image_is_refused_with_the_way_to_import_it() {
    let mut w = World::new(simple());
    w.observed.images.clear();
    w.settle();
    assert_eq!(w.waiting_reason(0), "ErrImagePull");
    w.now += 60_000;
    w.settle();
    assert_eq!(w.waiting_reason(0), "ImagePullBackOff");
    let status = w.status().container_statuses.expect("statuses").remove(0);
    let message = status.state.and_then(|s| s.waiting).and_then(|w| w.message);
    assert!(
        message
            .expect("message")
            .contains("knarr-agent image import")
    );
    let present = ImageView::Present {
        id: "sha256:1".into(),
    };
    w.observed.images.insert("i:1".into(), present);
    w.settle();
    assert_eq!(
        w.phase(),
        "Running",
        "an image that arrived is used without a wait"
    );
    assert_eq!(w.waiting_reason(0), "");
}

#[test]
fn an_image_store_that_cannot_be_read_is_told_as_that_and_not_as_a_missing_image() {
    let mut w = World::new(simple());
    let present = w.observed.images.clone();
    let cause = "reading \"/var/lib/knarr/images/names.json\": Input/output error";
    for view in w.observed.images.values_mut() {
        *view = ImageView::Unreadable {
            cause: cause.into(),
        };
    }
    w.settle();
    assert_eq!(w.waiting_reason(0), "ImageInspectError");
    let status = w.status().container_statuses.expect("statuses").remove(0);
    let waiting = status.state.and_then(|s| s.waiting).expect("waiting");
    assert_eq!(
        waiting.message.expect("message"),
        format!("Failed to inspect image \"i:1\": this node's image store cannot be read: {cause}")
    );
    w.observed.images = present;
    w.settle();
    assert_eq!(
        w.phase(),
        "Running",
        "a healed store is used without a wait"
    );
}

#[test]
fn a_reference_that_the_store_does_not_understand_is_an_invalid_name() {
    let mut w = World::new(simple());
    for view in w.observed.images.values_mut() {
        *view = ImageView::Malformed {
            why: "a tag has at most 128 characters".into(),
        };
    }
    w.settle();
    assert_eq!(w.waiting_reason(0), "InvalidImageName");
}

#[test]
fn pull_policy_never_says_that_it_never_pulls() {
    let mut w = World::new(pod(json!({"containers": [
        {"name": "c", "image": "i:1", "imagePullPolicy": "Never"}]})));
    w.observed.images.clear();
    w.settle();
    assert_eq!(w.waiting_reason(0), "ErrImageNeverPull");
}

#[test]
fn an_unsupported_field_holds_the_container_and_is_named() {
    let mut w = World::new(pod(json!({"containers": [{"name": "c", "image": "i:1",
        "livenessProbe": {"exec": {"command": ["true"]}}}]})));
    w.settle();
    assert_eq!(w.waiting_reason(0), "CreateContainerConfigError");
    let message = &w.record.containers["c"]
        .refusal
        .as_ref()
        .expect("refusal")
        .message;
    assert!(
        message.starts_with("spec.containers[0].livenessProbe.exec:"),
        "{message}"
    );
    assert!(!w.log.iter().any(|l| l.starts_with("start")));
}

#[test]
fn a_program_that_cannot_be_executed_shows_its_error_and_then_backs_off() {
    let mut w = World::new(simple());
    w.settle();
    w.exit_attempt("c", 0, 128, ExitReason::StartError);
    assert_eq!(w.settle(), Some(NOW + 10_000));
    assert_eq!(w.waiting_reason(0), "RunContainerError");
    w.now += 10_000;
    w.settle();
    w.exit_attempt("c", 1, 128, ExitReason::StartError);
    assert_eq!(w.settle(), Some(w.now + 10_000));
    assert_eq!(w.waiting_reason(0), "CrashLoopBackOff");
}

#[test]
fn a_pod_that_outgrew_a_limit_of_the_disk_fails_as_a_whole() {
    let mut w = World::new(simple());
    w.settle();
    w.observed.outgrown = Some(PodFailure {
        reason: FailureReason::Evicted,
        message: "too much".to_owned(),
    });
    // It has a second, also where its own grace period is longer.
    assert_eq!(w.settle(), Some(NOW + 1_000));
    w.exit("c", 143);
    w.settle();
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert_eq!(status.message.as_deref(), Some("too much"));
}

#[test]
fn a_restarted_agent_changes_nothing() {
    let mut w = World::new(simple());
    w.settle();
    let stored = serde_json::to_string(&w.record).expect("json");
    w.record = serde_json::from_str(&stored).expect("record");
    assert_eq!(
        w.plan(),
        Plan {
            stage: Stage::Running,
            actions: vec![],
            wake_ms: None
        }
    );
    // Killed between the start and the note of it: the start is learned from the runtime.
    w.record = PodRecord::new(&w.pod, NOW);
    assert_eq!(w.plan().actions, []);
    assert_eq!(w.record.containers["c"].attempts, 1);
}

#[test]
fn a_terminal_phase_is_never_left() {
    let mut w = World::new(simple());
    w.pod.status = serde_json::from_value(json!({"phase": "Failed", "reason": "Evicted"})).ok();
    assert_eq!(w.plan().stage, Stage::Terminated);
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
}

#[test]
fn a_pod_past_its_deadline_fails() {
    let mut w = World::new(pod(json!({"activeDeadlineSeconds": 5,
        "containers": [{"name": "c", "image": "i:1"}]})));
    assert_eq!(w.settle(), Some(NOW + 5_000));
    w.now += 5_000;
    w.settle();
    w.exit("c", 0);
    w.settle();
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_failed_liveness_probe_stops_and_restarts_the_container() {
    let mut w = World::new(simple());
    w.settle();
    w.observed.probes.insert(
        "c".into(),
        ProbeView {
            failed: Some(crate::probe::ProbeFailure {
                probe: "liveness",
                grace_ms: Some(2_000),
            }),
            ..ProbeView::default()
        },
    );
    assert_eq!(w.settle(), Some(NOW + 2_000));
    w.now += 2_000;
    let kill = w.plan().actions;
    w.apply(&kill[0]);
    w.observed.probes.clear();
    w.settle();
    assert_eq!(
        w.log[2..],
        ["stop c 2000", "kill c", "start c 1", "remove c 0"]
    );
}

#[test]
fn restart_rules_of_a_container_override_the_pod() {
    let mut w = World::new(pod(json!({"restartPolicy": "Never", "containers": [{
        "name": "c", "image": "i:1", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart",
                                "exitCodes": {"operator": "In", "values": [42]}}]}]})));
    w.settle();
    w.exit("c", 42);
    w.settle();
    assert_eq!(w.log.last().map(String::as_str), Some("remove c 0"));
    w.exit("c", 1);
    w.settle();
    assert_eq!(w.phase(), "Failed");
}
