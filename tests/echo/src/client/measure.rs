// SPDX-License-Identifier: Apache-2.0
//! Clients for the benches: a bounded number of connects or round trips, and the time of each in one line.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::timeout;
use crate::args::Args;

/// More than this in one call is no longer interleaved with the other variants.
const COUNT_MAX: usize = 100_000;

fn count(args: &Args) -> Result<usize, String> {
    Ok(args.value("count", 1000_usize)?.min(COUNT_MAX))
}

/// Prints the sorted figures' middle and ends, in microseconds.
fn print(mut nanos: Vec<u64>) {
    nanos.sort_unstable();
    let at = |part: f64| {
        nanos
            .get(((nanos.len() - 1) as f64 * part) as usize)
            .map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    };
    let mean = nanos.iter().sum::<u64>() as f64 / nanos.len() as f64 / 1000.0;
    println!(
        "count {} mean {mean:.3} p10 {:.3} p50 {:.3} p90 {:.3} p99 {:.3}",
        nanos.len(),
        at(0.1),
        at(0.5),
        at(0.9),
        at(0.99)
    );
}

/// Times `connect()` alone. The server closes first (`knarr-echo sink`), so the client's port is not held.
pub fn connects(args: &Args, target: SocketAddr) -> Result<(), String> {
    let limit = timeout(args)?;
    let mut nanos = Vec::new();
    for _ in 0..count(args)? {
        let started = Instant::now();
        let mut stream = TcpStream::connect(target).map_err(|error| format!("connect: {error}"))?;
        nanos.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        stream
            .set_read_timeout(Some(limit))
            .map_err(|error| format!("socket: {error}"))?;
        let mut byte = [0];
        // The end of the stream, or its reset, is what is waited for.
        let _ = stream.read(&mut byte);
    }
    print(nanos);
    Ok(())
}

/// Times one-byte round trips on one connection to a TCP echo.
pub fn roundtrips(args: &Args, target: SocketAddr) -> Result<(), String> {
    let mut stream = super::connect(target, timeout(args)?)?;
    let mut byte = [0];
    loop {
        stream
            .read_exact(&mut byte)
            .map_err(|error| format!("read: {error}"))?;
        if byte == *b"\n" {
            break;
        }
    }
    let mut nanos = Vec::new();
    for _ in 0..count(args)? {
        let started = Instant::now();
        stream
            .write_all(b"x")
            .map_err(|error| format!("write: {error}"))?;
        stream
            .read_exact(&mut byte)
            .map_err(|error| format!("read: {error}"))?;
        nanos.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    print(nanos);
    Ok(())
}
