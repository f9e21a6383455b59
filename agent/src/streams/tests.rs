// SPDX-License-Identifier: Apache-2.0
//! Streams between a control plane made for the test and this agent: both directions, half-closed, bounded.

use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use knarr_api::feed::feed_server::{self, FeedServer};
use knarr_api::feed::{ExecRequest, FromNode, LogRequest, NodeCertificate, RenewRequest, ToNode};
use knarr_api::stream::channel;
use tonic::{Request as Call, Response, Status};

use super::*;

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

/// The control plane's end of one stream.
struct Opened {
    from_node: Streaming<StreamFrame>,
    to_node: mpsc::Sender<Result<StreamFrame, Status>>,
}

/// A control plane that hands streams to the test.
struct Control(mpsc::Sender<Opened>);

#[async_trait]
impl feed_server::Feed for Control {
    type SyncStream = ReceiverStream<Result<ToNode, Status>>;
    type StreamStream = ReceiverStream<Result<StreamFrame, Status>>;

    async fn sync(
        &self,
        _: Call<Streaming<FromNode>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn stream(
        &self,
        call: Call<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (to_node, frames) = mpsc::channel(FRAMES_MAX);
        let opened = Opened {
            from_node: call.into_inner(),
            to_node,
        };
        self.0.send(opened).await.expect("the test takes it");
        Ok(Response::new(ReceiverStream::new(frames)))
    }

    async fn renew(&self, _: Call<RenewRequest>) -> Result<Response<NodeCertificate>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// Sends every byte and every size of the terminal back, and ends when the client half-closes.
struct Echo;

#[async_trait]
impl ServeStream for Echo {
    async fn serve(&self, _: Request, mut ends: Ends) -> Result<(), StreamError> {
        let _ = ends.send.send(Frame::Started).await;
        while let Some(frame) = ends.received.recv().await {
            let answer = match frame {
                Frame::Data { bytes, .. } => Frame::Data {
                    channel: channel::STDOUT,
                    bytes,
                },
                Frame::HalfClose { .. } => return Err(problem(418, "it was enough".to_owned())),
                other => other,
            };
            if ends.send.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Sends for ever, and says how much of it was taken.
struct Flood(tokio::sync::watch::Sender<usize>);

#[async_trait]
impl ServeStream for Flood {
    async fn serve(&self, _: Request, ends: Ends) -> Result<(), StreamError> {
        let bytes = Bytes::from(vec![7; knarr_api::stream::DATA_BYTES_MAX]);
        loop {
            let data = Frame::Data {
                channel: channel::STDOUT,
                bytes: bytes.clone(),
            };
            if ends.send.send(data).await.is_err() {
                return Ok(());
            }
            self.0.send_modify(|taken| *taken += bytes.len());
        }
    }
}

/// An attach is echoed. A process of an exec never reads its input.
struct DeafExec;

#[async_trait]
impl ServeStream for DeafExec {
    async fn serve(&self, request: Request, ends: Ends) -> Result<(), StreamError> {
        match request {
            Request::Attach(_) => Echo.serve(request, ends).await,
            _ => {
                let _ = ends.send.send(Frame::Started).await;
                let never = std::future::pending().await;
                drop(ends);
                never
            }
        }
    }
}

/// An agent whose streams `server` serves, connected over a pipe in memory.
async fn connected(
    server: impl ServeStream,
) -> (Arc<Streams>, FeedClient<Channel>, mpsc::Receiver<Opened>) {
    const PIPE_BYTES: usize = 64 << 10;
    let (streams, opened) = mpsc::channel(1);
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(FeedServer::new(Control(streams)));
        let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let _ = builder
            .serve_connection(TokioIo::new(theirs), service)
            .await;
    });
    let mut ours = Some(TokioIo::new(ours));
    let connector = tower::service_fn(move |_: http::Uri| {
        let connection = ours
            .take()
            .ok_or_else(|| std::io::Error::other("one connection"));
        async move { connection }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control");
    let channel = crate::join::connect::bounded(endpoint)
        .connect_with_connector(connector)
        .await
        .expect("connects");
    (
        Arc::new(Streams::new(Arc::new(server))),
        FeedClient::new(channel),
        opened,
    )
}

fn exec(id: &str) -> OpenStream {
    OpenStream {
        id: id.to_owned(),
        request: Some(Request::Exec(ExecRequest::default())),
    }
}

impl Opened {
    async fn frame(&mut self) -> Option<StreamFrame> {
        let frame = tokio::time::timeout(Duration::from_secs(20), self.from_node.message());
        frame.await.expect("in time").expect("no error")
    }

    async fn next(&mut self) -> Option<Frame> {
        Some(Frame::try_from(self.frame().await?).expect("a frame"))
    }

    async fn send(&self, frame: Frame) {
        self.to_node
            .send(Ok(frame.into()))
            .await
            .expect("the agent listens");
    }
}

#[tokio::test]
async fn frames_go_both_ways_and_a_half_close_ends_one_of_them() {
    let (streams, client, mut opened) = connected(Echo).await;
    streams.open(exec("s1"), client);
    let mut stream = opened.recv().await.expect("it opens one");
    let named = stream.frame().await.and_then(|f| f.frame);
    assert_eq!(named, Some(stream_frame::Frame::Open("s1".to_owned())));
    assert_eq!(stream.next().await, Some(Frame::Started));
    let data = |channel, text: &'static str| Frame::Data {
        channel,
        bytes: Bytes::from_static(text.as_bytes()),
    };
    let size = Frame::Resize {
        width: 80,
        height: 24,
    };
    stream.send(data(channel::STDIN, "hello")).await;
    stream.send(size.clone()).await;
    assert_eq!(stream.next().await, Some(data(channel::STDOUT, "hello")));
    assert_eq!(stream.next().await, Some(size));
    let channel = channel::STDIN;
    stream.send(Frame::HalfClose { channel }).await;
    let error = problem(418, "it was enough".to_owned());
    assert_eq!(stream.next().await, Some(Frame::Error(error)));
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_back() {
    let (count, mut taken) = tokio::sync::watch::channel(0);
    let (streams, client, mut opened) = connected(Flood(count)).await;
    streams.open(exec("s1"), client);
    let stream = opened.recv().await.expect("it opens one");
    // Until nothing was taken for a while.
    while tokio::time::timeout(Duration::from_millis(300), taken.changed())
        .await
        .is_ok()
    {}
    let held = *taken.borrow();
    // The queues, and the window of HTTP/2 on either side.
    assert!(held > 0 && held < 4 << 20, "{held} bytes wait");
    // A client that leaves ends it.
    drop(stream);
    let ended = async { while taken.changed().await.is_ok() {} };
    drop(streams);
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .expect("the server ends with its client");
}

#[tokio::test]
async fn processes_that_read_no_input_hold_up_no_other_stream() {
    let (streams, client, mut opened) = connected(DeafExec).await;
    let (count, mut taken) = tokio::sync::watch::channel(0_usize);
    let bytes = Bytes::from(vec![7; knarr_api::stream::DATA_BYTES_MAX]);
    let data = |channel| Frame::Data {
        channel,
        bytes: bytes.clone(),
    };
    // As many as there may be, but one; each is sent more than it takes.
    for number in 1..STREAMS_MAX {
        streams.open(exec(&format!("deaf-{number}")), client.clone());
        let stream = opened.recv().await.expect("it opens one");
        let (count, frame) = (count.clone(), data(channel::STDIN));
        tokio::spawn(async move {
            // Its client listens too, or the agent would end it.
            let Opened {
                from_node: _listens,
                to_node,
            } = stream;
            while to_node.send(Ok(frame.clone().into())).await.is_ok() {
                count.send_modify(|taken| *taken += 1);
            }
        });
    }
    while tokio::time::timeout(Duration::from_millis(500), taken.changed())
        .await
        .is_ok()
    {}
    let held = *taken.borrow() * bytes.len();
    let each = held / (STREAMS_MAX - 1);
    assert!(each < 2 << 20, "{each} bytes wait in each stream");
    let open = OpenStream {
        id: "reads".to_owned(),
        request: Some(Request::Attach(Default::default())),
    };
    streams.open(open, client);
    let mut stream = opened.recv().await.expect("it opens one");
    stream.frame().await.expect("its name");
    assert_eq!(stream.next().await, Some(Frame::Started));
    // More than any window.
    let frames = 4 * knarr_api::stream::WINDOW_BYTES as usize / bytes.len();
    for _ in 0..frames {
        stream.send(data(channel::STDIN)).await;
        assert_eq!(stream.next().await, Some(data(channel::STDOUT)));
    }
}

#[tokio::test]
async fn what_this_agent_cannot_serve_is_refused_and_not_left_open() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (desired, _) = Desired::open(&dir.path().join("desired")).expect("opens");
    let clock = crate::clock::Clock::System;
    let node = crate::edges::fake::FakeNode::new(dir.path(), clock);
    let records = Arc::new(Records::open(dir.path()).expect("opens"));
    let server = NodeServer::new(desired, Arc::new(node), records, Arc::default());
    let (streams, client, mut opened) = connected(server).await;
    for (request, code) in [
        (Some(Request::Exec(ExecRequest::default())), 501),
        (None, 501),
        (Some(Request::Logs(LogRequest::default())), 404),
    ] {
        let open = OpenStream {
            id: "s".to_owned(),
            request,
        };
        streams.open(open, client.clone());
        let mut stream = opened.recv().await.expect("it opens one");
        stream.frame().await.expect("its name");
        match stream.next().await {
            Some(Frame::Error(error)) => assert_eq!(error.code, code, "{error:?}"),
            other => panic!("{other:?}"),
        }
    }
}
