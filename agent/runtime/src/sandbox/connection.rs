// SPDX-License-Identifier: Apache-2.0
//! Talking to a shim: one connection for each request, one that stays for what changes.

use std::io;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::protocol::{Reply, Request, ShimConfig, encode, frame_len};
use crate::tree;

/// Connects by way of the directory's descriptor: paths of sockets end after 108 bytes.
pub(super) async fn connect(run_dir: &Path) -> io::Result<UnixStream> {
    let dir = tree::open_dir(run_dir)?;
    let path = tree::fd_path(&dir).join(ShimConfig::socket_name());
    UnixStream::connect(path).await
}

/// Asks and waits for the answer.
pub(super) async fn ask(run_dir: &Path, request: &Request) -> io::Result<Reply> {
    let mut stream = connect(run_dir).await?;
    send(&mut stream, request).await?;
    receive(&mut stream).await
}

/// Sends one request.
pub(super) async fn send(stream: &mut UnixStream, request: &Request) -> io::Result<()> {
    stream.write_all(&encode(request)?).await
}

/// Receives one answer.
pub(super) async fn receive(stream: &mut UnixStream) -> io::Result<Reply> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let mut body = vec![0; frame_len(head)?];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
