// SPDX-License-Identifier: Apache-2.0
//! NodePorts called from a host outside the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_datapath::TcHook;
use knarr_services::{DesiredPort, DesiredService, ServiceName, ServiceProtocol, TrafficPolicy};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

use crate::lab::{
    Answer, CLIENT_IP, Lab, NODE_PORT, PATIENCE, Server, ask_tcp, ask_udp, endpoint, inside, run,
    service,
};

fn lab_with(
    protocol: ServiceProtocol,
    hosts: &[(u8, u8)],
    hook: TcHook,
) -> Result<(Lab, Vec<Ipv4Addr>)> {
    let mut lab = Lab::bare()?;
    lab.one.hook = hook;
    lab.two.hook = hook;
    lab.one.open()?;
    lab.two.open()?;
    let pods = hosts
        .iter()
        .map(|(node, host)| lab.pod(*node, *host))
        .collect::<Result<Vec<_>>>()?;
    lab.both(|table| {
        table.set_service(service(protocol));
        for pod in &pods {
            table.set_endpoint(endpoint(*pod));
        }
    })?;
    Ok((lab, pods))
}

fn from_client<T: Send>(lab: &Lab, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    lab.outside(work)
}

fn node_port(lab: &Lab) -> SocketAddr {
    SocketAddr::from((lab.one.ip, NODE_PORT))
}

fn tcp_and_udp_reach(hosts: &[(u8, u8)], hook: TcHook) -> Result<Vec<Answer>> {
    let mut all = Vec::new();
    {
        let (lab, _) = lab_with(ServiceProtocol::Tcp, hosts, hook)?;
        let to = node_port(&lab);
        all.extend(from_client(&lab, || {
            (0..10).map(|_| ask_tcp(to)).collect::<Result<Vec<_>>>()
        })?);
    }
    let (lab, _) = lab_with(ServiceProtocol::Udp, hosts, hook)?;
    let to = node_port(&lab);
    all.extend(from_client(&lab, || {
        // The socket is connected, so an answer from any other address would be lost.
        (0..10).map(|_| ask_udp(to)).collect::<Result<Vec<_>>>()
    })?);
    Ok(all)
}

#[test]
fn a_backend_on_the_node_called_sees_the_clients_own_address() -> Result<()> {
    for answer in tcp_and_udp_reach(&[(1, 2)], TcHook::Auto)? {
        ensure!(answer.peer.ip() == IpAddr::V4(CLIENT_IP), "{answer:?}");
    }
    Ok(())
}

#[test]
fn a_backend_on_another_node_is_reached_through_the_node_called() -> Result<()> {
    for answer in tcp_and_udp_reach(&[(2, 2)], TcHook::Auto)? {
        ensure!(answer.server == Ipv4Addr::new(10, 244, 2, 2), "{answer:?}");
        ensure!(
            answer.peer.ip() == IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
            "replies have to come back through the node called: {answer:?}"
        );
    }
    Ok(())
}

#[test]
fn classic_tc_carries_the_same_traffic() -> Result<()> {
    tcp_and_udp_reach(&[(1, 2)], TcHook::Classic)?;
    tcp_and_udp_reach(&[(2, 2)], TcHook::Classic)?;
    Ok(())
}

/// Sends every UDP packet to port `port` that comes in over the uplink somewhere else, as an administrator's filter might.
fn filter_away(netns: &str, port: u16) -> Result<()> {
    let enter = ["ip", "netns", "exec", netns];
    let port = port.to_string();
    for words in [
        "ip link add elsewhere up type veth peer name nowhere",
        "tc qdisc replace dev eth0 clsact",
        &format!(
            "tc filter add dev eth0 ingress pref 100 protocol ip u32 match ip protocol 17 0xff \
             match ip dport {port} 0xffff action mirred egress redirect dev elsewhere"
        ),
    ] {
        let words: Vec<&str> = enter.into_iter().chain(words.split(' ')).collect();
        run(&words)?;
    }
    Ok(())
}

#[test]
fn what_is_not_about_a_service_is_left_to_the_filters_of_others() -> Result<()> {
    const OTHER_PORT: u16 = 9_999;
    for hook in [TcHook::Auto, TcHook::Classic] {
        let (lab, _) = lab_with(ServiceProtocol::Tcp, &[(1, 2)], hook)?;
        let _server = Server::start(&lab.one.netns, lab.one.ip, OTHER_PORT)?;
        let other = SocketAddr::from((lab.one.ip, OTHER_PORT));
        from_client(&lab, || ask_udp(other)).context("before there is a filter")?;

        filter_away(&lab.one.netns, OTHER_PORT)?;

        let answer = from_client(&lab, || Ok(ask_udp(other)))?;
        ensure!(
            answer.is_err(),
            "{hook:?}: the filter did not see it: {answer:?}"
        );
        from_client(&lab, || ask_tcp(node_port(&lab))).context("the Service, beside it")?;
    }
    Ok(())
}

