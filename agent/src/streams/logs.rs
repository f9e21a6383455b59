// SPDX-License-Identifier: Apache-2.0
//! A container's log as a stream: which attempt's, or why there is none, and its lines as they come.
//!
//! Not here: reading log files (`knarr_runtime::logs`). Called by `streams`.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use knarr_agent_plan::record::PodRecord;
use knarr_agent_plan::spec::containers;
use knarr_api::feed::{LogRequest, StreamError};
use knarr_api::stream::{DATA_BYTES_MAX, Frame, channel};
use knarr_pod::{LogTimestamps, Timestamp};
use knarr_runtime::logs::{self, LogQuery};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{NodeServer, problem};
use crate::edges::LogPlace;

impl NodeServer {
    /// Sends a log until its end, or until the client has gone.
    pub(super) async fn logs(
        &self,
        request: &LogRequest,
        frames: &mpsc::Sender<Frame>,
    ) -> Result<(), StreamError> {
        let name = format!("{}/{}", request.namespace, request.pod);
        let pod = self
            .desired
            .pod(&request.uid)
            .ok_or_else(|| problem(404, format!("pod {name} is not on this node any more")))?;
        let live = self.live.watch(&request.uid);
        let record = match &live {
            Some(live) => live.borrow().clone(),
            None => {
                let (records, uid) = (self.records.clone(), request.uid.clone());
                let stored = knarr_base::blocking::run(move || records.load(&uid)).await;
                let stored = stored.map_err(|error| problem(500, knarr_base::chain(&error)))?;
                Arc::new(stored.unwrap_or_default())
            }
        };
        let attempt = log_attempt(&pod, &record, request)?;
        let path = self.sandboxes.log_path(&LogPlace {
            namespace: &request.namespace,
            pod: &request.pod,
            uid: &request.uid,
            container: &request.container,
            attempt,
        });
        let over = CancellationToken::new();
        let query = LogQuery {
            tail_lines: request.tail_lines,
            since: request
                .since_ms
                .and_then(|ms| u64::try_from(ms).ok())
                .map(|ms| Timestamp(ms.saturating_mul(1_000_000))),
            timestamps: if request.timestamps {
                LogTimestamps::Shown
            } else {
                LogTimestamps::Hidden
            },
            limit_bytes: request.limit_bytes,
            follow_until: request.follow.then(|| over.clone()),
            ..LogQuery::default()
        };
        let mut lines = logs::read(path, query);
        let watcher = async {
            until_over(live, &request.container, attempt).await;
            over.cancel();
            std::future::pending::<()>().await;
        };
        let send = self.send(&mut lines, request, frames);
        // The watcher only says when to stop following; it never ends by itself.
        tokio::select! {
            sent = send => sent,
            () = watcher => Ok(()),
        }
    }

    async fn send(
        &self,
        lines: &mut (impl futures::Stream<Item = Result<bytes::Bytes, logs::LogError>> + Unpin),
        request: &LogRequest,
        frames: &mpsc::Sender<Frame>,
    ) -> Result<(), StreamError> {
        while let Some(chunk) = lines.next().await {
            let mut chunk = match chunk {
                Ok(chunk) => chunk,
                Err(logs::LogError::NotFound(_)) => {
                    return Err(problem(
                        404,
                        format!(
                            "the log of container \"{}\" in pod \"{}\" is not there any more",
                            request.container, request.pod
                        ),
                    ));
                }
                Err(error) => return Err(problem(500, knarr_base::chain(&error))),
            };
            while !chunk.is_empty() {
                let data = Frame::Data {
                    channel: channel::LOG,
                    bytes: chunk.split_to(chunk.len().min(DATA_BYTES_MAX)),
                };
                if frames.send(data).await.is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Waits until the attempt has ended. Without a worker it has.
async fn until_over(live: Option<watch::Receiver<Arc<PodRecord>>>, container: &str, attempt: u32) {
    let Some(mut live) = live else { return };
    loop {
        let over = {
            let record = live.borrow_and_update();
            let record = record.containers.get(container);
            record.is_none_or(|r| r.attempt() != Some(attempt) || r.exit.is_some())
        };
        if over || live.changed().await.is_err() {
            return;
        }
    }
}

/// Which attempt's log is asked for, or why there is none, in kubelet's words.
fn log_attempt(pod: &Pod, record: &PodRecord, request: &LogRequest) -> Result<u32, StreamError> {
    let (container, pod_name) = (&request.container, &request.pod);
    let known = pod
        .spec
        .as_ref()
        .is_some_and(|s| containers(s).any(|(c, _)| c.name == *container));
    if !known {
        return Err(problem(
            400,
            format!("container {container} is not valid for pod {pod_name}"),
        ));
    }
    let attempt = record.containers.get(container).and_then(|r| r.attempt());
    match (attempt, request.previous) {
        (Some(attempt), false) => Ok(attempt),
        (Some(attempt), true) if attempt > 0 => Ok(attempt - 1),
        (_, true) => Err(problem(
            400,
            format!(
                "previous terminated container \"{container}\" in pod \"{pod_name}\" not found"
            ),
        )),
        (None, false) => {
            let refusal = record
                .containers
                .get(container)
                .and_then(|r| r.refusal.as_ref());
            let why = match refusal {
                Some(r) if r.reason.is_about_image() => {
                    "trying and failing to pull image".to_owned()
                }
                Some(r) => r.reason.as_str().to_owned(),
                None => "ContainerCreating".to_owned(),
            };
            Err(problem(
                400,
                format!(
                    "container \"{container}\" in pod \"{pod_name}\" is waiting to start: {why}"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
