// SPDX-License-Identifier: Apache-2.0
//! What a node has to remember of a pod beyond what can be observed: attempts, ends, back-off, why a
//! start was refused, and since when it is being stopped. Kept in a file per pod, so that an agent that
//! is killed at any moment loses no exit code and no restart count.
//!
//! Not here: decisions (`pod`) and the file itself (the agent's `records`). Transitions only.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use knarr_pod::{ContainerPhase, ContainerState, ExitReason};
use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::backoff::BackOff;
use crate::observed::Observed;
use crate::reason::{PodFailure, SandboxReason, WaitingReason};

/// The exit code of an attempt that vanished with its sandbox or at a reboot, as CRI runtimes report it.
pub const LOST_EXIT_CODE: i32 = 255;

/// How one attempt of a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// `knarr://ID`, without the scheme.
    pub id: String,
    /// 0 to 255; 128 + n for signal n.
    pub exit_code: i32,
    /// The signal that ended it, where one did.
    pub signal: Option<i32>,
    /// Why.
    pub reason: ExitReason,
    /// The termination message or the error of a failed start.
    pub message: Option<String>,
    /// Absent when it never ran.
    pub started_ms: Option<Millis>,
    /// When it ended.
    pub finished_ms: Millis,
}

impl Exit {
    /// The process was never there: its program could not be started.
    pub fn never_ran(&self) -> bool {
        self.reason.never_ran()
    }

    /// The end of an attempt as the runtime reports it; none while it has not ended.
    pub fn of(state: &ContainerState) -> Option<Exit> {
        let ContainerPhase::Exited {
            exit_code,
            signal,
            reason,
            message,
            started_at,
            finished_at,
        } = &state.phase
        else {
            return None;
        };
        Some(Exit {
            id: state.id.clone(),
            exit_code: *exit_code,
            signal: *signal,
            reason: *reason,
            message: Some(message.clone()).filter(|m| !m.is_empty()),
            started_ms: Some(started_at.millis()),
            finished_ms: finished_at.millis(),
        })
    }
}

/// Why a container or a sandbox could not be given to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal<R> {
    /// Kubernetes' word for it.
    pub reason: R,
    /// A sentence for people.
    pub message: String,
    /// Refusals in a row.
    pub times: u32,
    /// When it is worth looking again.
    pub retry_ms: Millis,
}

/// A stop that has been asked of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// When it was asked for.
    pub since_ms: Millis,
    /// How long it may take, in milliseconds.
    pub grace_ms: Millis,
    /// Until when `lifecycle.preStop.sleep` holds the signal back; none once it is sent.
    #[serde(default)]
    pub pre_stop_until_ms: Option<Millis>,
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// Its pod ends.
    Ending,
    /// A probe failed: the restart policy says what follows.
    Unhealthy,
    /// The pod asks for another container now: that one follows under every restart policy.
    Changed,
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerRecord {
    /// Starts that the runtime has made, also those whose program could not be executed.
    pub attempts: u32,
    /// The sandbox attempt that the last start belongs to.
    pub sandbox: u32,
    /// Runtime id of the last attempt.
    pub id: String,
    /// Image reference that the last attempt was started from; empty until the runtime has said it.
    pub image: String,
    /// Image id of the last attempt.
    pub image_id: String,
    /// When the last attempt began to run.
    pub started_ms: Option<Millis>,
    /// How the last attempt ended; none while it runs.
    pub exit: Option<Exit>,
    /// How the attempt before it ended.
    pub last: Option<Exit>,
    /// The restart delay.
    pub back_off: Option<BackOff>,
    /// Why there is no attempt now.
    pub refusal: Option<Refusal<WaitingReason>>,
    /// The last attempt is being stopped.
    pub stop: Option<Stop>,
    /// The last attempt was stopped because the pod asks for another container now.
    pub replaced: bool,
    /// The last attempt has passed its startup probe.
    pub passed_startup: bool,
    /// The last attempt's readiness probe holds.
    pub ready: bool,
}

impl ContainerRecord {
    /// The number of the last attempt, counted from 0.
    pub fn attempt(&self) -> Option<u32> {
        self.attempts.checked_sub(1)
    }

    /// The last attempt is, as far as is known, running.
    pub fn is_live(&self) -> bool {
        self.attempts > 0 && self.exit.is_none()
    }
}

/// A condition's value and since when it has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRecord {
    /// True or False.
    pub holds: bool,
    /// Last transition.
    pub since_ms: Millis,
}