#[test]
fn callers_from_outside_are_spread_over_all_backends() -> Result<()> {
    let (lab, pods) = lab_with(
        ServiceProtocol::Tcp,
        &[(1, 2), (1, 3), (2, 2)],
        TcHook::Auto,
    )?;
    let to = node_port(&lab);
    let mut counts: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
    for answer in from_client(&lab, || {
        (0..300).map(|_| ask_tcp(to)).collect::<Result<Vec<_>>>()
    })? {
        *counts.entry(answer.server).or_default() += 1;
    }
    for pod in pods {
        let share = counts.get(&pod).copied().unwrap_or(0);
        // A binomial share of 300 with p = 1/3: five standard deviations are 41.
        ensure!((59..=141).contains(&share), "{counts:?}");
    }
    Ok(())
}

/// Connects from a fixed port.
fn ask_from(port: u16, to: SocketAddrV4) -> Result<Answer> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&fd),
        &SockaddrIn::from(SocketAddrV4::new(CLIENT_IP, port)),
    )?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrIn::from(to))?;
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text)?;
    let (server, peer) = text.split_once(' ').context("no answer")?;
    // A reset instead of TIME_WAIT, so that the port can be used again at once.
    setsockopt(
        &stream,
        sockopt::Linger,
        &nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?;
    Ok(Answer {
        server: server.parse()?,
        peer: peer.parse()?,
    })
}

#[test]
fn any_node_picks_the_same_backend_for_a_flow() -> Result<()> {
    let (lab, _) = lab_with(
        ServiceProtocol::Tcp,
        &[(1, 2), (1, 3), (2, 2), (2, 3)],
        TcHook::Auto,
    )?;
    let (one, two) = (lab.one.ip, lab.two.ip);
    from_client(&lab, || {
        for port in 42_000..42_020 {
            let by_one = ask_from(port, SocketAddrV4::new(one, NODE_PORT))?;
            let by_two = ask_from(port, SocketAddrV4::new(two, NODE_PORT))?;
            ensure!(by_one.server == by_two.server, "{by_one:?} {by_two:?}");
        }
        Ok(())
    })
}

