// SPDX-License-Identifier: Apache-2.0
//! The life of a pod on its node: where it stands and what to do next.
//!
//! Not here: status (`status`), what a container looks like (`container`), effects (the agent's
//! `apply.rs`, which carries out [`PodAction`]s in order). The rules are kubelet's `computePodActions`
//! and `SyncTerminatingPod`, Kubernetes v1.37.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::backoff::BackOff;
use crate::observed::{Network, Observed, SandboxHealth, SandboxView};
use crate::reason::{FailureReason, PodFailure, WaitingReason};
use crate::record::{ContainerRecord, Exit, PodRecord, StopCause};
use crate::spec::{Role, containers, host_network};
use crate::{Millis, ms_of_seconds};

mod ending;
mod images;
mod running;

pub use images::pulled_message;

/// The time between SIGTERM and SIGKILL where a pod does not say, in seconds (core/v1).
pub const GRACE_SECONDS_DEFAULT: i64 = 30;
/// The grace of a pod whose API object is gone already (`kubectl delete --force`), in milliseconds.
pub const GRACE_FORCED_MS: Millis = 1_000;

/// Whether the control plane still wants the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It does, unless the pod carries a deletionTimestamp.
    Yes,
    /// The API object is gone.
    Removed,
}

/// Where a pod stands.
///
/// ```text
///             network known        sandbox up         init 0..n done
///   Pending ----------------> Sandbox --------> Init(0..n) --------> Running
///      |                      ^  |                |  |                 |  |
///      |                      |  +- sandbox died -+--|-----------------+  |
///      |  deleted, deadline,  |                      |                    |
///      |  finished for good   +----------------------+                    |
///      +--------------------------> Terminating <-------------------------+
///                                        | nothing runs, no sandbox
///                                        v
///                                   Terminated -- Released (PodGone, when deleted)
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing exists and nothing can: the node has no pod network yet.
    Pending,
    /// The sandbox has to be made.
    Sandbox,
    /// The nth init container runs or has to.
    Init(usize),
    /// The containers run or have to.
    Running,
    /// Something exists that has to end.
    Terminating,
    /// Nothing exists any more.
    Terminated,
}

/// One thing to do for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodAction {
    /// Make directories, volumes, address, namespaces and the pause process.
    CreateSandbox {
        /// Counted from 0.
        attempt: u32,
    },
    /// Give a sandbox that was taken over its network, or find that it has it.
    WireSandbox,
    /// Create and start a container in the sandbox.
    StartContainer {
        /// Container name.
        name: String,
        /// Counted from 0; the restart count.
        attempt: u32,
    },
    /// Note why a container cannot be started, and tell.
    Refuse {
        /// Container name.
        name: String,
        /// Waiting reason.
        reason: WaitingReason,
        /// Waiting message.
        message: String,
    },
    /// Note that a container is being stopped, whose preStop hook comes before the signal.
    PreStop {
        /// Container name.
        name: String,
        /// In milliseconds, the sleep included.
        grace_ms: Millis,
        /// `lifecycle.preStop.sleep`, in milliseconds.
        sleep_ms: Millis,
        /// Why.
        cause: StopCause,
        /// For the event.
        message: String,
    },
    /// Send the stop signal and note the grace period.
    Stop {
        /// Container name.
        name: String,
        /// The running attempt.
        attempt: u32,
        /// Name of the signal as the pod asks for it; absent: the image's, or SIGTERM.
        signal: Option<String>,
        /// In milliseconds.
        grace_ms: Millis,
        /// Why.
        cause: StopCause,
        /// For the event, e.g. `Stopping container web`; absent where the event came before the preStop hook.
        message: Option<String>,
    },
    /// SIGKILL everything in the container's cgroup.
    Kill {
        /// Container name.
        name: String,
        /// The running attempt.
        attempt: u32,
    },
    /// Forget an ended attempt in the runtime.
    RemoveContainer {
        /// Container name.
        name: String,
        /// The ended attempt.
        attempt: u32,
    },
    /// Note that the pod is being ended.
    BeginTermination {
        /// Set when the pod failed as a whole.
        failure: Option<PodFailure>,
    },
    /// Kill what is left and remove the namespaces and the address.
    DestroySandbox,
    /// Remove volumes, logs and the record; tell the control plane that the pod is gone.
    Release,
}

/// What to do, and when to look again if nothing happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where the pod stands before the actions.
    pub stage: Stage,
    /// In order. A failure of one ends the round; the next round plans again.
    pub actions: Vec<PodAction>,
    /// Nothing to wait for when absent.
    pub wake_ms: Option<Millis>,
}

