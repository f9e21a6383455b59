// SPDX-License-Identifier: Apache-2.0
//! Clients outside that call a NodePort and its backend directly, from the same source ports.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_services::{ServiceName, ServiceProtocol};
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use crate::lab::{Answer, CLIENT_IP, Lab, NODE_PORT, PATIENCE, endpoint, inside, run, service};

const SECOND_NODE_PORT: u16 = NODE_PORT + 1;
const BACKEND_PORT: u16 = 8_080;
/// A SYN is sent again after one second, and after two more. A backend in TIME_WAIT may refuse the first one, whose
/// timestamps are of another connection.
const CONNECT_MAX_S: i64 = 8;

/// How a client ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It closes after the server has.
    Fin,
    /// It resets.
    Reset,
}

/// Connects from a fixed address and port within a time.
fn connect_from(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), seconds_max: i64) -> Result<TcpStream> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds_max, 0))?;
    let address = |(ip, port)| SockaddrIn::from(SocketAddrV4::new(ip, port));
    bind(fd.as_raw_fd(), &address(from))?;
    connect(fd.as_raw_fd(), &address(to)).with_context(|| format!("from {from:?} to {to:?}"))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks from a fixed address and port, and ends that way.
fn ask_from(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), end: End) -> Result<Answer> {
    let mut stream = connect_from(from, to, CONNECT_MAX_S)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (server, peer) = text.split_once(' ').context("no answer")?;
    if let End::Reset = end {
        let at_once = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, sockopt::Linger, &at_once)?;
    }
    Ok(Answer {
        server: server.parse()?,
        peer: peer.parse()?,
    })
}

/// A pod behind two NodePorts. The client has a route to it.
fn lab_with(protocol: ServiceProtocol, node: u8) -> Result<(Lab, Ipv4Addr)> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(node, 2)?;
    let mut second = service(protocol);
    second.name = ServiceName::new("default", "second");
    second.cluster_ips = Vec::new();
    second.ports[0].node_port = Some(SECOND_NODE_PORT);
    let mut behind = endpoint(pod);
    behind.service = second.name.clone();
    lab.both(|table| {
        table.set_service(service(protocol));
        table.set_endpoint(endpoint(pod));
        table.set_service(second.clone());
        table.set_endpoint(behind.clone());
    })?;
    let (pods, via) = (format!("10.244.{node}.0/24"), format!("198.18.0.{node}"));
    run(&["ip", "-n", &lab.client, "route", "add", &pods, "via", &via])?;
    Ok((lab, pod))
}

#[test]
fn a_direct_connection_from_the_port_of_a_finished_flow_is_its_own() -> Result<()> {
    let (lab, pod) = lab_with(ServiceProtocol::Tcp, 1)?;
    let (one, two) = ((lab.one.ip, NODE_PORT), (lab.one.ip, SECOND_NODE_PORT));
    let direct = (pod, BACKEND_PORT);
    lab.outside(|| {
        for (port, end) in [(44_000, End::Fin), (44_001, End::Reset)] {
            for (turn, to) in [one, direct, two, direct, one, two, direct]
                .into_iter()
                .enumerate()
            {
                let answer = ask_from((CLIENT_IP, port), to, end)
                    .with_context(|| format!("{end:?}, turn {turn}"))?;
                ensure!(answer.server == pod, "{answer:?}");
                ensure!(answer.peer.ip() == CLIENT_IP, "{answer:?}");
            }
        }
        Ok(())
    })?;
    ensure!(lab.one.stat("flow_superseded")? > 0);
    Ok(())
}