/// When and why the node began to end a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// When the node began.
    pub since_ms: Millis,
    /// Set when the pod failed as a whole, e.g. `DeadlineExceeded`.
    pub failure: Option<PodFailure>,
}

/// What is remembered of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRecord {
    /// `status.startTime`: when the node took the pod on.
    pub accepted_ms: Option<Millis>,
    /// Sandboxes made so far.
    pub sandboxes: u32,
    /// Why the last sandbox could not be made.
    pub sandbox_refusal: Option<Refusal<SandboxReason>>,
    /// By container name, init containers included.
    pub containers: BTreeMap<String, ContainerRecord>,
    /// By condition type.
    pub conditions: BTreeMap<String, ConditionRecord>,
    /// The pod is being ended.
    pub termination: Option<Termination>,
    /// The addresses of the last sandbox, which a finished pod still shows.
    pub ips: Vec<String>,
}

/// Sandbox and start refusals are looked at again after this long, doubled up to the maximum: nothing
/// but time or the user changes their outcome, and a look costs a few file reads.
pub const REFUSAL_RETRY_MS: Millis = 2_000;
/// The longest time until the next look.
pub const REFUSAL_RETRY_MAX_MS: Millis = 10_000;

impl PodRecord {
    /// A record for a pod that this node has not seen. Restart counts of an earlier life (the file may be
    /// lost, the API object is not) continue from the status that came with the pod.
    pub fn new(pod: &Pod, now_ms: Millis) -> PodRecord {
        let mut record = PodRecord {
            accepted_ms: Some(now_ms),
            ..PodRecord::default()
        };
        let Some(status) = &pod.status else {
            return record;
        };
        if let Some(start) = &status.start_time {
            record.accepted_ms = Some(start.0.as_millisecond());
        }
        let statuses = status.init_container_statuses.iter().flatten();
        for s in statuses.chain(status.container_statuses.iter().flatten()) {
            if s.container_id.as_deref().unwrap_or("").is_empty() {
                continue;
            }
            let terminated = s.state.as_ref().and_then(|s| s.terminated.as_ref());
            record.containers.insert(
                s.name.clone(),
                ContainerRecord {
                    attempts: u32::try_from(s.restart_count).unwrap_or(0) + 1,
                    image_id: s.image_id.clone(),
                    exit: terminated.map(|t| Exit {
                        id: strip_scheme(t.container_id.as_deref().unwrap_or("")),
                        exit_code: t.exit_code,
                        signal: t.signal,
                        reason: t
                            .reason
                            .as_deref()
                            .and_then(ExitReason::parse)
                            .unwrap_or(ExitReason::Unknown),
                        message: t.message.clone(),
                        started_ms: t.started_at.as_ref().map(|t| t.0.as_millisecond()),
                        finished_ms: t
                            .finished_at
                            .as_ref()
                            .map_or(now_ms, |t| t.0.as_millisecond()),
                    }),
                    id: strip_scheme(s.container_id.as_deref().unwrap_or("")),
                    ..ContainerRecord::default()
                },
            );
        }
        record
    }

    /// Takes in what is observed: running attempts, ends, and attempts that vanished with their sandbox.
    /// Returns whether anything was learned (and the record has to be saved).
    pub fn absorb(&mut self, observed: &Observed, now_ms: Millis) -> Learned {
        let before = self.clone();
        if let Some(sandbox) = &observed.sandbox {
            self.sandboxes = self.sandboxes.max(sandbox.attempt + 1);
            if !sandbox.ips.is_empty() {
                self.ips.clone_from(&sandbox.ips);
            }
        }
        for view in &observed.containers {
            self.absorb_view(view, observed, now_ms);
        }
        for (name, record) in &mut self.containers {
            let seen = observed
                .containers
                .iter()
                .any(|v| v.name == *name && Some(v.attempt) == record.attempt());
            if record.is_live() && !seen {
                record.exit = Some(Exit {
                    id: record.id.clone(),
                    exit_code: LOST_EXIT_CODE,
                    signal: None,
                    reason: ExitReason::Unknown,
                    message: Some(
                        "the container vanished with its sandbox or at a restart of the machine"
                            .to_owned(),
                    ),
                    started_ms: record.started_ms,
                    finished_ms: now_ms,
                });
                record.stop = None;
            }
        }
        if *self == before {
            Learned::Nothing
        } else {
            Learned::Something
        }
    }

