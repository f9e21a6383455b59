// SPDX-License-Identifier: Apache-2.0
//! The little HTTP that a bench needs. `kubectl proxy` does the TLS, on a unix socket, so that neither a library nor
//! the start of a kubectl for each request is in the figures.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::{kube, paths};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// A running `kubectl proxy`; ends with this value.
pub struct Proxy {
    child: Child,
    socket: PathBuf,
}

impl Proxy {
    /// Starts it and waits until it takes connections.
    pub fn start() -> anyhow::Result<Self> {
        let socket = paths::up().join("proxy.sock");
        let _ = std::fs::remove_file(&socket);
        let child = kube::kubectl()
            .arg("proxy")
            .arg(format!("--unix-socket={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start kubectl proxy")?;
        let proxy = Self { child, socket };
        let end = Instant::now() + LIMIT;
        while let Err(error) = UnixStream::connect(&proxy.socket) {
            if Instant::now() >= end {
                return Err(error).context("kubectl proxy does not take connections");
            }
            thread::sleep(POLL);
        }
        Ok(proxy)
    }

    /// A connection that is kept.
    pub fn connect(&self) -> anyhow::Result<Connection> {
        let stream = UnixStream::connect(&self.socket).context("cannot reach kubectl proxy")?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Connection {
            reader: BufReader::new(stream),
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It is ours, and there is nothing that it could lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// One HTTP/1.1 connection.
pub struct Connection {
    reader: BufReader<UnixStream>,
}

impl Connection {
    /// Sends a request and reads the whole answer. An answer that is not 2xx is an error.
    pub fn request(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let chunked = self.send(method, path, body)?;
        let mut answer = String::new();
        match chunked {
            Length::Known(length) => {
                let mut bytes = vec![0; length];
                self.reader.read_exact(&mut bytes)?;
                answer.push_str(&String::from_utf8_lossy(&bytes));
            }
            Length::Chunked => {
                while let Some(chunk) = self.chunk()? {
                    answer.push_str(&chunk);
                }
            }
        }
        Ok(answer)
    }

    /// Starts a watch; its events are read from what it returns.
    pub fn watch(mut self, path: &str) -> anyhow::Result<Watch> {
        self.send("GET", path, "")?;
        Ok(Watch {
            connection: self,
            rest: String::new(),
        })
    }

    fn send(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Length> {
        let length = body.len();
        write!(
            self.reader.get_mut(),
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let status = self.line()?;
        let mut answer = Length::Known(0);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                answer = Length::Known(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                answer = Length::Chunked;
            }
        }
        if !status
            .split_whitespace()
            .nth(1)
            .is_some_and(|code| code.starts_with('2'))
        {
            bail!("{method} {path}: {status}");
        }
        Ok(answer)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            bail!("kubectl proxy closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }

    fn chunk(&mut self) -> anyhow::Result<Option<String>> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)
            .context("a chunk without a size")?;
        let mut bytes = vec![0; size + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(size);
        Ok((size > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

enum Length {
    Known(usize),
    Chunked,
}

/// The events of a watch.
pub struct Watch {
    connection: Connection,
    rest: String,
}

impl Watch {
    /// The next event; waits for it.
    pub fn event(&mut self) -> anyhow::Result<serde_json::Value> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let event =
                    serde_json::from_str(line).with_context(|| format!("no event: {line}"))?;
                self.rest = rest.to_owned();
                return Ok(event);
            }
            match self.connection.chunk()? {
                Some(chunk) => self.rest.push_str(&chunk),
                None => bail!("the watch ended"),
            }
        }
    }
}
