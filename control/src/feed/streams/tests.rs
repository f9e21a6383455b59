// SPDX-License-Identifier: Apache-2.0
//! Tests of which agents can be asked for streams, and of frames in both directions.

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use knarr_api::feed::feed_client::FeedClient;
use knarr_api::feed::feed_server::{Feed, FeedServer};
use knarr_api::feed::{ExecRequest, FromNode, LogRequest, NodeCertificate, RenewRequest, ToNode};
use knarr_api::stream::channel;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response};

use super::*;

fn connected(streams: &Streams) -> Vec<String> {
    streams.agents.lock().keys().cloned().collect()
}

#[tokio::test]
async fn a_session_that_is_interrupted_takes_its_connection_back() {
    let streams = Arc::new(Streams::default());
    let (requests, mut to_open) = mpsc::channel(1);
    let session = async {
        let _connected = streams.connect("node-1", requests);
        to_open.recv().await
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(10), session)
            .await
            .is_err()
    );
    assert_eq!(connected(&streams), Vec::<String>::new());
    let refused = streams
        .open("node-1", open_stream::Request::Logs(LogRequest::default()))
        .await;
    assert_eq!(refused.map(|_| ()).unwrap_err().code, 503);
}

#[test]
fn the_end_of_an_old_connection_leaves_the_new_one() {
    let streams = Arc::new(Streams::default());
    let (requests, _old) = mpsc::channel(1);
    let old = streams.connect("node-1", requests);
    let (requests, _new) = mpsc::channel(1);
    let new = streams.connect("node-1", requests);
    drop(old);
    assert_eq!(connected(&streams), ["node-1"]);
    drop(new);
    assert_eq!(connected(&streams), Vec::<String>::new());
}

/// The feed's side of streams, as the gRPC service calls it.
struct Service(Arc<Streams>);

#[async_trait::async_trait]
impl Feed for Service {
    type SyncStream = ReceiverStream<Result<ToNode, Status>>;
    type StreamStream = ReceiverStream<Result<StreamFrame, Status>>;

