// SPDX-License-Identifier: Apache-2.0
//! A connection that is upgraded by a handler, over the server's own kind of connection.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use http::Request;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::super::respond;
use super::*;
use crate::codec::Format;

/// Repeats what it is sent, as exec repeats what a program writes.
async fn echo(State(shutdown): State<CancellationToken>, request: Request<Body>) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = Upgrade::take(&mut parts);
    let answer = upgrade.accept("echo", shutdown, |connection| async move {
        let (mut from, mut to) = tokio::io::split(connection);
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    answer.unwrap_or_else(|error| respond::status(Format::Json, &error))
}

/// A client's end of a connection to that handler.
fn connect(shutdown: CancellationToken) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 10);
    let router = Router::new().fallback(echo).with_state(shutdown);
    tokio::spawn(async move {
        let builder = auto::Builder::new(TokioExecutor::new());
        let service = TowerToHyperService::new(router);
        let served = builder.serve_connection_with_upgrades(TokioIo::new(server), service);
        served.await.unwrap();
    });
    client
}

/// Sends a request's head and reads the answer's.
async fn ask(client: &mut DuplexStream, headers: &str) -> String {
    let head = format!("GET /x HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_handler_speaks_another_protocol_on_the_connection_of_its_request() {
    let mut client = connect(CancellationToken::new());
    let answer = ask(
        &mut client,
        "Connection: Upgrade\r\nUpgrade: other, ECHO\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.to_lowercase().contains("upgrade: echo"), "{answer}");
    for text in [&b"hello"[..], b"\x00\xffbinary"] {
        client.write_all(text).await.unwrap();
        let mut back = vec![0; text.len()];
        client.read_exact(&mut back).await.unwrap();
        assert_eq!(back, text);
    }
    // Half-closed: the handler sees the end of what it reads, and ends.
    client.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_asks_for_another_protocol_or_none_is_refused() {
    for headers in ["", "Connection: Upgrade\r\nUpgrade: other\r\n"] {
        let mut client = connect(CancellationToken::new());
        let answer = ask(&mut client, headers).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_that_left_http_ends_at_shutdown() {
    let shutdown = CancellationToken::new();
    let mut client = connect(shutdown.clone());
    ask(&mut client, "Connection: Upgrade\r\nUpgrade: echo\r\n").await;
    shutdown.cancel();
    let mut byte = [0];
    let end = tokio::time::timeout(Duration::from_secs(20), client.read(&mut byte));
    assert_eq!(end.await.unwrap().unwrap(), 0);
}
