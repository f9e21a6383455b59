// SPDX-License-Identifier: Apache-2.0
//! Strangers who want to keep others out: silent connections, calls that never end, floods of resets.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_api::feed::change;
use rustls_pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::cluster::{Cluster, Identity};

/// More than one source may have, and more than all may have.
const FROM_ONE: usize = 200;
/// Sources that together want more than all places.
const SOURCES: u8 = 12;
/// What each of them opens.
const FROM_EACH: usize = 60;
/// Places for TLS handshakes, for one source and for all.
const HANDSHAKES_FROM_ONE: usize = 512;
const HANDSHAKES_FROM_ALL: usize = 1024;
/// Connections beyond those places.
const BEYOND: usize = 100;
/// A connection that begins no handshake is borne this long at least.
const HANDSHAKE_BORNE: Duration = Duration::from_secs(9);
/// Longer than any silence or half-sent call is borne.
const BORNE: Duration = Duration::from_secs(20);

/// A connection from `source` that begins no TLS handshake.
async fn silent(cluster: &Cluster, source: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(IpAddr::from(source), 0))
        .unwrap();
    socket.connect(cluster.address).await.unwrap()
}

/// A TLS connection without a certificate from `source`.
async fn stranger(cluster: &Cluster, source: [u8; 4], alpn: &str) -> TlsStream<TcpStream> {
    let socket = silent(cluster, source).await;
    let name = ServerName::try_from("localhost").unwrap();
    let tls = cluster.tls(&Identity::Nobody, alpn);
    // One that is closed in its handshake has been closed, which is what matters here.
    tls.connect(name, socket).await.unwrap()
}

/// Counts those that the server has closed.
async fn closed<S: AsyncRead + Unpin>(connections: &mut [S]) -> usize {
    let mut closed = 0;
    for connection in connections {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(1), connection.read(&mut byte));
        closed += usize::from(matches!(read.await, Ok(Ok(0) | Err(_))));
    }
    closed
}

