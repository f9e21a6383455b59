// SPDX-License-Identifier: Apache-2.0
//! One connection to a shim: bytes in, requests out, and back.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::protocol::{FRAME_BYTES_MAX, Reply, Request, decode, encode};

/// What a slow reader may leave unread. A watcher that is so far behind is dropped and connects again.
const UNSENT_BYTES_MAX: usize = 4 << 20;

/// A connection.
pub(super) struct Client {
    pub id: u64,
    pub stream: UnixStream,
    pub watching: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    closed: bool,
}

impl Client {
    pub fn new(id: u64, stream: UnixStream) -> io::Result<Client> {
        stream.set_nonblocking(true)?;
        Ok(Client {
            id,
            stream,
            watching: false,
            input: Vec::new(),
            output: Vec::new(),
            closed: false,
        })
    }

    /// Whether it can be forgotten.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether it waits for the socket to take more.
    pub fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what is there and returns complete requests.
    pub fn read(&mut self) -> Vec<Request> {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(n) => self
                    .input
                    .extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
            if self.input.len() > FRAME_BYTES_MAX + 4 {
                break;
            }
        }
        let mut requests = Vec::new();
        loop {
            match decode(&mut self.input) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        self.input.shrink_to(1024);
        requests
    }

    /// Queues an answer.
    pub fn send(&mut self, reply: &Reply) {
        match encode(reply) {
            Ok(frame) if self.output.len() + frame.len() <= UNSENT_BYTES_MAX => {
                self.output.extend(frame);
            }
            _ => self.closed = true,
        }
        self.flush();
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => {
                    self.output.drain(..n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
        }
        self.output.shrink_to(1024);
    }
}
