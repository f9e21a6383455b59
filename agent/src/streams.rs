// SPDX-License-Identifier: Apache-2.0
//! Answers the control plane's requests for a stream: a container's log, over the agent's own connection.
//!
//! Not here: reading log files (`knarr_runtime::logs`). Each stream is a task with small buffers; a slow
//! reader holds back the reading of the file, nothing else.

use crate::desired::Desired;
use crate::edges::{LogPlace, Sandboxes};
use crate::pods::live::Live;
use crate::pods::records::Records;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use knarr_agent_plan::pod::containers;
use knarr_agent_plan::record::PodRecord;
use knarr_api::feed::feed_client::FeedClient;
use knarr_api::feed::{
    LogRequest, OpenStream, StreamError, StreamFrame, open_stream, stream_frame,
};
use knarr_pod::{LogTimestamps, Timestamp};
use knarr_runtime::logs::{self, LogQuery};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Streams at a time; each holds a file and two small buffers.
const STREAMS_MAX: usize = 64;
/// Streams at a time that are told that there are too many.
const REFUSALS_MAX: usize = 16;
/// Frames on their way in one stream.
const FRAMES_MAX: usize = 4;
/// Bytes of one frame.
const FRAME_BYTES_MAX: usize = 32 << 10;

/// Who answers `OpenStream`. Must not wait: the feed goes on meanwhile.
pub trait AnswerStreams: Send + Sync {
    /// Answers over this connection.
    fn open(&self, open: OpenStream, client: FeedClient<Channel>);
}

impl AnswerStreams for Arc<Streams> {
    fn open(&self, open: OpenStream, client: FeedClient<Channel>) {
        let id = open.id.clone();
        let Some(admitted) = self.gate.admit() else {
            tracing::warn!(id, "too many streams are asked for; one gets no answer");
            return;
        };
        let streams = self.clone();
        tokio::spawn(async move {
            if let Err(error) = streams.answer(open, client, admitted).await {
                tracing::debug!(id, "a stream ended: {error}");
            }
        });
    }
}

/// Bounds the tasks that answer streams.
struct Gate {
    serving: Arc<Semaphore>,
    refusing: Arc<Semaphore>,
}

/// How a stream is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// With what it asks for.
    Serve,
    /// With 429.
    Refuse,
}

/// Held while a stream is answered.
struct Admitted {
    answer: Answer,
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    fn new() -> Gate {
        Gate {
            serving: Arc::new(Semaphore::new(STREAMS_MAX)),
            refusing: Arc::new(Semaphore::new(REFUSALS_MAX)),
        }
    }

    /// A place for one more stream; none where not even a refusal has one.
    fn admit(&self) -> Option<Admitted> {
        let places = [
            (&self.serving, Answer::Serve),
            (&self.refusing, Answer::Refuse),
        ];
        places.into_iter().find_map(|(places, answer)| {
            let permit = places.clone().try_acquire_owned().ok()?;
            Some(Admitted {
                answer,
                _permit: permit,
            })
        })
    }
}

/// Opens streams.
pub struct Streams {
    desired: Arc<Desired>,
    sandboxes: Arc<dyn Sandboxes>,
    records: Arc<Records>,
    live: Arc<Live>,
    gate: Gate,
}

impl Streams {
    /// For this node's pods.
    pub fn new(
        desired: Arc<Desired>,
        sandboxes: Arc<dyn Sandboxes>,
        records: Arc<Records>,
        live: Arc<Live>,
    ) -> Streams {
        Streams {
            desired,
            sandboxes,
            records,
            live,
            gate: Gate::new(),
        }
    }

