// SPDX-License-Identifier: Apache-2.0
//! The status of a pod: phase, conditions, container statuses. Computed whole from what is remembered and
//! observed; the sender compares it with what was sent before.
//!
//! Not here: decisions (`pod`). Rules: kubelet v1.37 `getPhase`, `GeneratePodReadyCondition`,
//! `convertToAPIContainerStatuses`.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use knarr_pod::ExitReason;

use crate::Millis;
use crate::backoff::{BACK_OFF_FIRST_MS, BACK_OFF_MAX_MS, BACK_OFF_RESET_MS, go_duration};
use crate::observed::{Observed, SandboxView};
use crate::pod::{
    PodResult, Restart, Stage, Wanted, init_position, is_deleted, is_started, is_terminal,
    restart_due, restarts, result, stage,
};
use crate::reason::{ConditionReason, WaitingReason};
use crate::record::{ConditionRecord, ContainerRecord, Exit, PodRecord};
use crate::resources::qos;
use crate::spec::{Role, containers, host_network};

/// The scheme of container ids.
pub const ID_SCHEME: &str = "knarr://";

/// All termination messages of a pod together, in bytes (kubelet's `MaxPodTerminationMessageLogLength`).
const MESSAGES_BYTES_MAX: usize = 12 << 10;

/// A Kubernetes time from milliseconds; the beginning of 1970 where there is no such time.
pub fn time(ms: Millis) -> Time {
    Time(Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The pod's status now. `record.conditions` keeps when each condition changed.
pub fn status(
    pod: &Pod,
    wanted: Wanted,
    record: &mut PodRecord,
    observed: &Observed,
    host_ips: &[String],
    now_ms: Millis,
) -> PodStatus {
    let empty = PodSpec::default();
    let view = View {
        pod,
        spec: pod.spec.as_ref().unwrap_or(&empty),
        stage: stage(pod, wanted, record, observed),
        deleted: is_deleted(pod, wanted),
        record,
        observed,
        now_ms,
    };
    let of_role = |want: fn(Role) -> bool| -> Vec<ContainerStatus> {
        let all = containers(view.spec).filter(|(_, role)| want(*role));
        all.map(|(c, role)| view.container_status(c, role))
            .collect()
    };
    let init = of_role(|role| role != Role::Main);
    let main = of_role(|role| role == Role::Main);
    let phase = view.phase();
    let conditions = view.conditions(phase, &init, &main);
    let sandbox_ips = observed.sandbox.as_ref().map(|s| s.ips.clone());
    let pod_ips = match sandbox_ips {
        Some(ips) if !host_network(view.spec) => ips,
        Some(_) => host_ips.to_vec(),
        // A finished pod keeps showing the address it had.
        None if matches!(phase, "Succeeded" | "Failed") => record.ips.clone(),
        None => Vec::new(),
    };
    let before = pod.status.as_ref();
    let failure = record.termination.as_ref().and_then(|t| t.failure.clone());
    let (reason, message) = match (&failure, before) {
        (Some(f), _) => (Some(f.reason.to_string()), Some(f.message.clone())),
        (None, Some(s)) if is_terminal(pod) => (s.reason.clone(), s.message.clone()),
        _ => (None, None),
    };
    let conditions = keep_transitions(pod, record, conditions, now_ms);
    // A pod that the node did not take on has no containers to tell of, and nothing waits.
    let untouched = record.sandboxes == 0 && record.containers.values().all(|r| r.attempts == 0);
    let (main, init) = if failure.is_some() && untouched {
        (Vec::new(), Vec::new())
    } else {
        (main, init)
    };
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        container_statuses: Some(main).filter(|s| !s.is_empty()),
        init_container_statuses: Some(init).filter(|s| !s.is_empty()),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(
            host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: Some(
            pod_ips
                .into_iter()
                .map(|ip| PodIP { ip })
                .collect::<Vec<_>>(),
        )
        .filter(|ips| !ips.is_empty()),
        qos_class: Some(
            qos(pod.spec.as_ref().unwrap_or(&PodSpec::default()))
                .as_str()
                .to_owned(),
        ),
        start_time: record.accepted_ms.map(time),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// The containers whose status says that they wait for their next start, with their number of attempts so far.
pub fn backing_off(status: &PodStatus, record: &PodRecord) -> Vec<(String, u32)> {
    let main = status.container_statuses.iter().flatten();
    let all = main.chain(status.init_container_statuses.iter().flatten());
    let waiting = |s: &&ContainerStatus| {
        let waiting = s.state.as_ref().and_then(|s| s.waiting.as_ref());
        let reason = waiting.and_then(|w| w.reason.as_deref());
        reason == Some(WaitingReason::CrashLoopBackOff.as_str())
    };
    all.filter(waiting)
        .filter_map(|s| {
            let attempts = record.containers.get(&s.name)?.attempts;
            Some((s.name.clone(), attempts))
        })
        .collect()
}

/// One run of [`status`].
struct View<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    stage: Stage,
    deleted: bool,
    record: &'a PodRecord,
    observed: &'a Observed,
    now_ms: Millis,
}

impl View<'_> {
    fn live(&self) -> bool {
        self.record
            .containers
            .values()
            .any(ContainerRecord::is_live)
    }

    fn phase(&self) -> &'static str {
        if is_terminal(self.pod) {
            let status = self.pod.status.as_ref();
            return match status.and_then(|s| s.phase.as_deref()) {
                Some("Succeeded") => "Succeeded",
                _ => "Failed",
            };
        }
        let main = || {
            let main = containers(self.spec).filter(|(_, role)| *role == Role::Main);
            main.map(|(c, _)| self.record.containers.get(&c.name))
        };
        if !self.live() {
            if let Some(termination) = &self.record.termination
                && (termination.failure.is_some() || self.stage == Stage::Terminated)
            {
                let all_done = main().all(|r| {
                    r.and_then(|r| r.exit.as_ref())
                        .is_some_and(|e| e.exit_code == 0)
                });
                return if all_done && termination.failure.is_none() {
                    "Succeeded"
                } else {
                    "Failed"
                };
            }
            match result(self.spec, self.record) {
                Some(PodResult::Succeeded) => return "Succeeded",
                Some(PodResult::Failed) => return "Failed",
                None => {}
            }
        }
        let never_ran = |r: Option<&ContainerRecord>| {
            r.is_none_or(|r| {
                r.attempts == 0 || (r.started_ms.is_none() && r.exit.is_none() && r.last.is_none())
            })
        };
        if main().any(never_ran) {
            "Pending"
        } else {
            "Running"
        }
    }

    fn container_status(&self, container: &Container, role: Role) -> ContainerStatus {
        let fresh = ContainerRecord::default();
        let record = self
            .record
            .containers
            .get(&container.name)
            .unwrap_or(&fresh);
        let (state, last) = self.state(container, role, record);
        let running = record.is_live() && record.started_ms.is_some();
        let probes = self.observed.probes.get(&container.name);
        let started = running && is_started(self.observed, &container.name);
        let ready = match role {
            Role::Init => record.exit.as_ref().is_some_and(|e| e.exit_code == 0),
            Role::Sidecar | Role::Main => started && probes.and_then(|p| p.ready).unwrap_or(true),
        };
        ContainerStatus {
            name: container.name.clone(),
            // What runs or ran; what is asked for only until something did.
            image: if record.image.is_empty() {
                container.image.clone().unwrap_or_default()
            } else {
                record.image.clone()
            },
            image_id: record.image_id.clone(),
            container_id: (!record.id.is_empty()).then(|| format!("{ID_SCHEME}{}", record.id)),
            restart_count: i32::try_from(record.attempts.saturating_sub(1)).unwrap_or(i32::MAX),
            ready,
            started: Some(started),
            state: Some(state),
            last_state: Some(last),
            resources: container.resources.clone(),
            ..ContainerStatus::default()
        }
    }

    /// The state and the last state.
    fn state(
        &self,
        container: &Container,
        role: Role,
        record: &ContainerRecord,
    ) -> (ContainerState, ContainerState) {
        let none = ContainerState::default();
        let last = record
            .last
            .as_ref()
            .map_or(none.clone(), |exit| self.terminated(exit));
        let over = matches!(self.stage, Stage::Terminating | Stage::Terminated);
        if record.is_live() {
            let state = match record.started_ms {
                Some(ms) => ContainerState {
                    running: Some(ContainerStateRunning {
                        started_at: Some(time(ms)),
                    }),
                    ..none
                },
                None => self.waiting_default(),
            };
            return (state, last);
        }
        if let Some(exit) = &record.exit {
            if over {
                return (self.terminated(exit), last);
            }
            if let Some(refusal) = &record.refusal {
                return (
                    waiting(refusal.reason, &refusal.message),
                    self.terminated(exit),
                );
            }
            let again = restarts(self.spec, container, role, record, exit) == Restart::Again;
            if again && restart_due(record, exit) > self.now_ms {
                return (
                    self.backing_off(container, record, exit),
                    self.terminated(exit),
                );
            }
            return (self.terminated(exit), last);
        }
        if self.stage == Stage::Terminated && self.deleted {
            let state = ContainerStateTerminated {
                exit_code: 137,
                reason: Some(ExitReason::ContainerStatusUnknown.as_str().to_owned()),
                message: Some(
                    "The container could not be located when the pod was terminated".to_owned(),
                ),
                ..ContainerStateTerminated::default()
            };
            let state = ContainerState {
                terminated: Some(state),
                ..none
            };
            return (state, last);
        }
        match &record.refusal {
            Some(refusal) => (waiting(refusal.reason, &refusal.message), last),
            None => (self.waiting_default(), last),
        }
    }

    /// Each container of a pod has the same share of the room for messages.
    fn terminated(&self, exit: &Exit) -> ContainerState {
        let containers = containers(self.spec).count().max(1);
        terminated(exit, MESSAGES_BYTES_MAX / containers)
    }

    fn backing_off(
        &self,
        container: &Container,
        record: &ContainerRecord,
        exit: &Exit,
    ) -> ContainerState {
        let delay_ms = match record.back_off {
            Some(b) if exit.finished_ms - b.updated_ms <= BACK_OFF_RESET_MS => b.delay_ms,
            _ => BACK_OFF_FIRST_MS,
        };
        if record.back_off.is_none() && exit.never_ran() {
            let message = exit
                .message
                .as_deref()
                .unwrap_or("the program could not be started");
            return waiting(WaitingReason::RunContainerError, message);
        }
        let meta = &self.pod.metadata;
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            go_duration(delay_ms.min(BACK_OFF_MAX_MS)),
            container.name,
            text(&meta.name),
            text(&meta.namespace),
            text(&meta.uid),
        );
        waiting(WaitingReason::CrashLoopBackOff, &message)
    }

    fn waiting_default(&self) -> ContainerState {
        let has_init = self
            .spec
            .init_containers
            .as_ref()
            .is_some_and(|c| !c.is_empty());
        let pending_init =
            has_init && init_position(self.spec, self.record, self.observed).is_some();
        let reason = if pending_init {
            WaitingReason::PodInitializing
        } else {
            WaitingReason::ContainerCreating
        };
        match &self.record.sandbox_refusal {
            Some(refusal) => waiting(reason, &refusal.message),
            None => ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(reason.as_str().to_owned()),
                    message: None,
                }),
                ..ContainerState::default()
            },
        }
    }

    fn conditions(
        &self,
        phase: &str,
        init: &[ContainerStatus],
        main: &[ContainerStatus],
    ) -> Vec<PodCondition> {
        let generation = self.pod.metadata.generation;
        let condition = |type_: &str, failure: Option<NotMet>| PodCondition {
            type_: type_.to_owned(),
            status: if failure.is_none() { "True" } else { "False" }.to_owned(),
            reason: failure
                .as_ref()
                .and_then(|f| f.reason)
                .map(|reason| reason.as_str().to_owned()),
            message: failure.map(|f| f.message).filter(|m| !m.is_empty()),
            observed_generation: generation,
            ..PodCondition::default()
        };
        let over = match phase {
            "Succeeded" => Some(ConditionReason::PodCompleted),
            "Failed" => Some(ConditionReason::PodFailed),
            _ => None,
        };
        let usable = self
            .observed
            .sandbox
            .as_ref()
            .is_some_and(SandboxView::runs);
        let unready = |list: &[ContainerStatus]| -> Vec<String> {
            let unready = list.iter().filter(|s| !s.ready);
            unready.map(|s| s.name.clone()).collect()
        };
        let sidecars: Vec<ContainerStatus> = containers(self.spec)
            .filter(|(_, role)| *role == Role::Sidecar)
            .filter_map(|(c, _)| init.iter().find(|s| s.name == c.name).cloned())
            .collect();
        let initialized = match (phase, init_position(self.spec, self.record, self.observed)) {
            ("Succeeded", _) | (_, None) => None,
            (_, Some(_)) => {
                let names = init.iter().filter(|s| !s.ready).map(|s| s.name.clone());
                let names: Vec<_> = names.collect();
                if names.is_empty() {
                    None
                } else {
                    Some(NotMet::because(
                        ConditionReason::ContainersNotInitialized,
                        format!("containers with incomplete status: [{}]", names.join(" ")),
                    ))
                }
            }
        };
        let over = over.map(|reason| NotMet::because(reason, String::new()));
        let containers_ready = over.or_else(|| {
            let mut names = unready(&sidecars);
            names.extend(unready(main));
            (!names.is_empty()).then(|| {
                let text = format!("containers with unready status: [{}]", names.join(" "));
                NotMet::because(ConditionReason::ContainersNotReady, text)
            })
        });
        let ready = containers_ready.clone().or_else(|| self.unready_gates());
        vec![
            condition("PodReadyToStartContainers", (!usable).then(NotMet::default)),
            condition("Initialized", initialized),
            condition("Ready", ready),
            condition("ContainersReady", containers_ready),
            condition("PodScheduled", None),
        ]
    }

    fn unready_gates(&self) -> Option<NotMet> {
        let conditions = self.pod.status.iter();
        let conditions: Vec<&PodCondition> = conditions
            .flat_map(|s| s.conditions.iter().flatten())
            .collect();
        let gates = self.spec.readiness_gates.iter().flatten();
        let unready: Vec<String> = gates
            .filter_map(|gate| {
                let name = &gate.condition_type;
                match conditions.iter().find(|c| c.type_ == *name) {
                    Some(c) if c.status == "True" => None,
                    Some(c) => Some(format!(
                        "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                        c.status
                    )),
                    None => Some(format!(
                        "corresponding condition of pod readiness gate \"{name}\" does not exist."
                    )),
                }
            })
            .collect();
        (!unready.is_empty())
            .then(|| NotMet::because(ConditionReason::ReadinessGatesNotReady, unready.join(", ")))
    }
}