#[test]
fn one_source_port_used_for_two_services_with_one_backend_does_not_collide() -> Result<()> {
    for host in [(1, 2), (2, 2)] {
        let (mut lab, pods) = lab_with(ServiceProtocol::Tcp, &[host], TcHook::Auto)?;
        let second = DesiredService {
            name: ServiceName::new("default", "second"),
            cluster_ips: Vec::new(),
            ports: vec![DesiredPort {
                name: String::new(),
                protocol: ServiceProtocol::Tcp,
                port: 80,
                node_port: Some(NODE_PORT + 1),
            }],
            affinity_seconds: 0,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        };
        let mut behind = endpoint(pods[0]);
        behind.service = second.name.clone();
        lab.both(|table| {
            table.set_service(second.clone());
            table.set_endpoint(behind.clone());
        })?;
        let node = lab.one.ip;
        from_client(&lab, || {
            let open = |to: u16| -> Result<TcpStream> {
                let fd = socket(
                    AddressFamily::Inet,
                    SockType::Stream,
                    SockFlag::SOCK_CLOEXEC,
                    None,
                )?;
                setsockopt(&fd, sockopt::ReuseAddr, &true)?;
                let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
                bind(raw, &SockaddrIn::from(SocketAddrV4::new(CLIENT_IP, 43_000)))?;
                connect(raw, &SockaddrIn::from(SocketAddrV4::new(node, to)))?;
                Ok(TcpStream::from(fd))
            };
            let mut first = open(NODE_PORT)?;
            let mut second = open(NODE_PORT + 1)?;
            for stream in [&mut second, &mut first] {
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut text = String::new();
                std::io::Read::read_to_string(stream, &mut text)?;
                ensure!(text.starts_with(&pods[0].to_string()), "{text}");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_node_port_without_backends_resets_at_once() -> Result<()> {
    let (lab, _) = lab_with(ServiceProtocol::Tcp, &[], TcHook::Auto)?;
    // Even when a process of the node listens on the port: the Service owns it.
    let listener = inside(&lab.one.netns, || {
        Ok(std::net::TcpListener::bind(("0.0.0.0", NODE_PORT))?)
    })?;
    let to = node_port(&lab);
    let (error, took) = from_client(&lab, || {
        let started = Instant::now();
        let error = TcpStream::connect_timeout(&to, PATIENCE)
            .err()
            .context("a connect without backends succeeded")?;
        Ok((error, started.elapsed()))
    })?;
    drop(listener);
    ensure!(
        error.raw_os_error() == Some(Errno::ECONNREFUSED as i32),
        "{error}"
    );
    ensure!(took < Duration::from_secs(1), "{took:?}");
    ensure!(lab.one.stat("refused_no_backend")? > 0);
    Ok(())
}

#[test]
fn a_udp_node_port_without_backends_answers_with_an_icmp_error() -> Result<()> {
    let (lab, _) = lab_with(ServiceProtocol::Udp, &[], TcHook::Auto)?;
    let to = node_port(&lab);
    let error = from_client(&lab, || ask_udp(to))
        .err()
        .context("UDP without backends was answered")?;
    let refused = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::raw_os_error);
    ensure!(refused == Some(Errno::ECONNREFUSED as i32), "{error:?}");
    Ok(())
}

#[test]
fn a_closed_port_of_a_backend_shows_as_an_error_from_the_address_called() -> Result<()> {
    for host in [(1, 2), (2, 2)] {
        let (mut lab, pods) = lab_with(ServiceProtocol::Udp, &[host], TcHook::Auto)?;
        let mut closed = endpoint(pods[0]);
        closed.port = 9;
        lab.both(|table| {
            table.remove_endpoint(&endpoint(pods[0]).key());
            table.set_endpoint(closed.clone());
        })?;
        let to = node_port(&lab);
        let error = from_client(&lab, || ask_udp(to))
            .err()
            .context("a closed port answered")?;
        let refused = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::raw_os_error);
        ensure!(
            refused == Some(Errno::ECONNREFUSED as i32),
            "{host:?}: {error:?}"
        );
        ensure!(lab.one.stat("icmp_translated")? > 0);
    }
    Ok(())
}

#[test]
fn large_datagrams_cross_in_fragments_both_ways() -> Result<()> {
    for host in [(1, 2), (2, 2)] {
        let (lab, _) = lab_with(ServiceProtocol::Udp, &[host], TcHook::Auto)?;
        let to = node_port(&lab);
        from_client(&lab, || {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            let question: Vec<u8> = (0..6_000_u32).map(|byte| byte as u8).collect();
            socket.send(&question)?;
            let mut answer = vec![0_u8; 10_000];
            let len = socket.recv(&mut answer)?;
            ensure!(answer[..len] == question, "{len} bytes came back");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn policy_local_keeps_the_source_and_uses_only_backends_of_the_node() -> Result<()> {
    let (mut lab, pods) = lab_with(ServiceProtocol::Tcp, &[(1, 2), (2, 2)], TcHook::Auto)?;
    let mut local = service(ServiceProtocol::Tcp);
    local.external_policy = TrafficPolicy::Local;
    lab.both(|table| table.set_service(local.clone()))?;
    for (node, pod) in [(lab.one.ip, pods[0]), (lab.two.ip, pods[1])] {
        for _ in 0..10 {
            let answer = from_client(&lab, || ask_tcp((node, NODE_PORT)))?;
            ensure!(answer.server == pod, "{answer:?}");
            ensure!(answer.peer.ip() == IpAddr::V4(CLIENT_IP), "{answer:?}");
        }
    }
    // Node 2 has no backend left: packets are dropped, so that a load balancer in front sees it.
    lab.both(|table| table.remove_endpoint(&endpoint(pods[1]).key()))?;
    let two = lab.two.ip;
    let error = from_client(&lab, || {
        TcpStream::connect_timeout(&(two, NODE_PORT).into(), Duration::from_millis(400))
            .err()
            .context("a node without a local backend answered")
    })?;
    ensure!(error.kind() == std::io::ErrorKind::TimedOut, "{error}");
    // A pod of the cluster is not outside: it is served by the other node's backend.
    let answer = inside(lab.one.pod(pods[0]), || ask_tcp((two, NODE_PORT)))?;
    ensure!(answer.server == pods[0]);
    Ok(())
}

#[test]
fn udp_and_new_connections_leave_a_backend_that_is_gone() -> Result<()> {
    let (mut lab, pods) = lab_with(ServiceProtocol::Udp, &[(1, 2), (2, 2)], TcHook::Auto)?;
    let to = node_port(&lab);
    let ask = |socket: &UdpSocket| -> Result<Ipv4Addr> {
        socket.send(b"who?")?;
        let mut buffer = [0_u8; 100];
        let len = socket.recv(&mut buffer)?;
        let text = std::str::from_utf8(&buffer[..len])?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    };
    let socket = from_client(&lab, || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    let first = ask(&socket)?;
    ensure!(ask(&socket)? == first, "one flow keeps one backend");
    lab.both(|table| table.remove_endpoint(&endpoint(first).key()))?;
    let second = ask(&socket)?;
    ensure!(second != first && pods.contains(&second));
    ensure!(lab.one.stat("flow_reselected")? > 0);
    Ok(())
}

#[test]
fn a_flow_survives_the_loss_of_either_half_of_its_record() -> Result<()> {
    let (mut lab, _) = lab_with(ServiceProtocol::Udp, &[(2, 2)], TcHook::Auto)?;
    let to = node_port(&lab);
    let socket = from_client(&lab, || {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        Ok(socket)
    })?;
    let ask = || -> Result<String> {
        socket.send(b"who?")?;
        let mut buffer = [0_u8; 100];
        let len = socket.recv(&mut buffer)?;
        Ok(std::str::from_utf8(&buffer[..len])?.to_owned())
    };
    let before = ask()?;
    for half in [
        knarr_datapath::inspect::Half::Client,
        knarr_datapath::inspect::Half::Backend,
    ] {
        let bpf_root = lab.one.bpf_root.clone();
        let removed = knarr_datapath::inspect::Inspector::open(&bpf_root)?.forget_flows(half)?;
        ensure!(removed > 0);
        ensure!(ask()? == before, "the backend sees another source");
    }
    ensure!(lab.one.stat("flow_rebuilt")? > 0);
    lab.one.later()
}

#[test]
fn an_address_that_the_node_gets_later_serves_until_it_goes() -> Result<()> {
    let (mut lab, pods) = lab_with(ServiceProtocol::Tcp, &[(1, 2)], TcHook::Auto)?;
    let [a, b, c, _] = lab.one.ip.octets();
    let later = Ipv4Addr::from([a, b, c, 200]);
    let to = SocketAddr::from((later, NODE_PORT));
    let reach = |lab: &Lab| from_client(lab, || ask_tcp(to));
    let address = format!("{later}/24");
    for (verb, reached) in [("add", true), ("del", false)] {
        let netns = lab.one.netns.clone();
        run(&["ip", "-n", &netns, "address", verb, &address, "dev", "eth0"])?;
        ensure!(
            verb == "del" || reach(&lab).is_err(),
            "the programs know an address that nobody told them"
        );
        let datapath = lab.one.datapath();
        inside(&netns, || Ok(datapath.refresh_node_addresses()?))?;
        match reach(&lab) {
            Ok(answer) => ensure!(reached && answer.server == pods[0], "{answer:?}"),
            Err(error) => ensure!(!reached, "{error:#}"),
        }
    }
    Ok(())
}

#[test]
fn bulk_data_crosses_intact_both_ways() -> Result<()> {
    const BYTES: usize = 8 << 20;
    for host in [(1, 2), (2, 2)] {
        let (mut lab, pods) = lab_with(ServiceProtocol::Tcp, &[host], TcHook::Auto)?;
        let mut echo = endpoint(pods[0]);
        echo.port = 8_081;
        lab.both(|table| {
            table.remove_endpoint(&endpoint(pods[0]).key());
            table.set_endpoint(echo.clone());
        })?;
        let netns = if host.0 == 1 {
            lab.one.pod(pods[0])
        } else {
            lab.two.pod(pods[0])
        };
        let listener = inside(netns, || {
            Ok(std::net::TcpListener::bind(("0.0.0.0", 8_081))?)
        })?;
        let server = std::thread::spawn(move || -> Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let mut writer = stream.try_clone()?;
            Ok(std::io::copy(&mut stream, &mut writer)?)
        });
        let to = node_port(&lab);
        from_client(&lab, || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut writer = stream.try_clone()?;
            let sent: Vec<u8> = (0..BYTES).map(|byte| ((byte * 31) >> 3) as u8).collect();
            let copy = sent.clone();
            let sender = std::thread::spawn(move || -> Result<()> {
                std::io::Write::write_all(&mut writer, &copy)?;
                writer.shutdown(std::net::Shutdown::Write)?;
                Ok(())
            });
            let mut back = Vec::with_capacity(BYTES);
            std::io::Read::read_to_end(&mut stream, &mut back)?;
            sender.join().expect("the sender ends")?;
            ensure!(back == sent, "{} bytes came back", back.len());
            Ok(())
        })?;
        ensure!(server.join().expect("the server ends")? == BYTES as u64);
    }
    Ok(())
}
