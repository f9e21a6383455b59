// SPDX-License-Identifier: Apache-2.0
//! A node's sandboxes as values that do what they are asked: the world in which pods live in tests.
//!
//! The planner's own tests drive it with actions; the fakes of the agent's edges (`agent/src/edges/fake.rs`) drive it as
//! the runtime would be. Nothing outside tests calls it. Not here: decisions, and a clock.

use knarr_pod::{ContainerPhase, ContainerState, ExitReason, SandboxState, Timestamp};

use crate::Millis;

/// The exit code after SIGKILL.
pub const KILLED_EXIT_CODE: i32 = 137;
/// The exit code after SIGTERM.
pub const TERMINATED_EXIT_CODE: i32 = 143;
/// The process number that every container has.
const PID: i32 = 4242;
/// The image that every reference stands for.
pub const IMAGE_ID: &str = "sha256:1";

/// One pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedSandbox {
    /// Counted from 0.
    pub attempt: u32,
    /// Whether containers can be started.
    pub state: SandboxState,
    /// Every attempt that has not been removed.
    pub containers: Vec<ContainerState>,
}

impl SimulatedSandbox {
    /// A sandbox that was just made.
    pub fn new(attempt: u32) -> SimulatedSandbox {
        SimulatedSandbox {
            attempt,
            state: SandboxState::Ready,
            containers: Vec::new(),
        }
    }

    /// One attempt.
    pub fn container(&self, name: &str, attempt: u32) -> Option<&ContainerState> {
        let mut all = self.containers.iter();
        all.find(|c| c.name == name && c.attempt == attempt)
    }

    /// The last attempt of a container.
    pub fn last(&self, name: &str) -> Option<&ContainerState> {
        let of_name = self.containers.iter().filter(|c| c.name == name);
        of_name.max_by_key(|c| c.attempt)
    }

    /// Starts a container, which then runs. The same attempt again is the one that is there.
    pub fn start(
        &mut self,
        name: &str,
        attempt: u32,
        image: &str,
        now_ms: Millis,
    ) -> ContainerState {
        if let Some(there) = self.container(name, attempt) {
            return there.clone();
        }
        let now = Timestamp::from_millis(now_ms);
        let state = ContainerState {
            name: name.to_owned(),
            attempt,
            id: format!("{name}-{attempt}"),
            image: image.to_owned(),
            image_id: IMAGE_ID.to_owned(),
            phase: ContainerPhase::Running { started_at: now },
            pid: Some(PID),
            created_at: now,
        };
        self.containers.push(state.clone());
        state
    }

    /// Ends an attempt; one that is over stays as it ended.
    pub fn exit(
        &mut self,
        name: &str,
        attempt: u32,
        exit_code: i32,
        reason: ExitReason,
        now_ms: Millis,
    ) {
        let mut all = self.containers.iter_mut();
        let found = all.find(|c| c.name == name && c.attempt == attempt && c.is_live());
        if let Some(container) = found {
            let started_at = match container.phase {
                ContainerPhase::Running { started_at } => started_at,
                _ => container.created_at,
            };
            container.pid = None;
            container.phase = ContainerPhase::Exited {
                exit_code,
                signal: None,
                reason,
                message: String::new(),
                started_at,
                finished_at: Timestamp::from_millis(now_ms),
            };
        }
    }

    /// Ends an attempt as a program ends: 0 is a success.
    pub fn end(&mut self, name: &str, attempt: u32, exit_code: i32, now_ms: Millis) {
        let reason = match exit_code {
            0 => ExitReason::Completed,
            _ => ExitReason::Error,
        };
        self.exit(name, attempt, exit_code, reason, now_ms);
    }

    /// The shim is gone, and with it every container: how they ended is unknown. A sandbox that is dead stays as it is.
    pub fn lose(&mut self, reason: &str, now_ms: Millis) {
        if self.state != SandboxState::Ready {
            return;
        }
        let live = self.containers.iter().filter(|c| c.is_live());
        let live: Vec<_> = live.map(|c| (c.name.clone(), c.attempt)).collect();
        for (name, attempt) in live {
            let unseen = ExitReason::ContainerStatusUnknown;
            self.exit(&name, attempt, KILLED_EXIT_CODE, unseen, now_ms);
            let mut all = self.containers.iter_mut();
            let lost = all.find(|c| c.name == name && c.attempt == attempt);
            if let Some(ContainerPhase::Exited { message, .. }) = lost.map(|c| &mut c.phase) {
                *message = format!("The container's end was not seen: {reason}");
            }
        }
        self.state = SandboxState::Dead {
            reason: reason.to_owned(),
        };
    }

    /// Forgets an attempt.
    pub fn remove(&mut self, name: &str, attempt: u32) {
        self.containers
            .retain(|c| !(c.name == name && c.attempt == attempt));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_made_once_and_ends_once() {
        let mut sandbox = SimulatedSandbox::new(0);
        let first = sandbox.start("c", 0, "i", 1);
        assert_eq!(sandbox.start("c", 0, "i", 2), first);
        sandbox.end("c", 0, 0, 3);
        sandbox.end("c", 0, 1, 4);
        let ended = sandbox.last("c").expect("there").phase.clone();
        assert!(
            matches!(
                ended,
                ContainerPhase::Exited {
                    exit_code: 0,
                    reason: ExitReason::Completed,
                    ..
                }
            ),
            "{ended:?}"
        );
        sandbox.remove("c", 0);
        assert_eq!(sandbox.last("c"), None);
    }

    #[test]
    fn a_lost_sandbox_is_dead_and_only_what_ran_has_an_unknown_end() {
        let mut sandbox = SimulatedSandbox::new(0);
        sandbox.start("done", 0, "i", 1);
        sandbox.end("done", 0, 0, 2);
        sandbox.start("runs", 0, "i", 1);
        sandbox.lose("its shim died", 3);
        sandbox.lose("it was destroyed", 4);
        let reason = "its shim died".to_owned();
        assert_eq!(sandbox.state, SandboxState::Dead { reason });
        let end = |name| match &sandbox.last(name).expect("there").phase {
            ContainerPhase::Exited {
                exit_code, reason, ..
            } => (*exit_code, *reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(end("done"), (0, ExitReason::Completed));
        let unseen = ExitReason::ContainerStatusUnknown;
        assert_eq!(end("runs"), (KILLED_EXIT_CODE, unseen));
    }
}