/// Kubectl and nodes find everything as always.
async fn served(cluster: &Cluster, session: &mut crate::cluster::Session, pod: &str) {
    let start = Instant::now();
    let (status, body) = cluster.get(&Identity::Nobody, "/livez").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let pod = cluster.create_pod(pod, "node-1").await;
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    session
        .until(|change| matches!(change, change::Change::PodSet(set) if set.uid == uid))
        .await;
    assert!(start.elapsed() < BORNE, "served, but late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_shut_nobody_out_and_end() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;

    // The attacker has the address that kubectl and the node have.
    let mut one = Vec::new();
    for _ in 0..FROM_ONE {
        one.push(stranger(&cluster, [127, 0, 0, 1], "h2").await);
    }
    served(&cluster, &mut session, "beside-one").await;
    let ended = closed(&mut one).await;
    assert!(ended >= FROM_ONE - 64, "{ended} of {FROM_ONE} were closed");

    let mut many = Vec::new();
    for source in 0..SOURCES {
        for _ in 0..FROM_EACH {
            many.push(stranger(&cluster, [127, 0, 1, source], "http/1.1").await);
        }
    }
    served(&cluster, &mut session, "beside-many").await;
    let ended = closed(&mut many).await;
    assert!(
        many.len() - ended <= 512,
        "{ended} of {} were closed",
        many.len()
    );

    // What is left goes by itself.
    let deadline = Instant::now() + BORNE;
    while closed(&mut one).await + closed(&mut many).await < one.len() + many.len() {
        assert!(Instant::now() < deadline, "silent connections stay open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A joined machine still gets in with a new connection.
    drop(session);
    cluster.connect("node-1", &node).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_begin_no_handshake_shut_nobody_out() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;

    // From the address that kubectl and the node have: it crowds out its own oldest, and kubectl's are the newest.
    let start = Instant::now();
    let mut one = Vec::new();
    for _ in 0..HANDSHAKES_FROM_ONE + BEYOND {
        one.push(silent(&cluster, [127, 0, 0, 1]).await);
    }
    served(&cluster, &mut session, "beside-one").await;
    let open = one.len() - closed(&mut one).await;
    assert!(open <= HANDSHAKES_FROM_ONE, "{open} are open");
    // Those that have a place keep it for the time of a handshake.
    if start.elapsed() < HANDSHAKE_BORNE {
        assert!(open >= HANDSHAKES_FROM_ONE - BEYOND, "{open} are open");
    }
    drop(one);

    let mut many = Vec::new();
    for source in 0..4 {
        for _ in 0..(HANDSHAKES_FROM_ALL + BEYOND) / 4 {
            many.push(silent(&cluster, [127, 0, 3, source]).await);
        }
    }
    served(&cluster, &mut session, "beside-many").await;
    let open = many.len() - closed(&mut many).await;
    assert!(open <= HANDSHAKES_FROM_ALL, "{open} are open");

    // What is left goes by itself.
    let deadline = Instant::now() + BORNE;
    while closed(&mut many).await < many.len() {
        assert!(Instant::now() < deadline, "silent connections stay open");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop(session);
    cluster.connect("node-1", &node).await;
    cluster.stop().await;
}

/// A message that begins and never ends.
struct HalfSent(Option<Bytes>);

impl Body for HalfSent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

/// The head of a gRPC message of `length` bytes, and its first bytes.
fn message_of(length: u32) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([10, 200, 1]);
    bytes.into()
}

fn join<B>(body: B) -> Request<B> {
    Request::builder()
        .method(Method::POST)
        .uri("https://localhost/knarr.feed.v1.Enrollment/Join")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joins_that_are_half_sent_or_too_large_are_answered_soon() {
    let cluster = Cluster::start().await;
    let mut calls = tokio::task::JoinSet::new();
    for (index, length) in [(0, 1_000), (1, 4_000_000), (2, 1_000), (3, u32::MAX)] {
        let stream = stranger(&cluster, [127, 0, 2, index], "h2").await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        // More than one connection may have at once: the last ones wait at the client.
        for _ in 0..6 {
            let call = sender.send_request(join(HalfSent(Some(message_of(length)))));
            calls.spawn(async move { (length, call.await) });
        }
    }
    let deadline = Instant::now() + BORNE;
    while let Some(ended) = calls.join_next().await {
        assert!(Instant::now() < deadline, "a half-sent Join stays open");
        let (length, response) = ended.unwrap();
        let response = response.unwrap();
        // A refusal without a body has its code in the head.
        let head = response.headers().get("grpc-status").cloned();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected
            .trailers()
            .and_then(|t| t.get("grpc-status").cloned());
        let code = head.or(trailers).unwrap();
        let expected = match length {
            1_000 => tonic::Code::DeadlineExceeded,
            _ => tonic::Code::OutOfRange,
        };
        assert_eq!(
            tonic::Code::from_bytes(code.as_bytes()),
            expected,
            "{length}"
        );
    }
    let token = cluster.token(json!({})).await;
    cluster.join("node-1", &token).await.unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_ends_its_connection_and_no_other() {
    let cluster = Cluster::start().await;
    let token = cluster.token(json!({})).await;
    let node = cluster.join("node-1", &token).await.unwrap();
    let mut session = cluster.connect("node-1", &node).await;
    session.snapshot().await;
    for path in ["/version", "/api/v1/pods", "/knarr.feed.v1.Enrollment/Join"] {
        let stream = stranger(&cluster, [127, 0, 0, 1], "h2").await;
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let mut connection = tokio::spawn(connection);
        let mut opened = 0;
        // Ends where the server ends the connection.
        while sender.ready().await.is_ok() {
            let request = Request::post(format!("https://localhost{path}"))
                .header("content-type", "application/grpc")
                .body(HalfSent(Some(message_of(1_000))))
                .unwrap();
            // Time to be sent, and not to be answered: then the client resets the stream.
            let call = sender.send_request(request);
            let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
            opened += 1;
            assert!(opened < 5_000, "{path}: the connection goes on");
        }
        let ended = tokio::time::timeout(BORNE, &mut connection).await;
        assert!(ended.is_ok(), "{path}: the connection stays open");
    }
    served(&cluster, &mut session, "after-resets").await;
    cluster.stop().await;
}
