// SPDX-License-Identifier: Apache-2.0
//! The one interpreter of what is planned for a pod. Every action can be repeated after the agent was
//! killed in the middle of it.
//!
//! Not here: what to do (`knarr_agent_plan::pod`).

use std::pin::pin;
use std::time::Duration;

use knarr_agent_plan::pod::PodAction;
use knarr_agent_plan::reason::{PodFailure, SandboxReason, WaitingReason};
use knarr_runtime::SandboxError;
use tokio::sync::Semaphore;

use super::Worker;
use crate::events::{EventReason, Kind};

mod containers;
mod sandbox;

/// How long the end of one pod may hold back others: many times what it takes on a machine that is not stuck.
const END_TURN: Duration = Duration::from_millis(250);

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It was refused and noted in the record: the status says why.
    #[error("refused")]
    Refused,
    /// The sandbox went away meanwhile; the next round sees that.
    #[error("the sandbox is gone")]
    NoSandbox,
    /// A plan names what the pod does not have, which is an error of the plan.
    #[error("container {name} is not in the pod's spec")]
    NoContainer {
        /// Container name.
        name: String,
    },
    /// A sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] knarr_runtime::RuntimeError),
    /// The network.
    #[error(transparent)]
    Datapath(#[from] knarr_datapath::DatapathError),
    /// Addresses.
    #[error(transparent)]
    Ipam(#[from] crate::pods::ipam::IpamError),
    /// Records.
    #[error(transparent)]
    Record(#[from] crate::pods::records::RecordError),
}

impl Worker {
    /// Carries out one action.
    pub(super) async fn apply(&mut self, action: &PodAction) -> Result<(), ApplyError> {
        match action {
            PodAction::CreateSandbox { attempt } => self.create_sandbox(*attempt).await,
            PodAction::WireSandbox => self.wire_again().await,
            PodAction::StartContainer { name, attempt } => self.start(name, *attempt).await,
            PodAction::Refuse {
                name,
                reason,
                message,
            } => {
                self.refuse(name, *reason, message);
                Ok(())
            }
            PodAction::PreStop {
                name,
                grace_ms,
                sleep_ms,
                cause,
                message,
            } => {
                self.tell(Some(name), Kind::Normal, EventReason::Killing, message);
                let now_ms = self.context.clock.now_ms();
                self.record
                    .pre_stopping(name, *cause, *grace_ms, *sleep_ms, now_ms);
                Ok(())
            }
            PodAction::Stop {
                name,
                attempt,
                signal,
                grace_ms,
                cause,
                message,
            } => {
                let signal = self.stop_signal(name, signal.as_deref()).await;
                if let Some(message) = message {
                    self.tell(Some(name), Kind::Normal, EventReason::Killing, message);
                }
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                sandbox.signal(name, *attempt, signal).await?;
                self.record
                    .stopping(name, *cause, *grace_ms, self.context.clock.now_ms());
                Ok(())
            }
            PodAction::Kill { name, attempt } => {
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                let kill = sandbox.kill(name, *attempt);
                Ok(in_turn(&self.context.ends, kill).await?)
            }
            PodAction::RemoveContainer { name, attempt } => {
                let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
                match sandbox.remove_container(name, *attempt).await {
                    Err(SandboxError::NotFound { .. }) => Ok(()),
                    other => Ok(other?),
                }
            }
            PodAction::BeginTermination { failure } => {
                self.begin_termination(failure.clone());
                if let Some(PodFailure { reason, message }) = failure {
                    let reason = EventReason::Pod(reason.clone());
                    self.tell(None, Kind::Warning, reason, message);
                }
                Ok(())
            }
            PodAction::DestroySandbox => self.destroy_sandbox().await,
            PodAction::Release => self.release().await,
        }
    }

    fn tell(&self, container: Option<&str>, kind: Kind, reason: EventReason, message: &str) {
        let events = &self.context.events;
        events.pod(&self.pod, container, kind, &reason, message);
    }

    pub(super) fn refuse(&mut self, name: &str, reason: WaitingReason, message: &str) {
        let text = match reason {
            WaitingReason::ErrImagePull => {
                let image = self
                    .container(name)
                    .and_then(|c| c.image)
                    .unwrap_or_default();
                self.tell(
                    Some(name),
                    Kind::Warning,
                    EventReason::Failed,
                    &format!("Failed to pull image \"{image}\": {message}"),
                );
                format!("Error: {}", reason.as_str())
            }
            WaitingReason::ErrImageNeverPull => {
                let event = EventReason::Waiting(reason);
                self.tell(Some(name), Kind::Warning, event, message);
                format!("Error: {}", reason.as_str())
            }
            WaitingReason::ImagePullBackOff => {
                let image = self
                    .container(name)
                    .and_then(|c| c.image)
                    .unwrap_or_default();
                let text = format!("Back-off pulling image \"{image}\"");
                self.tell(Some(name), Kind::Normal, EventReason::BackOff, &text);
                format!("Error: {}", reason.as_str())
            }
            _ => format!("Error: {message}"),
        };
        let before = self.record.containers.get(name);
        let told = before.and_then(|r| r.refusal.as_ref());
        if told.is_none_or(|r| r.reason != reason || r.message != message) {
            self.tell(Some(name), Kind::Warning, EventReason::Failed, &text);
        }
        self.record
            .refused(name, reason, message, self.context.clock.now_ms());
    }

    pub(super) fn refuse_sandbox(&mut self, reason: SandboxReason, message: &str) -> ApplyError {
        let told = self.record.sandbox_refusal.as_ref();
        if told.is_none_or(|r| r.message != message) {
            self.tell(None, Kind::Warning, EventReason::Sandbox(reason), message);
            tracing::warn!(pod = self.name(), "{message}");
        }
        self.record
            .sandbox_refused(reason, message, self.context.clock.now_ms());
        ApplyError::Refused
    }
}

/// Does `work` when there is room in `turns`. What takes longer than a turn goes on without one: a pod on a disk that
/// hangs holds up nobody else.
async fn in_turn<T>(turns: &Semaphore, work: impl Future<Output = T>) -> T {
    let permit = turns.acquire().await;
    let mut work = pin!(work);
    match tokio::time::timeout(END_TURN, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            drop(permit);
            work.await
        }
    }
}
