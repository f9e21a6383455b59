// SPDX-License-Identifier: Apache-2.0
//! ClusterIP and NodePort by `connect()` on the node and in its pods.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use knarr_services::ServiceProtocol;

use crate::lab::{Lab, NODE_PORT, PATIENCE, VIP, ask_tcp, ask_udp, endpoint, inside, service, vip};

fn web(protocol: ServiceProtocol) -> Result<(Lab, Vec<Ipv4Addr>)> {
    let mut lab = Lab::new()?;
    let pods = vec![lab.pod(1, 2)?, lab.pod(1, 3)?, lab.pod(2, 2)?];
    lab.both(|table| {
        table.set_service(service(protocol));
        for pod in [(1, 2), (1, 3), (2, 2)] {
            table.set_endpoint(endpoint(Ipv4Addr::new(10, 244, pod.0, pod.1)));
        }
    })?;
    Ok((lab, pods))
}

fn counts(answers: impl Iterator<Item = Ipv4Addr>) -> BTreeMap<Ipv4Addr, u32> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_insert(0) += 1;
    }
    counts
}

#[test]
fn a_pod_and_the_node_reach_a_service_evenly_spread() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Tcp)?;
    for netns in [lab.one.netns.as_str(), lab.one.pod(pods[0])] {
        let answers = inside(netns, || {
            (0..60)
                .map(|_| ask_tcp(vip()).map(|answer| answer.server))
                .collect::<Result<Vec<_>>>()
        })?;
        let counts = counts(answers.into_iter());
        ensure!(counts.len() == 3, "{netns}: {counts:?}");
        // Each CPU takes turns by itself; what is left over is at most one connect for each CPU.
        let most = counts.values().max().copied().unwrap_or(0);
        let least = counts.values().min().copied().unwrap_or(0);
        let cpus = std::thread::available_parallelism()?.get() as u32;
        ensure!(most - least <= cpus, "{netns}: {counts:?}");
    }
    Ok(())
}

#[test]
fn the_application_keeps_seeing_the_service_as_its_peer() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Tcp)?;
    inside(lab.one.pod(pods[1]), || {
        let stream = TcpStream::connect_timeout(&vip(), PATIENCE)?;
        ensure!(stream.peer_addr()? == vip(), "{}", stream.peer_addr()?);
        let direct = SocketAddr::from((pods[0], 8080));
        let stream = TcpStream::connect_timeout(&direct, PATIENCE)?;
        ensure!(stream.peer_addr()? == direct, "{}", stream.peer_addr()?);
        Ok(())
    })
}

#[test]
fn a_v4_mapped_connect_of_an_ipv6_socket_is_translated_too() -> Result<()> {
    let (lab, _) = web(ServiceProtocol::Tcp)?;
    inside(&lab.one.netns, || {
        let to = SocketAddr::from((VIP.to_ipv6_mapped(), 80));
        ask_tcp(to)?;
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        ensure!(stream.peer_addr()? == to, "{}", stream.peer_addr()?);
        Ok(())
    })
}

#[test]
fn connected_udp_reaches_a_service_and_forgets_it_when_it_connects_elsewhere() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Udp)?;
    inside(lab.one.pod(pods[0]), || {
        let answers = (0..30)
            .map(|_| ask_udp(vip()).map(|answer| answer.server))
            .collect::<Result<Vec<_>>>()?;
        ensure!(counts(answers.into_iter()).len() == 3);
        // Three turns, so that the Service's answer is once the very pod that is called directly.
        for pod in pods.iter().cycle().take(9) {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(vip())?;
            ensure!(socket.peer_addr()? == vip());
            let direct = SocketAddr::from((*pod, 8080));
            socket.connect(direct)?;
            ensure!(socket.peer_addr()? == direct, "{}", socket.peer_addr()?);
            socket.connect(vip())?;
            ensure!(socket.peer_addr()? == vip());
        }
        Ok(())
    })
}

/// How many sockets the programs remember.
fn remembered(lab: &Lab) -> Result<u32> {
    let inspector = lab.one.datapath.as_ref().expect("it is open").inspector();
    let usage = inspector.usage()?;
    let (_, entries, _) = usage
        .into_iter()
        .find(|(name, ..)| *name == "SOCKETS")
        .expect("the map has a name");
    Ok(entries)
}

#[test]
fn the_end_of_a_socket_ends_what_is_remembered_of_it() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Udp)?;
    let sockets = inside(&lab.one.netns, || {
        let mut sockets = Vec::new();
        for _ in 0..10 {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect(vip())?;
            sockets.push(socket);
            let mapped = UdpSocket::bind(("::", 0))?;
            mapped.connect((VIP.to_ipv6_mapped(), 80))?;
            sockets.push(mapped);
        }
        Ok(sockets)
    })?;
    ensure!(remembered(&lab)? == 20, "{}", remembered(&lab)?);
    // Some have another peer by then.
    for socket in sockets.iter().step_by(4) {
        socket.connect((pods[0], 8081))?;
    }
    drop(sockets);
    ensure!(remembered(&lab)? == 0, "{}", remembered(&lab)?);
    Ok(())
}