/// A pod's restart policy; a container may have its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every exit code.
    Always,
    /// Exit codes other than 0.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    fn parse(policy: Option<&str>) -> RestartPolicy {
        match policy {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    /// The policy of the pod as a whole.
    pub fn of_pod(spec: &PodSpec) -> RestartPolicy {
        RestartPolicy::parse(spec.restart_policy.as_deref())
    }

    /// The policy of one container: its own, otherwise the pod's; an init container of a pod that always
    /// restarts is restarted on failure only.
    pub fn of(spec: &PodSpec, container: &Container, role: Role) -> RestartPolicy {
        let pod = RestartPolicy::of_pod(spec);
        match (container.restart_policy.as_deref(), role) {
            (Some(own), _) => RestartPolicy::parse(Some(own)),
            (None, Role::Init) if pod == RestartPolicy::Always => RestartPolicy::OnFailure,
            (None, _) => pod,
        }
    }
}

/// Whether an ended attempt, the last of this record, is followed by another.
pub fn restarts(
    spec: &PodSpec,
    container: &Container,
    role: Role,
    record: &ContainerRecord,
    exit: &Exit,
) -> Restart {
    if record.replaced {
        return Restart::Again;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else {
            continue;
        };
        let listed = codes.values.iter().flatten().any(|v| *v == exit.exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        if matches && rule.action == "Restart" {
            return Restart::Again;
        }
    }
    match RestartPolicy::of(spec, container, role) {
        RestartPolicy::Always => Restart::Again,
        RestartPolicy::OnFailure if exit.exit_code != 0 => Restart::Again,
        RestartPolicy::OnFailure | RestartPolicy::Never => Restart::Done,
    }
}

/// Whether an ended container runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// After its back-off.
    Again,
    /// Never.
    Done,
}

/// The grace period that holds now, in milliseconds.
pub fn grace_ms(pod: &Pod, wanted: Wanted) -> Millis {
    let deletion = pod.metadata.deletion_grace_period_seconds;
    let spec = pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds);
    match (wanted, deletion, spec) {
        (_, Some(s), _) => ms_of_seconds(s.max(0)),
        (Wanted::Removed, None, _) => GRACE_FORCED_MS,
        (Wanted::Yes, None, s) => ms_of_seconds(s.unwrap_or(GRACE_SECONDS_DEFAULT).max(0)),
    }
}

/// Whether the pod has to end because it was deleted.
pub fn is_deleted(pod: &Pod, wanted: Wanted) -> bool {
    wanted == Wanted::Removed || pod.metadata.deletion_timestamp.is_some()
}

/// The pod ended in an earlier life of this node, or was ended by the control plane: it never runs again.
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Where every container that is not an init container ended for good, or an init container failed for
/// good: the pod's result. Sidecars do not count.
pub fn result(spec: &PodSpec, record: &PodRecord) -> Option<PodResult> {
    for (container, role) in containers(spec).filter(|(_, role)| *role == Role::Init) {
        let record = record.containers.get(&container.name);
        if let Some(record) = record
            && let Some(exit) = &record.exit
            && exit.exit_code != 0
            && restarts(spec, container, role, record, exit) == Restart::Done
        {
            return Some(PodResult::Failed);
        }
    }
    let mut failed = false;
    for (container, role) in containers(spec).filter(|(_, role)| *role == Role::Main) {
        let record = record.containers.get(&container.name)?;
        let exit = record.exit.as_ref()?;
        if restarts(spec, container, role, record, exit) == Restart::Again {
            return None;
        }
        failed |= exit.exit_code != 0;
    }
    Some(if failed {
        PodResult::Failed
    } else {
        PodResult::Succeeded
    })
}

/// How a pod ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodResult {
    /// Every container ended with 0.
    Succeeded,
    /// At least one did not.
    Failed,
}

/// The number of the init container that the pod has arrived at, counted in `spec.initContainers`; none
/// when all are done. Containers that have been started in this sandbox prove that init was done.
pub fn init_position(spec: &PodSpec, record: &PodRecord, observed: &Observed) -> Option<usize> {
    let sandbox = observed.sandbox.as_ref().map(|s| s.attempt);
    let in_this_sandbox =
        |r: &&ContainerRecord| r.attempts > 0 && sandbox.is_none_or(|s| s == r.sandbox);
    let main_started = spec
        .containers
        .iter()
        .filter_map(|c| record.containers.get(&c.name))
        .any(|r| in_this_sandbox(&r));
    if main_started {
        return None;
    }
    let init = containers(spec).filter(|(_, role)| *role != Role::Main);
    for (n, (container, role)) in init.enumerate() {
        let record = record
            .containers
            .get(&container.name)
            .filter(in_this_sandbox);
        let done = match (role, record) {
            (_, None) => false,
            (Role::Sidecar, Some(r)) => {
                r.is_live() && r.started_ms.is_some() && is_started(observed, &container.name)
            }
            (_, Some(r)) => r.exit.as_ref().is_some_and(|e| e.exit_code == 0),
        };
        if !done {
            return Some(n);
        }
    }
    None
}

/// The startup probe has passed, or there is none.
pub fn is_started(observed: &Observed, name: &str) -> bool {
    observed
        .probes
        .get(name)
        .is_none_or(|p| p.started != Some(false))
}

