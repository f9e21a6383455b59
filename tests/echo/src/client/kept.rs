// SPDX-License-Identifier: Apache-2.0
//! Clients that keep one socket: what must survive the end of an agent or a control plane.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::{Until, connect, report, timeout};
use crate::args::Args;

/// Large enough for an answer with a pod's name.
const ANSWER_BYTES_MAX: usize = 2048;

fn every_tick(
    args: &Args,
    mut one: impl FnMut(u64) -> Result<String, String>,
) -> Result<(), String> {
    let until = Until::new(args)?;
    let tick = Duration::from_millis(args.value("every", 20_u64)?);
    let (mut total, mut failed) = (0_u64, 0_u64);
    while !until.reached() {
        let started = Instant::now();
        let outcome = one(total);
        total += 1;
        failed += u64::from(outcome.is_err());
        report(started, outcome);
        thread::sleep(tick.saturating_sub(started.elapsed()));
    }
    println!("total {total} failed {failed}");
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} of {total} round trips failed"))
    }
}

/// One TCP connection to the TCP echo; the server says its name first.
pub fn tcp(args: &Args, target: SocketAddr) -> Result<(), String> {
    let mut stream = BufReader::new(connect(target, timeout(args)?)?);
    let mut name = String::new();
    stream
        .read_line(&mut name)
        .map_err(|error| format!("read: {error}"))?;
    let peer = stream
        .get_ref()
        .peer_addr()
        .map_err(|error| format!("peer: {error}"))?;
    println!("peer {peer}");
    every_tick(args, |number| {
        writeln!(stream.get_mut(), "{number}").map_err(|error| format!("write: {error}"))?;
        let mut answer = String::new();
        stream
            .read_line(&mut answer)
            .map_err(|error| format!("read: {error}"))?;
        if answer.trim() == number.to_string() {
            Ok(name.trim().to_owned())
        } else {
            Err(format!("wrong answer {answer}"))
        }
    })
}

/// One connected UDP socket to the UDP echo.
pub fn udp(args: &Args, target: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|error| format!("bind: {error}"))?;
    socket
        .connect(target)
        .map_err(|error| format!("connect: {error}"))?;
    socket
        .set_read_timeout(Some(timeout(args)?))
        .map_err(|error| format!("socket: {error}"))?;
    let peer = socket
        .peer_addr()
        .map_err(|error| format!("peer: {error}"))?;
    println!("peer {peer}");
    every_tick(args, |number| {
        socket
            .send(number.to_string().as_bytes())
            .map_err(|error| format!("send: {error}"))?;
        let mut buffer = [0; ANSWER_BYTES_MAX];
        let length = socket
            .recv(&mut buffer)
            .map_err(|error| format!("receive: {error}"))?;
        let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
        match answer.split_once(' ') {
            Some((who, echoed)) if echoed == number.to_string() => Ok(who.to_owned()),
            _ => Err(format!("wrong answer {answer}")),
        }
    })
}
