// SPDX-License-Identifier: Apache-2.0
//! Byte streams that ride back over an agent's own connection: logs, exec, attach, port-forward.
//!
//! A request waits here under a random id until the agent calls `Feed.Stream` and names it. The API server
//! is one caller (through [`Streams::open`]), the feed service the other. Frames and their bounds are `knarr_api::stream`'s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use knarr_api::feed::{OpenStream, StreamError, StreamFrame, open_stream, stream_frame};
use knarr_api::stream::{FRAMES_MAX, Frame, FrameError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

/// An agent that is connected answers within milliseconds; this is for one that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One open stream, as the API server sees it. Dropping it ends the transfer.
#[derive(Debug)]
pub struct Opened {
    /// What the node sends.
    pub received: mpsc::Receiver<Frame>,
    /// What the node is sent.
    pub send: mpsc::Sender<Frame>,
}

struct Waiting {
    node: String,
    answered: oneshot::Sender<Opened>,
}

/// Agents that can be asked for streams, and streams that have been asked for.
#[derive(Default)]
pub struct Streams {
    agents: Mutex<HashMap<String, mpsc::Sender<OpenStream>>>,
    waiting: Mutex<HashMap<String, Waiting>>,
}

fn failure(code: u32, message: impl Into<String>) -> StreamError {
    StreamError {
        code,
        message: message.into(),
    }
}

impl Streams {
    /// `node` is connected and takes requests from `requests`' other end, until what is returned is dropped.
    pub(super) fn connect(
        self: &Arc<Self>,
        node: &str,
        requests: mpsc::Sender<OpenStream>,
    ) -> Connected {
        let mut agents = self.agents.lock();
        agents.insert(node.to_owned(), requests.clone());
        Connected {
            streams: self.clone(),
            node: node.to_owned(),
            requests,
        }
    }

    /// The connection that took `requests` is over; a newer one of the same node stays.
    fn disconnect(&self, node: &str, requests: &mpsc::Sender<OpenStream>) {
        let mut agents = self.agents.lock();
        if agents
            .get(node)
            .is_some_and(|current| current.same_channel(requests))
        {
            agents.remove(node);
        }
    }

    /// Asks `node` for a stream. A log is open when the node answers; any other when the node serves it.
    pub async fn open(
        &self,
        node: &str,
        request: open_stream::Request,
    ) -> Result<Opened, StreamError> {
        let agent = {
            let agents = self.agents.lock();
            agents.get(node).cloned()
        };
        let is_log = matches!(request, open_stream::Request::Logs(_));
        let unreachable = || {
            failure(
                503,
                if is_log {
                    format!("node {node} is not connected; its logs can be read when it is back")
                } else {
                    format!("node {node} is not connected")
                },
            )
        };
        let agent = agent.ok_or_else(unreachable)?;
        let id = uuid::Uuid::new_v4().to_string();
        let (answered, answer) = oneshot::channel();
        let _forget = self.wait(&id, node, answered);
        let open = OpenStream {
            id: id.clone(),
            request: Some(request),
        };
        let late = || {
            failure(
                504,
                format!(
                    "node {node} did not answer within {} s",
                    ANSWER_WITHIN.as_secs()
                ),
            )
        };
        let opened = async {
            agent.send(open).await.map_err(|_| unreachable())?;
            let mut opened = answer.await.map_err(|_| late())?;
            if is_log {
                return Ok(opened);
            }
            match opened.received.recv().await {
                Some(Frame::Started) => Ok(opened),
                Some(Frame::Error(error)) => Err(error),
                Some(_) | None => Err(failure(502, format!("node {node} ended the stream"))),
            }
        };
        // Dropping it takes the request off the list and ends the stream.
        tokio::time::timeout(ANSWER_WITHIN, opened)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    fn wait(&self, id: &str, node: &str, answered: oneshot::Sender<Opened>) -> Forget<'_> {
        let waiting = Waiting {
            node: node.to_owned(),
            answered,
        };
        let mut all = self.waiting.lock();
        all.insert(id.to_owned(), waiting);
        Forget {
            streams: self,
            id: id.to_owned(),
        }
    }

    fn take(&self, id: &str, node: &str) -> Option<Waiting> {
        let mut all = self.waiting.lock();
        // Another node's id stays where it is: it is not this caller's to answer.
        if all.get(id).is_some_and(|waiting| waiting.node == node) {
            all.remove(id)
        } else {
            None
        }
    }

    /// Carries one stream that `node` opened in answer to a request, until either side ends it. `to_node` takes what the
    /// client sends.
    pub(super) async fn serve(
        &self,
        node: &str,
        mut frames: Streaming<StreamFrame>,
        to_node: mpsc::Sender<Result<StreamFrame, Status>>,
    ) -> Result<(), Status> {
        let first = frames.message().await?.and_then(|frame| frame.frame);
        let Some(stream_frame::Frame::Open(id)) = first else {
            return Err(Status::invalid_argument(
                "the first frame of a stream must name the request it answers",
            ));
        };
        let Some(waiting) = self.take(&id, node) else {
            return Err(Status::not_found("nobody waits for this stream any more"));
        };
        let (received, receiver) = mpsc::channel(FRAMES_MAX);
        let (send, mut sent) = mpsc::channel(FRAMES_MAX);
        let opened = Opened {
            received: receiver,
            send,
        };
        if waiting.answered.send(opened).is_err() {
            return Ok(());
        }
        let from_node = async {
            loop {
                // Safe to drop: a frame that is not yet received is lost only when its reader is gone.
                let frame = tokio::select! {
                    frame = frames.message() => frame?,
                    () = received.closed() => return Ok(()),
                };
                let Some(frame) = frame else { return Ok(()) };
                let frame = Frame::try_from(frame).map_err(not_a_frame)?;
                let last = matches!(frame, Frame::Error(_));
                if received.send(frame).await.is_err() || last {
                    return Ok(());
                }
            }
        };
        let from_client = async {
            while let Some(frame) = sent.recv().await {
                if to_node.send(Ok(frame.into())).await.is_err() {
                    break;
                }
            }
            // The client may only listen from here on.
            std::future::pending::<()>().await;
        };
        // Safe to drop: what the client sent last is for a stream that the node has ended.
        tokio::select! {
            ended = from_node => ended,
            () = from_client => Ok(()),
        }
    }
}

fn not_a_frame(error: FrameError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A connection that can be asked for streams.
pub(super) struct Connected {
    streams: Arc<Streams>,
    node: String,
    requests: mpsc::Sender<OpenStream>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.streams.disconnect(&self.node, &self.requests);
    }
}

/// Takes a request off the list when its caller stops waiting.
struct Forget<'a> {
    streams: &'a Streams,
    id: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut all = self.streams.waiting.lock();
        all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
