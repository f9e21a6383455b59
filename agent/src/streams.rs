// SPDX-License-Identifier: Apache-2.0
//! Answers the control plane's requests for a stream, over the agent's own connection: frames in both directions.
//!
//! Each stream is a task with small queues ([`FRAMES_MAX`]). A slow reader holds back its own stream, nothing else: a
//! process that does not read its input, as a client that does not read its output. HTTP/2 keeps what waits, at most
//! [`knarr_api::stream::WINDOW_BYTES`] for each stream. Not here: what a stream carries ([`ServeStream`]: a log is in
//! `logs`), the connection's windows (`join::connect`).

use std::sync::Arc;

use async_trait::async_trait;
use knarr_api::feed::feed_client::FeedClient;
use knarr_api::feed::open_stream::Request;
use knarr_api::feed::{OpenStream, StreamError, StreamFrame, stream_frame};
use knarr_api::stream::{FRAMES_MAX, Frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::desired::Desired;
use crate::edges::Sandboxes;
use crate::limits::{REFUSALS_MAX, STREAMS_MAX};
use crate::pods::live::Live;
use crate::pods::records::Records;

mod logs;

/// Who answers `OpenStream`. Must not wait: the feed goes on meanwhile.
pub trait AnswerStreams: Send + Sync {
    /// Answers over this connection.
    fn open(&self, open: OpenStream, client: FeedClient<Channel>);
}

/// Both directions of one stream. Dropping it ends the stream.
pub struct Ends {
    /// What the client sends; it ends when the client is gone.
    pub received: mpsc::Receiver<Frame>,
    /// What the client is sent. It waits while the client is slow.
    pub send: mpsc::Sender<Frame>,
}

/// What streams carry.
#[async_trait]
pub trait ServeStream: Send + Sync + 'static {
    /// Serves a request until its end. An error ends the stream and is sent as its last frame.
    async fn serve(&self, request: Request, ends: Ends) -> Result<(), StreamError>;
}

/// Opens streams.
pub struct Streams {
    server: Arc<dyn ServeStream>,
    gate: Gate,
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

impl Streams {
    /// Over what serves them.
    pub fn new(server: Arc<dyn ServeStream>) -> Streams {
        Streams {
            server,
            gate: Gate::new(),
        }
    }

    async fn answer(
        &self,
        open: OpenStream,
        mut client: FeedClient<Channel>,
        admitted: Admitted,
    ) -> Result<(), tonic::Status> {
        let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
        let first = StreamFrame {
            channel: 0,
            frame: Some(stream_frame::Frame::Open(open.id)),
        };
        // The channel is empty and its receiver is held right here.
        let _ = frames.send(first).await;
        let mut incoming = client
            .stream(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let (to_client, sent) = mpsc::channel(FRAMES_MAX);
        let (from_client, received) = mpsc::channel(FRAMES_MAX);
        let ends = Ends {
            received,
            send: to_client,
        };
        let serve = async {
            match (admitted.answer, open.request) {
                (Answer::Refuse, _) => Err(problem(
                    429,
                    format!("this node serves {STREAMS_MAX} streams already; try again later"),
                )),
                (Answer::Serve, Some(request)) => self.server.serve(request, ends).await,
                (Answer::Serve, None) => Err(unknown()),
            }
        };
        let work = async {
            // All that was sent goes out before the error that ended it.
            let (result, ()) = tokio::join!(serve, forward(sent, &frames));
            if let Err(error) = result {
                let _ = frames.send(Frame::Error(error).into()).await;
            }
            drop(frames);
        };
        // Dropping the work ends what serves the stream; dropping the wait loses frames that have no reader any more.
        tokio::select! {
            () = work => {
                // Let the last frames go out: the other side closes when it has them.
                while let Ok(Some(_)) = incoming.message().await {}
                Ok(())
            }
            ended = receive(&mut incoming, from_client) => ended,
        }
    }
}

/// Sends on what is served, as far as the connection takes it.
async fn forward(mut sent: mpsc::Receiver<Frame>, frames: &mpsc::Sender<StreamFrame>) {
    while let Some(frame) = sent.recv().await {
        if frames.send(frame.into()).await.is_err() {
            return;
        }
    }
}

/// Hands on what the client sends. It ends when the client is gone or sends what is no frame; a server that takes no more
/// frames goes on sending. While a server takes none, nothing is received, and the client fills this stream's window.
async fn receive(
    incoming: &mut Streaming<StreamFrame>,
    from_client: mpsc::Sender<Frame>,
) -> Result<(), tonic::Status> {
    while let Some(message) = incoming.message().await? {
        let frame = Frame::try_from(message)
            .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
        // A server may take no more, and go on sending.
        let _ = from_client.send(frame).await;
    }
    Ok(())
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

/// Serves what this node can: logs.
pub struct NodeServer {
    desired: Arc<Desired>,
    sandboxes: Arc<dyn Sandboxes>,
    records: Arc<Records>,
    live: Arc<Live>,
}

impl NodeServer {
    /// For this node's pods.
    pub fn new(
        desired: Arc<Desired>,
        sandboxes: Arc<dyn Sandboxes>,
        records: Arc<Records>,
        live: Arc<Live>,
    ) -> NodeServer {
        NodeServer {
            desired,
            sandboxes,
            records,
            live,
        }
    }
}

#[async_trait]
impl ServeStream for NodeServer {
    async fn serve(&self, request: Request, ends: Ends) -> Result<(), StreamError> {
        match request {
            Request::Logs(request) => {
                let Ends { received, send } = ends;
                // A log has no use for what its reader sends, and must not hold it back.
                drop(received);
                self.logs(&request, &send).await
            }
            Request::Exec(_) | Request::Attach(_) | Request::PortForward(_) => Err(unknown()),
        }
    }
}

fn unknown() -> StreamError {
    problem(
        501,
        "this agent does not know this kind of stream".to_owned(),
    )
}

fn problem(code: u32, message: String) -> StreamError {
    StreamError { code, message }
}

#[cfg(test)]
mod tests;