    fn absorb_view(&mut self, view: &ContainerState, observed: &Observed, now_ms: Millis) {
        let known = self.containers.get(&view.name).map_or(0, |r| r.attempts);
        if view.attempt + 1 < known {
            return;
        }
        if view.attempt + 1 > known {
            // The agent ended between the start and the note of it.
            self.started(&view.name, view.attempt, 0, now_ms);
        }
        let record = self.containers.entry(view.name.clone()).or_default();
        record.sandbox = observed
            .sandbox
            .as_ref()
            .map_or(record.sandbox, |s| s.attempt);
        record.id.clone_from(&view.id);
        if !view.image.is_empty() {
            record.image.clone_from(&view.image);
        }
        if !view.image_id.is_empty() {
            record.image_id.clone_from(&view.image_id);
        }
        match &view.phase {
            ContainerPhase::Created => {}
            ContainerPhase::Running { started_at } => {
                record.started_ms = Some(started_at.millis());
                record.exit = None;
            }
            ContainerPhase::Exited { started_at, .. } => {
                if record.exit.is_none() {
                    record.stop = None;
                }
                record.started_ms = Some(started_at.millis());
                record.exit = Exit::of(view);
            }
        }
    }

    /// A start was handed to the runtime.
    pub fn started(&mut self, name: &str, attempt: u32, sandbox: u32, now_ms: Millis) {
        let record = self.containers.entry(name.to_owned()).or_default();
        if let Some(exit) = record.exit.take() {
            let finished_ms = exit.finished_ms;
            record.back_off = if record.replaced {
                // Another definition has not crashed yet.
                None
            } else {
                Some(BackOff::next(record.back_off, finished_ms, now_ms))
            };
            record.last = Some(exit);
        }
        record.image.clear();
        record.replaced = false;
        record.attempts = attempt + 1;
        record.sandbox = sandbox;
        record.started_ms = None;
        record.refusal = None;
        record.stop = None;
        record.passed_startup = false;
        record.ready = false;
    }

    /// A start was refused before the runtime knew of it.
    pub fn refused(&mut self, name: &str, reason: WaitingReason, message: &str, now_ms: Millis) {
        let record = self.containers.entry(name.to_owned()).or_default();
        record.refusal = Some(next_refusal(
            record.refusal.as_ref(),
            reason,
            message,
            now_ms,
        ));
    }

    /// A sandbox could not be made.
    pub fn sandbox_refused(&mut self, reason: SandboxReason, message: &str, now_ms: Millis) {
        self.sandbox_refusal = Some(next_refusal(
            self.sandbox_refusal.as_ref(),
            reason,
            message,
            now_ms,
        ));
    }

    /// Something that was missing may be there now: look again without a wait.
    pub fn retry_now(&mut self) {
        for record in self.containers.values_mut() {
            if let Some(refusal) = &mut record.refusal {
                refusal.retry_ms = 0;
            }
        }
        if let Some(refusal) = &mut self.sandbox_refusal {
            refusal.retry_ms = 0;
        }
    }

    /// A stop of the last attempt has begun: its preStop sleep lasts until then.
    pub fn pre_stopping(
        &mut self,
        name: &str,
        cause: StopCause,
        grace_ms: Millis,
        sleep_ms: Millis,
        now_ms: Millis,
    ) {
        if let Some(record) = self.containers.get_mut(name) {
            record.replaced |= cause == StopCause::Changed;
            record.stop.get_or_insert(Stop {
                since_ms: now_ms,
                grace_ms,
                pre_stop_until_ms: Some(now_ms.saturating_add(sleep_ms)),
            });
        }
    }

    /// The last attempt was sent its stop signal.
    pub fn stopping(&mut self, name: &str, cause: StopCause, grace_ms: Millis, now_ms: Millis) {
        if let Some(record) = self.containers.get_mut(name) {
            record.replaced |= cause == StopCause::Changed;
            let stop = record.stop.get_or_insert(Stop {
                since_ms: now_ms,
                grace_ms,
                pre_stop_until_ms: None,
            });
            stop.pre_stop_until_ms = None;
        }
    }
}

/// Whether a look at the world changed what is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The record is as it was.
    Nothing,
    /// The record has to be saved.
    Something,
}

fn next_refusal<R>(
    current: Option<&Refusal<R>>,
    reason: R,
    message: &str,
    now_ms: Millis,
) -> Refusal<R> {
    let times = current.map_or(0, |r| r.times).saturating_add(1);
    let delay = REFUSAL_RETRY_MS
        .saturating_mul(1 << times.saturating_sub(1).min(8))
        .min(REFUSAL_RETRY_MAX_MS);
    Refusal {
        reason,
        message: message.to_owned(),
        times,
        retry_ms: now_ms + delay,
    }
}

fn strip_scheme(id: &str) -> String {
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}

#[cfg(test)]
mod tests;
