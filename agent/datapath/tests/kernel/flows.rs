// SPDX-License-Identifier: Apache-2.0
//! How long flows from outside live, and what becomes of them when programs are replaced.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use knarr_services::ServiceProtocol;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

use crate::lab::{Lab, NODE_PORT, PATIENCE, endpoint, inside, run, service};

/// Source ports that a node has for flows to other nodes in these tests.
const PORTS: u64 = 8;

/// Two nodes; the first has only [`PORTS`] source ports, because its own connections may use all others.
fn lab_with_few_ports() -> Result<Lab> {
    let mut lab = Lab::bare()?;
    let own = format!("1024 {}", u64::from(u16::MAX) - 1 - PORTS);
    run(&[
        "ip",
        "netns",
        "exec",
        &lab.one.netns,
        "sh",
        "-c",
        &format!("echo {own} > /proc/sys/net/ipv4/ip_local_port_range"),
    ])?;
    lab.one.open()?;
    lab.two.open()?;
    Ok(lab)
}

/// Sends a SYN and loses interest: nobody waits for the answer.
fn knock(to: (Ipv4Addr, u16)) -> Result<()> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(to.0, to.1));
    match connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address) {
        Err(Errno::EINPROGRESS) => Ok(()),
        other => Ok(other?),
    }
}

#[test]
fn connections_that_were_never_established_do_not_keep_their_ports() -> Result<()> {
    let mut lab = lab_with_few_ports()?;
    // An endpoint that never answers.
    let silent = endpoint(Ipv4Addr::new(10, 244, 2, 77));
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        table.set_endpoint(silent.clone());
    })?;
    let to = (lab.one.ip, NODE_PORT);
    lab.outside(|| (0..PORTS).try_for_each(|_| knock(to)))?;
    ensure!(lab.one.stat("snat_ports_exhausted")? == 0);
    lab.outside(|| knock(to))?;
    // A packet on its way is handled when the kernel gets to it.
    let end = Instant::now() + PATIENCE;
    while lab.one.stat("snat_ports_exhausted")? == 0 {
        ensure!(Instant::now() < end, "there were only {PORTS}");
        thread::sleep(Duration::from_millis(10));
    }
    // Longer than a half-open flow is waited for where ports are short.
    thread::sleep(Duration::from_secs(6));
    lab.outside(|| (0..PORTS).try_for_each(|_| knock(to)))?;
    ensure!(
        lab.one.stat("snat_ports_exhausted")? == 1,
        "the old ones kept their ports"
    );
    Ok(())
}

/// A server in a pod that sends back every byte of one connection.
pub fn echo_once(netns: &str, port: u16) -> Result<thread::JoinHandle<Result<()>>> {
    let listener = inside(netns, || Ok(TcpListener::bind(("0.0.0.0", port))?))?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut writer = stream.try_clone()?;
        std::io::copy(&mut stream, &mut writer)?;
        Ok(())
    }))
}

pub fn says(stream: &mut TcpStream, byte: u8) -> Result<()> {
    stream.write_all(&[byte])?;
    let mut back = [0_u8];
    stream.read_exact(&mut back)?;
    ensure!(back == [byte]);
    Ok(())
}

#[test]
fn established_connections_keep_their_ports_however_short_ports_are() -> Result<()> {
    let mut lab = lab_with_few_ports()?;
    let pod = lab.pod(2, 2)?;
    let mut echo = endpoint(pod);
    echo.port = 8_081;
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        table.set_endpoint(echo.clone());
    })?;
    let server = echo_once(lab.two.pod(pod), 8_081)?;
    let to = (lab.one.ip, NODE_PORT);
    let mut kept = lab.outside(|| {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?;
    says(&mut kept, 1)?;
    // Silent for longer than a half-open flow may be, while others knock.
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        lab.outside(|| (0..2 * PORTS).try_for_each(|_| knock(to)))?;
        thread::sleep(Duration::from_millis(200));
    }
    ensure!(
        lab.one.stat("snat_ports_exhausted")? > 0,
        "ports were never short"
    );
    says(&mut kept, 2)?;
    drop(kept);
    server.join().expect("the server ends")
}

#[test]
fn programs_that_mark_endpoints_take_over_the_flows_of_programs_that_did_not() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    let mut echo = endpoint(pod);
    echo.port = 8_081;
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        table.set_endpoint(echo.clone());
    })?;
    let server = echo_once(lab.one.pod(pod), 8_081)?;
    let to = (lab.one.ip, NODE_PORT);
    let mut kept = lab.outside(|| {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(to), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })?;
    says(&mut kept, 1)?;
    // Pins as an earlier version left them: flows, and no marks.
    lab.one.datapath = None;
    let marks = knarr_datapath::pins::pin_root(&lab.one.bpf_root).join("maps/MARKS");
    std::fs::remove_file(&marks)?;
    lab.one.open()?;
    says(&mut kept, 2)?;
    drop(kept);
    server.join().expect("the server ends")
}
