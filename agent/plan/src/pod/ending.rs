// SPDX-License-Identifier: Apache-2.0
//! The end of a pod: preStop sleep, stop signal, grace period over both, SIGKILL, sandbox.
//!
//! Not here: what follows when nothing is left (`plan`). Sidecars are stopped after the containers, in
//! reverse order, as Kubernetes v1.29 and later do.

use k8s_openapi::api::core::v1::Container;

use super::running::pre_stop_sleep_ms;
use super::{Planner, PodAction, StopCause, grace_ms, stop_signal};
use crate::Millis;
use crate::reason::FailureReason;
use crate::spec::{Role, containers};
use crate::storage::EVICTION_GRACE_MS;

impl Planner<'_> {
    pub(super) fn end(&mut self) {
        let Some(termination) = &self.record.termination else {
            self.actions
                .push(PodAction::BeginTermination { failure: None });
            self.wake_at(self.now_ms);
            return;
        };
        let since_ms = termination.since_ms;
        let mut grace_ms = grace_ms(self.pod, self.wanted);
        if let Some(failure) = &termination.failure
            && failure.reason == FailureReason::Evicted
        {
            grace_ms = grace_ms.min(EVICTION_GRACE_MS);
        }
        let deadline_ms = since_ms.saturating_add(grace_ms);
        let live: Vec<(&Container, Role)> = containers(self.spec)
            .filter(|(c, _)| {
                self.record
                    .containers
                    .get(&c.name)
                    .is_some_and(super::ContainerRecord::is_live)
            })
            .collect();
        if live.is_empty() {
            self.actions.push(PodAction::DestroySandbox);
            return;
        }
        if self.now_ms >= deadline_ms {
            for (container, _) in live {
                if let Some(attempt) = self.attempt(container) {
                    self.actions.push(PodAction::Kill {
                        name: container.name.clone(),
                        attempt,
                    });
                }
            }
            return;
        }
        self.wake_at(deadline_ms);
        let main_left = live.iter().any(|(_, role)| *role != Role::Sidecar);
        if main_left {
            for (container, role) in live {
                if role != Role::Sidecar {
                    self.stop(container, since_ms, deadline_ms);
                }
            }
        } else if let Some((container, _)) = live.last() {
            self.stop(container, since_ms, deadline_ms);
        }
    }

    fn attempt(&self, container: &Container) -> Option<u32> {
        self.record.containers.get(&container.name)?.attempt()
    }

    fn stop(&mut self, container: &Container, since_ms: Millis, deadline_ms: Millis) {
        let Some(record) = self.record.containers.get(&container.name) else {
            return;
        };
        // One that sleeps before a restart goes on sleeping.
        let sleep_until_ms = match &record.stop {
            Some(stop) => match stop.pre_stop_until_ms {
                Some(until_ms) => until_ms,
                None => return,
            },
            None => since_ms.saturating_add(pre_stop_sleep_ms(container)),
        };
        let due = sleep_until_ms.min(deadline_ms);
        if due > self.now_ms {
            self.wake_at(due);
            return;
        }
        if let Some(attempt) = record.attempt() {
            self.actions.push(PodAction::Stop {
                name: container.name.clone(),
                attempt,
                signal: stop_signal(container),
                grace_ms: deadline_ms - self.now_ms,
                cause: StopCause::Ending,
                message: Some(format!("Stopping container {}", container.name)),
            });
        }
    }
}
