// SPDX-License-Identifier: Apache-2.0
//! What concerns one container: starting it, and the signal that stops it.
//!
//! Not here: sandboxes and volumes (`sandbox`). Called by `apply`.

use knarr_agent_plan::container::{ContainerInputs, container_spec};
use knarr_agent_plan::pod::pulled_message;
use knarr_agent_plan::reason::WaitingReason;
use knarr_agent_plan::{identity, signal};
use knarr_base::blocking;
use knarr_pod::{ContainerPhase, ContainerState};
use knarr_runtime::SandboxError;

use super::{ApplyError, Worker};
use crate::edges::Sandbox;
use crate::events::{EventReason, Kind};
use crate::pods::spec;

impl Worker {
    pub(super) async fn start(&mut self, name: &str, attempt: u32) -> Result<(), ApplyError> {
        let sandbox = self.sandbox.clone().ok_or(ApplyError::NoSandbox)?;
        let Some(container) = self.container(name) else {
            let name = name.to_owned();
            return Err(ApplyError::NoContainer { name });
        };
        if self.volumes.is_none() {
            self.make_volumes().await?;
        }
        let reference = container.image.clone().unwrap_or_default();
        let store = self.context.edges.images.clone();
        let wanted = reference.clone();
        let image = match blocking::run(move || store.get(&wanted)).await {
            Ok(Some(image)) => image,
            // It was there a moment ago; the next round says what is missing.
            Ok(None) => return Ok(()),
            Err(error) => {
                let text = knarr_base::chain(&error);
                self.refuse(name, WaitingReason::ImageInspectError, &text);
                return Err(ApplyError::Refused);
            }
        };
        let around = spec::surroundings(&self.context, &self.pod, self.pod_ips());
        let hostname = identity::hostname(&self.pod, &self.context.machine.hostname);
        let volumes = self.volumes.as_deref().unwrap_or_default();
        let planned = container_spec(&ContainerInputs {
            pod: &self.pod,
            container: &container,
            attempt,
            image: &image.config,
            around: &around,
            hostname: &hostname,
            node_memory_bytes: self.context.machine.memory_bytes,
            volume_root: &|name| spec::volume_root(&self.context, &self.uid, volumes, name),
        });
        let spec = match planned {
            Ok(spec) => spec,
            Err(error) => {
                let reason = WaitingReason::CreateContainerConfigError;
                self.refuse(name, reason, &error.to_string());
                return Err(ApplyError::Refused);
            }
        };
        let context = self.context.clone();
        let permit = context.starts.acquire().await;
        self.tell(
            Some(name),
            Kind::Normal,
            EventReason::Pulled,
            &pulled_message(&container),
        );
        let began = std::time::Instant::now();
        let started = sandbox.start_container(spec).await;
        drop(permit);
        let made = |s: &ContainerState| s.name == name && s.attempt == attempt;
        match started {
            Ok(state) => {
                self.context.metrics.container_started(began.elapsed());
                self.note_created(&*sandbox, name, attempt);
                if state.phase != ContainerPhase::Created {
                    let text = format!("Started container {name}");
                    self.tell(Some(name), Kind::Normal, EventReason::Started, &text);
                }
                Ok(())
            }
            Err(error) if sandbox.containers().iter().any(made) => {
                // It exists and ended without running; the next round takes its exit in.
                tracing::info!(
                    pod = self.name(),
                    container = name,
                    "could not be started: {error}"
                );
                self.note_created(&*sandbox, name, attempt);
                Ok(())
            }
            Err(error @ SandboxError::Dead { .. }) => Err(error.into()),
            Err(SandboxError::Start { reason, message }) => {
                self.refuse(name, reason.into(), &message);
                Err(ApplyError::Refused)
            }
            Err(error) => {
                let text = knarr_base::chain(&error);
                self.refuse(name, WaitingReason::CreateContainerError, &text);
                Err(ApplyError::Refused)
            }
        }
    }

    /// Records that a container exists, running or not, and reports it.
    fn note_created(&mut self, sandbox: &dyn Sandbox, name: &str, attempt: u32) {
        let number = sandbox.attempt();
        self.record
            .started(name, attempt, number, self.context.clock.now_ms());
        let text = format!("Created container: {name}");
        self.tell(Some(name), Kind::Normal, EventReason::Created, &text);
    }

    /// The number of the signal to stop a container with; what the pod asks for comes before the image's.
    pub(super) async fn stop_signal(&self, name: &str, asked: Option<&str>) -> i32 {
        let own = match asked {
            Some(_) => None,
            None => self.image_stop_signal(name).await,
        };
        let (signal, refused) = signal::stop_signal(asked, own.as_deref());
        if let Some(text) = refused {
            tracing::warn!(
                pod = self.name(),
                container = name,
                "{text:?} is no signal; SIGTERM is sent instead"
            );
        }
        signal
    }

    async fn image_stop_signal(&self, name: &str) -> Option<String> {
        let reference = self.container(name)?.image?;
        let store = self.context.edges.images.clone();
        match blocking::run(move || store.get(&reference)).await {
            Ok(image) => image?.config.stop_signal,
            Err(error) => {
                let text = knarr_base::chain(&error);
                tracing::warn!(
                    pod = self.name(),
                    container = name,
                    "its image cannot be read; SIGTERM is sent instead of the image's own signal: {text}"
                );
                None
            }
        }
    }
}