/// Why a condition does not hold.
#[derive(Clone, Debug, Default)]
struct NotMet {
    reason: Option<ConditionReason>,
    /// May be empty.
    message: String,
}

impl NotMet {
    fn because(reason: ConditionReason, message: String) -> NotMet {
        NotMet {
            reason: Some(reason),
            message,
        }
    }
}

fn waiting(reason: WaitingReason, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.as_str().to_owned()),
            message: Some(message.to_owned()),
        }),
        ..ContainerState::default()
    }
}

fn terminated(exit: &Exit, message_bytes_max: usize) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: (!exit.id.is_empty()).then(|| format!("{ID_SCHEME}{}", exit.id)),
            exit_code: exit.exit_code,
            signal: None,
            reason: Some(exit.reason.as_str().to_owned()),
            message: exit
                .message
                .as_deref()
                .map(|text| cut(text, message_bytes_max)),
            started_at: Some(time(exit.started_ms.unwrap_or(0))),
            finished_at: Some(time(exit.finished_ms)),
        }),
        ..ContainerState::default()
    }
}

/// The beginning of a text, as whole characters.
fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

/// Gives each condition the time of its last change and appends the conditions of others, which this node
/// only passes on.
fn keep_transitions(
    pod: &Pod,
    record: &mut PodRecord,
    mut conditions: Vec<PodCondition>,
    now_ms: Millis,
) -> Vec<PodCondition> {
    let theirs: Vec<PodCondition> = pod
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .cloned()
        .collect();
    for condition in &mut conditions {
        let holds = condition.status == "True";
        let known = record.conditions.get(&condition.type_).copied();
        let since_ms = match known {
            Some(c) if c.holds == holds => c.since_ms,
            Some(_) => now_ms,
            None => theirs
                .iter()
                .find(|c| c.type_ == condition.type_ && c.status == condition.status)
                .and_then(|c| c.last_transition_time.as_ref())
                .map_or(now_ms, |t| t.0.as_millisecond()),
        };
        record
            .conditions
            .insert(condition.type_.clone(), ConditionRecord { holds, since_ms });
        condition.last_transition_time = Some(time(since_ms));
    }
    for their in theirs {
        if !conditions.iter().any(|c| c.type_ == their.type_) {
            conditions.push(their);
        }
    }
    conditions
}