#[test]
fn a_service_of_the_other_protocol_is_not_translated() -> Result<()> {
    let (lab, _) = web(ServiceProtocol::Udp)?;
    inside(&lab.one.netns, || {
        ensure!(ask_tcp(vip()).is_err(), "TCP reached a UDP Service");
        Ok(())
    })
}

#[test]
fn a_service_without_backends_refuses_at_once() -> Result<()> {
    let mut lab = Lab::new()?;
    lab.both(|table| table.set_service(service(ServiceProtocol::Tcp)))?;
    let nodes = inside(&lab.one.netns, || {
        let started = std::time::Instant::now();
        let error = TcpStream::connect(vip()).err();
        Ok((error, started.elapsed()))
    })?;
    let (error, took) = nodes;
    let error = error.expect("nothing serves this Service");
    ensure!(
        error.raw_os_error() == Some(libc_econnrefused()),
        "{error:?}"
    );
    ensure!(took < Duration::from_secs(1), "{took:?}");
    Ok(())
}

fn libc_econnrefused() -> i32 {
    nix::errno::Errno::ECONNREFUSED as i32
}

#[test]
fn a_node_port_is_reached_on_the_nodes_addresses_and_on_loopback_by_the_node_only() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Tcp)?;
    let node = SocketAddr::from((lab.one.ip, NODE_PORT));
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, NODE_PORT));
    inside(&lab.one.netns, || {
        ask_tcp(node)?;
        ask_tcp(loopback)?;
        Ok(())
    })?;
    inside(lab.one.pod(pods[0]), || {
        ask_tcp(node)?;
        ensure!(
            ask_tcp(loopback).is_err(),
            "a pod's own loopback is not the node's"
        );
        Ok(())
    })
}

#[test]
fn a_pod_reaches_the_node_port_of_another_node() -> Result<()> {
    let (lab, pods) = web(ServiceProtocol::Tcp)?;
    let node = SocketAddr::from((lab.two.ip, NODE_PORT));
    inside(lab.one.pod(pods[0]), || {
        for _ in 0..20 {
            ask_tcp(node)?;
        }
        Ok(())
    })
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        table.set_endpoint(endpoint(pod));
    })?;
    let answer = inside(lab.one.pod(pod), || ask_tcp(vip()))?;
    ensure!(answer.server == pod);
    Ok(())
}

#[test]
fn changing_backends_under_load_fails_no_connect() -> Result<()> {
    let (mut lab, pods) = web(ServiceProtocol::Tcp)?;
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let client = lab.one.pod(pods[1]).to_owned();
    let one = &mut lab.one;
    std::thread::scope(|scope| -> Result<()> {
        let load = scope.spawn(|| {
            inside(&client, || {
                while !stop.load(Ordering::Relaxed) {
                    ask_tcp(vip())?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        for turn in 0..300 {
            let pod = endpoint(pods[turn % 3]);
            one.table.remove_endpoint(&pod.key());
            one.sync()?;
            one.table.set_endpoint(pod);
            one.sync()?;
            if turn % 10 == 0 {
                one.later()?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load thread ends")
    })?;
    let done = done.load(Ordering::Relaxed);
    ensure!(done > 50, "only {done} connects in 600 changes");
    ensure!(lab.one.stat("slot_missing")? == 0);
    ensure!(lab.one.stat("backend_missing")? == 0);
    Ok(())
}

#[test]
fn terminating_backends_serve_only_when_no_other_is_left() -> Result<()> {
    let (mut lab, pods) = web(ServiceProtocol::Tcp)?;
    let terminating = |ip| {
        let mut endpoint = endpoint(ip);
        endpoint.ready = false;
        endpoint.terminating = true;
        endpoint
    };
    lab.one.table.set_endpoint(terminating(pods[0]));
    lab.one.sync()?;
    let ask = |lab: &Lab| {
        inside(&lab.one.netns, || {
            (0..12)
                .map(|_| ask_tcp(vip()).map(|answer| answer.server))
                .collect::<Result<Vec<_>>>()
        })
    };
    ensure!(!ask(&lab)?.contains(&pods[0]));
    for pod in &pods[1..] {
        lab.one.table.remove_endpoint(&endpoint(*pod).key());
    }
    lab.one.sync()?;
    ensure!(ask(&lab)?.iter().all(|server| *server == pods[0]));
    lab.one.table.remove_endpoint(&endpoint(pods[0]).key());
    lab.one.sync()?;
    ensure!(ask(&lab).is_err());
    Ok(())
}
