// SPDX-License-Identifier: Apache-2.0
//! Byte streams that ride back over an agent's own connection: logs, and later exec and port-forward.
//!
//! A request waits here under a random id until the agent calls `Feed.Stream` and names it. The API server
//! is one caller (through [`Streams::open_logs`]), the feed service the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use knarr_api::feed::{
    LogRequest, OpenStream, StreamError, StreamFrame, open_stream, stream_frame,
};
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

/// An agent that is connected answers within milliseconds; this is for one that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Chunks on their way to a slow client; the agent is held back by HTTP/2 flow control after that.
const CHUNKS_MAX: usize = 8;

/// What a stream delivers: bytes, or the error that ended it.
pub type Chunk = Result<Bytes, StreamError>;

struct Waiting {
    node: String,
    answered: oneshot::Sender<mpsc::Receiver<Chunk>>,
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
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.insert(node.to_owned(), requests.clone());
        Connected {
            streams: self.clone(),
            node: node.to_owned(),
            requests,
        }
    }

    /// The connection that took `requests` is over; a newer one of the same node stays.
    fn disconnect(&self, node: &str, requests: &mpsc::Sender<OpenStream>) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if agents
            .get(node)
            .is_some_and(|current| current.same_channel(requests))
        {
            agents.remove(node);
        }
    }

    /// Asks `node` for a container's log.
    pub async fn open_logs(
        &self,
        node: &str,
        request: LogRequest,
    ) -> Result<mpsc::Receiver<Chunk>, StreamError> {
        let agent = {
            let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
            agents.get(node).cloned()
        };
        let unreachable = || {
            failure(
                503,
                format!("node {node} is not connected; its logs can be read when it is back"),
            )
        };
        let agent = agent.ok_or_else(unreachable)?;
        let id = uuid::Uuid::new_v4().to_string();
        let (answered, answer) = oneshot::channel();
        let _forget = self.wait(&id, node, answered);
        let open = OpenStream {
            id: id.clone(),
            request: Some(open_stream::Request::Logs(request)),
        };
        agent.send(open).await.map_err(|_| unreachable())?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(chunks)) => Ok(chunks),
            Ok(Err(_)) | Err(_) => Err(failure(
                504,
                format!(
                    "node {node} did not answer within {} s",
                    ANSWER_WITHIN.as_secs()
                ),
            )),
        }
    }

    fn wait(
        &self,
        id: &str,
        node: &str,
        answered: oneshot::Sender<mpsc::Receiver<Chunk>>,
    ) -> Forget<'_> {
        let waiting = Waiting {
            node: node.to_owned(),
            answered,
        };
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id.to_owned(), waiting);
        Forget {
            streams: self,
            id: id.to_owned(),
        }
    }

    fn take(&self, id: &str, node: &str) -> Option<Waiting> {
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Another node's id stays where it is: it is not this caller's to answer.
        if all.get(id).is_some_and(|waiting| waiting.node == node) {
            all.remove(id)
        } else {
            None
        }
    }

    /// Carries one stream that `node` opened in answer to a request, until either side ends it.
    pub(super) async fn serve(
        &self,
        node: &str,
        mut frames: Streaming<StreamFrame>,
    ) -> Result<(), tonic::Status> {
        let first = frames.message().await?.and_then(|frame| frame.frame);
        let Some(stream_frame::Frame::Open(id)) = first else {
            return Err(tonic::Status::invalid_argument(
                "the first frame of a stream must name the request it answers",
            ));
        };
        let Some(waiting) = self.take(&id, node) else {
            return Err(tonic::Status::not_found(
                "nobody waits for this stream any more",
            ));
        };
        let (chunks, receiver) = mpsc::channel(CHUNKS_MAX);
        if waiting.answered.send(receiver).is_err() {
            return Ok(());
        }
        loop {
            // Safe to drop: a frame that is not yet received is lost only when nobody reads any more.
            let frame = tokio::select! {
                frame = frames.message() => frame?,
                () = chunks.closed() => return Ok(()),
            };
            let chunk = match frame.and_then(|frame| frame.frame) {
                None => return Ok(()),
                Some(stream_frame::Frame::Data(data)) => Ok(data),
                Some(stream_frame::Frame::Error(error)) => Err(error),
                Some(stream_frame::Frame::Open(_)) => {
                    return Err(tonic::Status::invalid_argument("a stream is opened once"));
                }
            };
            if chunks.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    }
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
        let mut all = self
            .streams
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