    async fn sync(
        &self,
        _: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn stream(
        &self,
        request: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (to_node, frames) = mpsc::channel(FRAMES_MAX);
        let streams = self.0.clone();
        tokio::spawn(async move {
            let served = streams.serve("node-1", request.into_inner(), to_node.clone());
            if let Err(status) = served.await {
                let _ = to_node.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<NodeCertificate>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// A connected agent.
struct Agent {
    client: FeedClient<Channel>,
    asked: mpsc::Receiver<OpenStream>,
    _connected: Connected,
}

/// The agent's end of one stream.
struct Answered {
    send: mpsc::Sender<StreamFrame>,
    received: Streaming<StreamFrame>,
}

impl Agent {
    async fn connect(streams: &Arc<Streams>) -> Agent {
        const PIPE_BYTES: usize = 64 << 10;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let service = TowerToHyperService::new(FeedServer::new(Service(streams.clone())));
        tokio::spawn(async move {
            let builder = knarr_apiserver::serve::node_builder();
            let _ = builder.serve_connection(TokioIo::new(ours), service).await;
        });
        let mut theirs = Some(TokioIo::new(theirs));
        let connector = tower::service_fn(move |_: http::Uri| {
            let connection = theirs
                .take()
                .ok_or_else(|| std::io::Error::other("one connection"));
            async move { connection }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://control");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        let (requests, asked) = mpsc::channel(1);
        Agent {
            client: FeedClient::new(channel),
            asked,
            _connected: streams.connect("node-1", requests),
        }
    }

    /// Answers the next request with these frames, and goes on with the stream.
    async fn answer(&mut self, first: Vec<Frame>) -> Answered {
        let asked = self.asked.recv().await.unwrap();
        let (send, frames) = mpsc::channel(FRAMES_MAX);
        let named = StreamFrame {
            channel: 0,
            frame: Some(stream_frame::Frame::Open(asked.id)),
        };
        send.send(named).await.unwrap();
        for frame in first {
            send.send(frame.into()).await.unwrap();
        }
        let answered = self.client.stream(ReceiverStream::new(frames)).await;
        Answered {
            send,
            received: answered.unwrap().into_inner(),
        }
    }
}

fn exec() -> open_stream::Request {
    open_stream::Request::Exec(ExecRequest::default())
}

fn data(channel: u32, text: &'static str) -> Frame {
    Frame::Data {
        channel,
        bytes: Bytes::from_static(text.as_bytes()),
    }
}

#[tokio::test]
async fn frames_go_both_ways_over_the_connection_of_the_agent() {
    let streams = Arc::new(Streams::default());
    let mut agent = Agent::connect(&streams).await;
    let (opened, mut answered) = tokio::join!(
        streams.open("node-1", exec()),
        agent.answer(vec![Frame::Started, data(channel::STDERR, "out")]),
    );
    let mut opened = opened.unwrap();
    let size = Frame::Resize {
        width: 80,
        height: 24,
    };
    let closed = Frame::HalfClose {
        channel: channel::STDIN,
    };
    let sent = [data(channel::STDIN, "in"), size, closed];
    for frame in &sent {
        opened.send.send(frame.clone()).await.unwrap();
    }
    for frame in sent {
        let heard = answered.received.message().await.unwrap().unwrap();
        assert_eq!(Frame::try_from(heard), Ok(frame));
    }
    assert_eq!(
        opened.received.recv().await,
        Some(data(channel::STDERR, "out"))
    );
    let error = failure(404, "gone");
    answered
        .send
        .send(Frame::Error(error.clone()).into())
        .await
        .unwrap();
    assert_eq!(opened.received.recv().await, Some(Frame::Error(error)));
    assert_eq!(opened.received.recv().await, None);
}

#[tokio::test]
async fn a_stream_is_open_when_the_node_serves_it_and_a_refusal_is_the_answer() {
    let streams = Arc::new(Streams::default());
    let mut agent = Agent::connect(&streams).await;
    let refused = failure(501, "not this kind");
    let (opened, _answered) = tokio::join!(
        streams.open("node-1", exec()),
        agent.answer(vec![Frame::Error(refused.clone())]),
    );
    assert_eq!(opened.map(|_| ()).unwrap_err(), refused);
    // A log is open at once: an empty one may have nothing to say for hours.
    let logs = open_stream::Request::Logs(LogRequest::default());
    let (opened, answered) = tokio::join!(streams.open("node-1", logs), agent.answer(Vec::new()));
    let mut opened = opened.unwrap();
    drop(answered.send);
    assert_eq!(opened.received.recv().await, None);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_stream_of_the_node() {
    let streams = Arc::new(Streams::default());
    let mut agent = Agent::connect(&streams).await;
    let (opened, mut answered) = tokio::join!(
        streams.open("node-1", exec()),
        agent.answer(vec![Frame::Started]),
    );
    drop(opened.unwrap());
    let end = tokio::time::timeout(Duration::from_secs(20), answered.received.message());
    assert_eq!(end.await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn clients_that_read_nothing_hold_up_no_other_stream_of_their_node() {
    /// More than an agent serves at once.
    const SLOW: usize = 100;
    let streams = Arc::new(Streams::default());
    let mut agent = Agent::connect(&streams).await;
    let bytes = Bytes::from(vec![7; knarr_api::stream::DATA_BYTES_MAX]);
    let data = || Frame::Data {
        channel: channel::STDOUT,
        bytes: bytes.clone(),
    };
    let (count, mut taken) = tokio::sync::watch::channel(0_usize);
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        let (opened, answered) = tokio::join!(
            streams.open("node-1", exec()),
            agent.answer(vec![Frame::Started]),
        );
        slow.push(opened.unwrap());
        let (count, frame) = (count.clone(), data());
        tokio::spawn(async move {
            let Answered {
                send,
                received: _listens,
            } = answered;
            while send.send(frame.clone().into()).await.is_ok() {
                count.send_modify(|taken| *taken += 1);
            }
        });
    }
    while tokio::time::timeout(Duration::from_millis(500), taken.changed())
        .await
        .is_ok()
    {}
    let each = *taken.borrow() * bytes.len() / SLOW;
    assert!(each < 2 << 20, "{each} bytes wait in each stream");
    let (opened, answered) = tokio::join!(
        streams.open("node-1", exec()),
        agent.answer(vec![Frame::Started]),
    );
    let mut opened = opened.unwrap();
    // More than any window.
    for _ in 0..4 * knarr_api::stream::WINDOW_BYTES as usize / bytes.len() {
        answered.send.send(data().into()).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(20), opened.received.recv());
        assert_eq!(heard.await.unwrap(), Some(data()));
    }
    drop(slow);
}

#[tokio::test]
async fn what_is_no_frame_ends_the_stream_with_a_reason() {
    let streams = Arc::new(Streams::default());
    let mut agent = Agent::connect(&streams).await;
    let (opened, mut answered) = tokio::join!(
        streams.open("node-1", exec()),
        agent.answer(vec![Frame::Started]),
    );
    let again = StreamFrame {
        channel: 0,
        frame: Some(stream_frame::Frame::Open("again".to_owned())),
    };
    answered.send.send(again).await.unwrap();
    let status = answered.received.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(opened.unwrap().received.recv().await, None);
}
