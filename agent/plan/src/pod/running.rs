// SPDX-License-Identifier: Apache-2.0
//! A pod that lives: its containers are started, restarted, replaced, or left alone.
//!
//! Not here: what holds a start back (`images`), the end of a pod (`ending`).

use k8s_openapi::api::core::v1::Container;

use super::{Planner, PodAction, Restart, StopCause, grace_ms, restart_due, restarts, stop_signal};
use crate::observed::RecordStore;
use crate::reason::WaitingReason;
use crate::record::ContainerRecord;
use crate::spec::{Role, containers};
use crate::{Millis, ms_of_seconds};

impl Planner<'_> {
    pub(super) fn run_init(&mut self, position: usize) {
        self.remove_old_attempts();
        // Sidecars before the one that runs have to stay up meanwhile.
        let init: Vec<_> = containers(self.spec)
            .filter(|(_, role)| *role != Role::Main)
            .take(position + 1)
            .collect();
        for (n, (container, role)) in init.into_iter().enumerate() {
            if n == position || role == Role::Sidecar {
                self.keep_running(container, role);
            }
        }
    }

    pub(super) fn run_main(&mut self) {
        self.remove_old_attempts();
        let all: Vec<_> = containers(self.spec)
            .filter(|(_, role)| *role != Role::Init)
            .collect();
        for (container, role) in all {
            self.keep_running(container, role);
        }
    }

    fn remove_old_attempts(&mut self) {
        for view in &self.observed.containers {
            let current = self
                .record
                .containers
                .get(&view.name)
                .and_then(ContainerRecord::attempt);
            let known = containers(self.spec).any(|(c, _)| c.name == view.name);
            if !known || current.is_some_and(|a| view.attempt < a) {
                self.actions.push(PodAction::RemoveContainer {
                    name: view.name.clone(),
                    attempt: view.attempt,
                });
            }
        }
    }

    /// Starts, restarts or leaves one container.
    fn keep_running(&mut self, container: &Container, role: Role) {
        let fresh = ContainerRecord::default();
        let record = self
            .record
            .containers
            .get(&container.name)
            .unwrap_or(&fresh);
        if record.is_live() {
            self.watch_live(container, role, record);
            return;
        }
        let sandbox = self.observed.sandbox.as_ref().map_or(0, |s| s.attempt);
        if let Some(exit) = &record.exit {
            let init_again = role == Role::Init && record.sandbox != sandbox;
            if !init_again && restarts(self.spec, container, role, record, exit) == Restart::Done {
                return;
            }
            let due = restart_due(record, exit);
            if due > self.now_ms {
                self.wake_at(due);
                return;
            }
        }
        if let Some(refusal) = &record.refusal
            && refusal.retry_ms > self.now_ms
            && !self.image_arrived(container, refusal)
        {
            self.wake_at(refusal.retry_ms);
            return;
        }
        if let Some(refuse) = self.refuse(container) {
            self.actions.push(refuse);
            return;
        }
        if let RecordStore::Failing(why) = &self.observed.record {
            // A start that is forgotten would be made again after the next restart of the agent.
            self.actions.push(PodAction::Refuse {
                name: container.name.clone(),
                reason: WaitingReason::CreateContainerError,
                message: format!("the start could not be noted on this node's disk: {why}"),
            });
            return;
        }
        self.actions.push(PodAction::StartContainer {
            name: container.name.clone(),
            attempt: record.attempts,
        });
    }

    /// A container that runs is stopped where the pod asks for another one now, or where its liveness or
    /// startup probe failed; what follows its end is decided as after any other.
    fn watch_live(&mut self, container: &Container, role: Role, record: &ContainerRecord) {
        let Some(attempt) = record.attempt() else {
            return;
        };
        let name = container.name.clone();
        if let Some(stop) = &record.stop {
            let deadline_ms = stop.since_ms.saturating_add(stop.grace_ms);
            match stop.pre_stop_until_ms {
                _ if deadline_ms <= self.now_ms => {
                    self.actions.push(PodAction::Kill { name, attempt });
                }
                Some(until_ms) if until_ms > self.now_ms => self.wake_at(until_ms.min(deadline_ms)),
                Some(_) => self.actions.push(PodAction::Stop {
                    name,
                    attempt,
                    signal: stop_signal(container),
                    grace_ms: deadline_ms - self.now_ms,
                    // Any other was noted when the sleep began.
                    cause: StopCause::Unhealthy,
                    message: None,
                }),
                None => self.wake_at(deadline_ms),
            }
            return;
        }
        let failure = self.observed.probes.get(&container.name);
        let failure = failure.and_then(|p| p.failed.as_ref());
        let grace_of_pod_ms = grace_ms(self.pod, self.wanted);
        let (cause, grace_ms, message) = match failure {
            _ if is_changed(container, role, record) => {
                let message = format!("Container {name} definition changed, will be restarted");
                (StopCause::Changed, grace_of_pod_ms, message)
            }
            Some(failure) => {
                let probe = failure.probe;
                let message = format!("Container {name} failed {probe} probe, will be restarted");
                let grace_ms = failure.grace_ms.unwrap_or(grace_of_pod_ms);
                (StopCause::Unhealthy, grace_ms, message)
            }
            None => return,
        };
        let sleep_ms = pre_stop_sleep_ms(container);
        self.actions.push(match sleep_ms {
            0 => PodAction::Stop {
                name,
                attempt,
                signal: stop_signal(container),
                grace_ms,
                cause,
                message: Some(message),
            },
            _ => PodAction::PreStop {
                name,
                grace_ms,
                sleep_ms,
                cause,
                message,
            },
        });
    }
}

/// The pod asks for another container than the one that runs. Of a container only the image can be changed
/// by the API (core/v1, pod updates). An init container that runs goes on to its end, as kubelet has it.
fn is_changed(container: &Container, role: Role, record: &ContainerRecord) -> bool {
    let wanted = container.image.as_deref().unwrap_or_default();
    role != Role::Init && !record.image.is_empty() && record.image != wanted
}

/// `lifecycle.preStop.sleep` in milliseconds.
pub(super) fn pre_stop_sleep_ms(container: &Container) -> Millis {
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.pre_stop.as_ref());
    let sleep = hook.and_then(|h| h.sleep.as_ref());
    sleep.map_or(0, |s| ms_of_seconds(s.seconds.max(0)))
}
