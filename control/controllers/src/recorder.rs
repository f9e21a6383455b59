// SPDX-License-Identifier: Apache-2.0
//! Writes Kubernetes Events in a task of its own: a reconcile never waits for an event.
//!
//! `knarr_control_plan::events` decides what becomes of an event that is repeated, too frequent or similar to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::FutureExt;
use knarr_api::k8s_openapi::api::core::v1::{Event, ObjectReference};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_apiserver::{ApiError, Client, Patch};
use knarr_control_plan::events::{Correlator, Note, Severity, Write};
use knarr_control_plan::reason::EventReason;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// Events on their way to the store. Events of a burst beyond this are dropped and counted in the log: events are for
/// people, and the work that they describe must not wait for them.
const WAITING_MAX: usize = 1024;

/// Events written at once, so that a burst shares the store's commits.
const CREATIONS_MAX: usize = 32;

/// Takes the events of one controller. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    dropped: Arc<AtomicU64>,
    source: &'static str,
}

impl Recorder {
    /// A recorder, and the task that writes its events until `stop`.
    pub(crate) fn new(
        client: Client,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (notes, receiver) = mpsc::channel(WAITING_MAX);
        let recorder = Self {
            notes,
            dropped: Arc::default(),
            source: "knarr-control",
        };
        let recording = async move {
            // Safe to drop: an event that is not written yet is lost, as at any end of the process. Without a controller that
            // records events there is nothing to write, and the task waits for its end.
            tokio::select! {
                never = write_all(client, receiver).then(|()| std::future::pending()) => never,
                () = stop.cancelled() => {}
            }
        };
        (recorder, recording)
    }

    /// The same recorder for the events of `source`, such as `replicaset-controller`.
    #[must_use]
    pub(crate) fn of_source(&self, source: &'static str) -> Self {
        Self {
            notes: self.notes.clone(),
            dropped: self.dropped.clone(),
            source,
        }
    }

    /// Records that something succeeded.
    pub fn normal(&self, about: ObjectReference, reason: EventReason, message: String) {
        self.record(about, Severity::Normal, reason, message);
    }

    /// Records that something failed.
    pub fn warning(&self, about: ObjectReference, reason: EventReason, message: String) {
        self.record(about, Severity::Warning, reason, message);
    }

    fn record(
        &self,
        about: ObjectReference,
        severity: Severity,
        reason: EventReason,
        message: String,
    ) {
        let note = Note {
            about,
            severity,
            reason,
            message,
            source: self.source,
        };
        if self.notes.try_send(note).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            // Logged at the first, the second, the fourth, ...: a burst must not fill the log.
            if dropped.is_power_of_two() {
                tracing::warn!(reason = reason.as_str(), dropped, "events are dropped");
            }
        }
    }
}

/// How an event names the object that it is about.
pub(crate) fn reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

async fn write_all(client: Client, mut notes: mpsc::Receiver<Note>) {
    let mut correlator = Correlator::default();
    let mut creations: JoinSet<()> = JoinSet::new();
    while let Some(note) = notes.recv().await {
        let reason = note.reason;
        match correlator.correlate(&note, clock::now()) {
            Write::Nothing => {}
            Write::Create(event) => {
                while creations.len() >= CREATIONS_MAX {
                    created(creations.join_next().await);
                }
                let client = client.clone();
                creations.spawn(async move {
                    if let Err(error) = client.create::<Event>(&event).await {
                        unwritten(&error, reason);
                    }
                });
            }
            Write::Count {
                namespace,
                name,
                count,
                last,
                message,
            } => {
                // The event may be one of those that are being created.
                while created(creations.join_next().await) {}
                let counted = count_up(&client, &namespace, &name, count, last, message).await;
                if let Err(error) = counted {
                    if error.is_not_found() {
                        // It has expired: when it happens again, it is a new event.
                        correlator.forget(&namespace, &name);
                    }
                    unwritten(&error, reason);
                }
            }
        }
        while created(creations.try_join_next()) {}
    }
}

/// Logs a creation that panicked. False when there was none left.
fn created(ended: Option<Result<(), tokio::task::JoinError>>) -> bool {
    if let Some(Err(error)) = &ended {
        tracing::error!(%error, "writing an event panicked");
    }
    ended.is_some()
}

fn unwritten(error: &ApiError, reason: EventReason) {
    // Usual for objects of a namespace that is ending.
    tracing::debug!(%error, reason = reason.as_str(), "an event was not written");
}

async fn count_up(
    client: &Client,
    namespace: &str,
    name: &str,
    count: i32,
    last: Timestamp,
    message: String,
) -> Result<(), ApiError> {
    let patch =
        Patch::Merge(json!({"count": count, "lastTimestamp": Time(last), "message": message}));
    client
        .patch::<Event>(Some(namespace), name, &patch, None)
        .await?;
    Ok(())
}