#[test]
fn direct_calls_beside_a_poll_of_the_node_port_never_hang() -> Result<()> {
    /// So few that every direct call gets one that the poll has used.
    const PORTS: &str = "45000 45015";
    const TIME: Duration = Duration::from_secs(5);
    let (lab, pod) = lab_with(ServiceProtocol::Tcp, 1)?;
    let range = format!("echo {PORTS} > /proc/sys/net/ipv4/ip_local_port_range");
    run(&["ip", "netns", "exec", &lab.client, "sh", "-c", &range])?;
    let (polled, direct) = ((lab.one.ip, NODE_PORT), (pod, BACKEND_PORT));
    // Resets leave no TIME_WAIT at the backend, which may refuse the first SYN of another connection.
    let ask = |to| ask_from((CLIENT_IP, 0), to, End::Reset);
    let stop = AtomicBool::new(false);
    let client = lab.client.clone();
    let (polls, calls) = lab.outside(|| {
        std::thread::scope(|scope| {
            let poll = scope.spawn(|| {
                inside(&client, || {
                    let mut polls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        ask(polled).context("a poll")?;
                        polls += 1;
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    Ok(polls)
                })
            });
            let end = Instant::now() + TIME;
            let mut calls = 0;
            let mut called = Ok(());
            while called.is_ok() && Instant::now() < end {
                called = ask(direct).map(drop).context("a direct call");
                calls += 1;
            }
            stop.store(true, Ordering::Relaxed);
            let polls = poll.join().expect("the poll ends")?;
            called?;
            Ok((polls, calls))
        })
    })?;
    println!("{calls} direct calls beside {polls} polls");
    ensure!(polls > 5 && calls > 5, "{polls} {calls}");
    Ok(())
}

#[test]
fn datagrams_are_answered_from_where_they_were_sent_last() -> Result<()> {
    let (lab, pod) = lab_with(ServiceProtocol::Udp, 1)?;
    let one = SocketAddr::from((lab.one.ip, NODE_PORT));
    let direct = SocketAddr::from((pod, BACKEND_PORT));
    lab.outside(|| {
        let socket = UdpSocket::bind((CLIENT_IP, 44_100))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        for to in [one, direct, direct, one, one, direct] {
            socket.send_to(b"who?", to)?;
            let (_, from) = socket.recv_from(&mut [0_u8; 100])?;
            ensure!(from == to, "{to} was asked and {from} answered");
        }
        Ok(())
    })
}

#[test]
fn the_node_may_use_the_source_port_of_a_finished_flow_that_it_sent_on() -> Result<()> {
    let (lab, pod) = lab_with(ServiceProtocol::Tcp, 2)?;
    let node = lab.one.ip;
    for port in 44_200..44_203 {
        let seen = lab.outside(|| ask_from((CLIENT_IP, port), (node, NODE_PORT), End::Fin))?;
        ensure!(seen.peer.ip() == node, "{seen:?}");
        let own = (node, seen.peer.port());
        let answer = inside(&lab.one.netns, || {
            ask_from(own, (pod, BACKEND_PORT), End::Fin)
        })?;
        ensure!(answer.peer == own.into(), "{answer:?}");
        // And the client's own port serves it again.
        lab.outside(|| ask_from((CLIENT_IP, port), (node, NODE_PORT), End::Fin))?;
    }
    Ok(())
}

#[test]
fn an_established_flow_outlives_a_direct_attempt_from_its_port() -> Result<()> {
    let (mut lab, pod) = lab_with(ServiceProtocol::Tcp, 1)?;
    let echo = 8_081;
    let mut other = endpoint(pod);
    other.port = echo;
    lab.both(|table| {
        table.remove_endpoint(&endpoint(pod).key());
        table.set_endpoint(other.clone());
    })?;
    let server = crate::flows::echo_once(lab.one.pod(pod), echo)?;
    let (node, client) = (lab.one.ip, (CLIENT_IP, 44_300));
    lab.outside(|| {
        let mut kept = connect_from(client, (node, NODE_PORT), CONNECT_MAX_S)?;
        crate::flows::says(&mut kept, 1)?;
        ensure!(
            connect_from(client, (pod, echo), 2).is_err(),
            "the backend cannot tell the two apart"
        );
        crate::flows::says(&mut kept, 2)
    })?;
    server.join().expect("the server ends")
}