    async fn answer(
        &self,
        open: OpenStream,
        mut client: FeedClient<Channel>,
        admitted: Admitted,
    ) -> Result<(), tonic::Status> {
        let (frames, receiver) = mpsc::channel(FRAMES_MAX);
        let first = stream_frame::Frame::Open(open.id);
        // The channel is empty and its receiver is held right here.
        let _ = frames.send(frame(first)).await;
        let mut back = client
            .stream(ReceiverStream::new(receiver))
            .await?
            .into_inner();
        let work = async {
            let result = match (admitted.answer, open.request) {
                (Answer::Refuse, _) => Err(problem(
                    429,
                    format!("this node serves {STREAMS_MAX} streams already; try again later"),
                )),
                (Answer::Serve, Some(open_stream::Request::Logs(request))) => {
                    self.logs(&request, &frames).await
                }
                (Answer::Serve, None) => Err(problem(
                    501,
                    "this agent does not know this kind of stream".to_owned(),
                )),
            };
            if let Err(error) = result {
                let _ = frames.send(frame(stream_frame::Frame::Error(error))).await;
            }
            drop(frames);
        };
        let hang_up = async {
            // The other side says nothing in a log stream; its end means that nobody reads any more.
            while let Ok(Some(_)) = back.message().await {}
        };
        // Dropping the work ends the reading of the file; dropping the wait loses nothing.
        tokio::select! {
            () = work => {
                // Let the last frames go out: the other side closes when it has them.
                while let Ok(Some(_)) = back.message().await {}
            }
            () = hang_up => {}
        }
        Ok(())
    }

    async fn logs(
        &self,
        request: &LogRequest,
        frames: &mpsc::Sender<StreamFrame>,
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
            timestamps: match request.timestamps {
                true => LogTimestamps::Shown,
                false => LogTimestamps::Hidden,
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
        frames: &mpsc::Sender<StreamFrame>,
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
                let part = chunk.split_to(chunk.len().min(FRAME_BYTES_MAX));
                if frames
                    .send(frame(stream_frame::Frame::Data(part)))
                    .await
                    .is_err()
                {
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

fn problem(code: u32, message: String) -> StreamError {
    StreamError { code, message }
}

fn frame(frame: stream_frame::Frame) -> StreamFrame {
    StreamFrame { frame: Some(frame) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_agent_plan::reason::WaitingReason;

    #[test]
    fn streams_are_bounded_before_anything_is_spawned_for_them() {
        let gate = Gate::new();
        let served: Vec<_> = (0..STREAMS_MAX).filter_map(|_| gate.admit()).collect();
        assert!(served.iter().all(|a| a.answer == Answer::Serve));
        let refused: Vec<_> = (0..REFUSALS_MAX).filter_map(|_| gate.admit()).collect();
        assert!(refused.iter().all(|a| a.answer == Answer::Refuse));
        assert_eq!((served.len(), refused.len()), (STREAMS_MAX, REFUSALS_MAX));
        assert!(gate.admit().is_none());
        drop(served);
        assert_eq!(gate.admit().map(|a| a.answer), Some(Answer::Serve));
    }

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .expect("pod")
    }

    fn request(container: &str, previous: bool) -> LogRequest {
        LogRequest {
            pod: "web".into(),
            container: container.into(),
            previous,
            ..LogRequest::default()
        }
    }

    #[test]
    fn a_container_that_waits_says_so() {
        let mut record = PodRecord::default();
        let error = log_attempt(&pod(), &record, &request("c", false)).expect_err("waits");
        assert_eq!(error.code, 400);
        assert_eq!(
            error.message,
            "container \"c\" in pod \"web\" is waiting to start: ContainerCreating"
        );
        record.refused("c", WaitingReason::ErrImagePull, "no", 0);
        let error = log_attempt(&pod(), &record, &request("c", false)).expect_err("waits");
        assert!(error.message.ends_with("trying and failing to pull image"));
        assert_eq!(
            log_attempt(&pod(), &record, &request("x", false))
                .expect_err("none")
                .code,
            400
        );
    }

    #[test]
    fn previous_means_the_attempt_before() {
        let mut record = PodRecord::default();
        record.started("c", 0, 0, 0);
        assert_eq!(log_attempt(&pod(), &record, &request("c", false)), Ok(0));
        assert!(log_attempt(&pod(), &record, &request("c", true)).is_err());
        record.started("c", 1, 0, 0);
        assert_eq!(log_attempt(&pod(), &record, &request("c", true)), Ok(0));
    }
}