/// Where the pod stands.
pub fn stage(pod: &Pod, wanted: Wanted, record: &PodRecord, observed: &Observed) -> Stage {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let ends = is_deleted(pod, wanted)
        || record.termination.is_some()
        || is_terminal(pod)
        || result(spec, record).is_some();
    let live = record.containers.values().any(ContainerRecord::is_live);
    let usable = observed.sandbox.as_ref().is_some_and(SandboxView::runs);
    match (ends, observed.sandbox.is_some() || live, usable) {
        (true, true, _) => Stage::Terminating,
        (true, false, _) => Stage::Terminated,
        (false, _, false) if observed.network == Network::Known || host_network(spec) => {
            Stage::Sandbox
        }
        (false, _, false) => Stage::Pending,
        (false, _, true) => match init_position(spec, record, observed) {
            Some(n) => Stage::Init(n),
            None => Stage::Running,
        },
    }
}

/// Decides the next steps of a pod. `record` has taken in `observed` before.
pub fn plan(
    pod: &Pod,
    wanted: Wanted,
    record: &PodRecord,
    observed: &Observed,
    now_ms: Millis,
) -> Plan {
    let empty = PodSpec::default();
    let mut planner = Planner {
        pod,
        spec: pod.spec.as_ref().unwrap_or(&empty),
        wanted,
        record,
        observed,
        now_ms,
        actions: Vec::new(),
        wake_ms: None,
    };
    let stage = stage(pod, wanted, record, observed);
    match stage {
        Stage::Pending => {}
        Stage::Sandbox => planner.make_sandbox(),
        Stage::Init(_) | Stage::Running if planner.is_unwired() => {
            planner.actions.push(PodAction::WireSandbox);
        }
        Stage::Init(n) => planner.run_init(n),
        Stage::Running => planner.run_main(),
        Stage::Terminating => planner.end(),
        Stage::Terminated => {
            if is_deleted(pod, wanted) {
                planner.actions.push(PodAction::Release);
            }
        }
    }
    if !matches!(stage, Stage::Terminating | Stage::Terminated) {
        planner.watch_deadline();
        planner.watch_disk();
    }
    Plan {
        stage,
        actions: planner.actions,
        wake_ms: planner.wake_ms,
    }
}

/// One run of [`plan`].
struct Planner<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    wanted: Wanted,
    record: &'a PodRecord,
    observed: &'a Observed,
    now_ms: Millis,
    actions: Vec<PodAction>,
    wake_ms: Option<Millis>,
}

impl Planner<'_> {
    fn wake_at(&mut self, at_ms: Millis) {
        self.wake_ms = Some(self.wake_ms.map_or(at_ms, |w| w.min(at_ms)));
    }

    fn is_unwired(&self) -> bool {
        let sandbox = self.observed.sandbox.as_ref();
        sandbox.is_some_and(|s| s.health == SandboxHealth::Unwired)
    }

    /// A pod that outgrows a limit of the disk is evicted.
    fn watch_disk(&mut self) {
        if let Some(failure) = &self.observed.outgrown {
            self.wake_ms = Some(self.now_ms);
            self.actions = vec![PodAction::BeginTermination {
                failure: Some(failure.clone()),
            }];
        }
    }

    /// `spec.activeDeadlineSeconds` counts from `status.startTime`.
    fn watch_deadline(&mut self) {
        let Some(seconds) = self.spec.active_deadline_seconds else {
            return;
        };
        let since_ms = self.record.accepted_ms.unwrap_or(self.now_ms);
        let due = since_ms.saturating_add(ms_of_seconds(seconds));
        if due > self.now_ms {
            self.wake_at(due);
            return;
        }
        self.wake_ms = Some(self.now_ms);
        self.actions = vec![PodAction::BeginTermination {
            failure: Some(PodFailure {
                reason: FailureReason::DeadlineExceeded,
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            }),
        }];
    }

    fn make_sandbox(&mut self) {
        if self.observed.sandbox.is_some() {
            self.actions.push(PodAction::DestroySandbox);
        }
        if let Some(refusal) = &self.record.sandbox_refusal
            && refusal.retry_ms > self.now_ms
        {
            self.wake_at(refusal.retry_ms);
            return;
        }
        self.actions.push(PodAction::CreateSandbox {
            attempt: self.record.sandboxes,
        });
    }
}

/// When an ended container may start again. A start that failed before anything ran waits from the first
/// time on, so that its reason can be read.
pub fn restart_due(record: &ContainerRecord, exit: &Exit) -> Millis {
    match record.back_off {
        _ if record.replaced => exit.finished_ms,
        None if exit.never_ran() => exit.finished_ms + crate::backoff::BACK_OFF_FIRST_MS,
        back_off => BackOff::due(back_off, exit.finished_ms),
    }
}

/// The stop signal that the pod asks for.
pub(crate) fn stop_signal(container: &Container) -> Option<String> {
    container.lifecycle.as_ref()?.stop_signal.clone()
}

#[cfg(test)]
mod tests;
