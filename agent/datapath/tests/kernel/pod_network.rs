// SPDX-License-Identifier: Apache-2.0
//! Pod networks and routes.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_datapath::{Changed, NetworkChanges, NodeRoute, PodNetwork, Strangers};

use crate::lab::{Lab, ask_tcp, inside, run};

#[test]
fn pods_reach_each_other_across_nodes_with_their_own_addresses() -> Result<()> {
    let mut lab = Lab::new()?;
    let a = lab.pod(1, 2)?;
    let b = lab.pod(1, 3)?;
    let c = lab.pod(2, 2)?;
    for to in [b, c] {
        let answer = inside(lab.one.pod(a), || ask_tcp((to, 8080)))?;
        ensure!(answer.server == to);
        ensure!(
            answer.peer.ip() == a,
            "the source stays the pod's: {answer:?}"
        );
    }
    let answer = inside(&lab.one.netns, || ask_tcp((c, 8080)))?;
    ensure!(answer.peer.ip() == lab.one.ip);
    Ok(())
}

#[test]
fn addresses_that_nobody_has_are_unreachable_at_once() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    for to in [Ipv4Addr::new(10, 96, 7, 7), Ipv4Addr::new(10, 244, 77, 7)] {
        for netns in [lab.one.pod(pod), &lab.one.netns] {
            let (error, took) = inside(netns, || {
                let started = Instant::now();
                let error =
                    TcpStream::connect_timeout(&SocketAddr::from((to, 80)), Duration::from_secs(2))
                        .err()
                        .context("nobody answered")?;
                Ok((error, started.elapsed()))
            })?;
            ensure!(
                error.kind() == std::io::ErrorKind::HostUnreachable,
                "{error}"
            );
            ensure!(took < Duration::from_secs(1), "{took:?}");
        }
    }
    Ok(())
}

#[test]
fn networks_are_listed_repeated_and_removed_with_nothing_left() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    let known = lab
        .one
        .with_network(async |network| Ok(network.pod_networks().await?))?;
    ensure!(known.len() == 1 && known[0].pod_ip == pod, "{known:?}");
    let file = std::fs::File::open(format!("/run/netns/{}", lab.one.pod(pod)))?;
    let network = known[0].clone();
    lab.one.with_network(async |handle| {
        handle.pod_network_add(file.as_fd(), &network).await?;
        Ok(())
    })?;
    let answer = inside(&lab.one.netns, || ask_tcp((pod, 8080)))?;
    ensure!(answer.server == pod);
    lab.one.with_network(async |handle| {
        handle.pod_network_remove(&network.host_ifname).await?;
        handle.pod_network_remove(&network.host_ifname).await?;
        Ok(())
    })?;
    let known = lab
        .one
        .with_network(async |network| Ok(network.pod_networks().await?))?;
    ensure!(known.is_empty(), "{known:?}");
    let routes = run(&["ip", "-n", &lab.one.netns, "route"])?;
    ensure!(!routes.contains(&pod.to_string()), "{routes}");
    Ok(())
}

/// The kernel holds up whoever asks for a removal; everything else on the runtime's threads goes on.
#[test]
fn a_removal_holds_up_nobody_else() -> Result<()> {
    /// Polls that a task gets while another one only hands the thread on are a handful.
    const TURNS_MIN: usize = 100;
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    let turns = lab.one.with_network(async |network| {
        let known = network.pod_networks().await?;
        let mut removal = std::pin::pin!(network.pod_network_remove(&known[0].host_ifname));
        let mut turns = 0;
        loop {
            // The removal stays where it is when the other arm wins.
            tokio::select! {
                biased;
                removed = &mut removal => {
                    removed?;
                    break;
                }
                () = tokio::task::yield_now() => turns += 1,
            }
        }
        ensure!(network.pod_networks().await?.is_empty());
        Ok(turns)
    })?;
    ensure!(
        turns > TURNS_MIN,
        "only {turns} turns while the network of {pod} was removed"
    );
    Ok(())
}

#[test]
fn lists_that_are_asked_for_at_the_same_time_all_come() -> Result<()> {
    const LISTS: usize = 16;
    let mut lab = Lab::new()?;
    lab.pod(1, 2)?;
    let counts = lab.one.with_network(async |network| {
        let lists = (0..LISTS).map(|_| async {
            network.sync_routes(&[], Strangers::Remove).await?;
            Ok::<usize, anyhow::Error>(network.pod_networks().await?.len())
        });
        futures::future::try_join_all(lists).await
    })?;
    ensure!(counts == [1; LISTS], "{counts:?}");
    Ok(())
}

#[test]
fn a_veth_left_by_a_pod_that_died_is_replaced() -> Result<()> {
    let mut lab = Lab::new()?;
    let pod = lab.pod(1, 2)?;
    lab.servers.clear();
    let fresh = format!("{}x", lab.one.pod(pod));
    run(&["ip", "netns", "add", &fresh])?;
    let file = std::fs::File::open(format!("/run/netns/{fresh}"))?;
    let network = PodNetwork {
        host_ifname: PodNetwork::host_ifname(&format!("{:012x}", u32::from(pod))),
        pod_ip: pod,
    };
    let added = lab.one.with_network(async |handle| {
        handle.pod_network_add(file.as_fd(), &network).await?;
        Ok(handle.pod_networks().await?)
    });
    let seen = run(&["ip", "-n", &fresh, "-brief", "address", "show", "eth0"]);
    run(&["ip", "netns", "del", &fresh])?;
    ensure!(added?.len() == 1);
    ensure!(seen?.contains(&pod.to_string()));
    Ok(())
}

#[test]
fn routes_to_other_nodes_are_exactly_those_asked_for() -> Result<()> {
    let lab = Lab::bare()?;
    let route = |pods: &str, via: [u8; 4]| -> Result<NodeRoute> {
        Ok(NodeRoute {
            pod_cidr: pods.parse()?,
            via: via.into(),
        })
    };
    let wanted = [
        route("10.244.2.0/24", [198, 18, 0, 9])?,
        route("10.244.3.0/24", [198, 18, 0, 2])?,
    ];
    lab.one.with_network(async |network| {
        network.sync_routes(&wanted, Strangers::Remove).await?;
        Ok(())
    })?;
    let routes = run(&["ip", "-n", &lab.one.netns, "route"])?;
    ensure!(routes.contains("10.244.2.0/24 via 198.18.0.9"), "{routes}");
    ensure!(routes.contains("10.244.3.0/24 via 198.18.0.2"), "{routes}");
    ensure!(!routes.contains("10.244.2.0/24 via 198.18.0.2"), "{routes}");
    lab.one.with_network(async |network| {
        network.sync_routes(&[], Strangers::Keep).await?;
        Ok(())
    })?;
    let kept = run(&["ip", "-n", &lab.one.netns, "route"])?;
    ensure!(kept == routes, "{kept}");
    lab.one.with_network(async |network| {
        network.sync_routes(&[], Strangers::Remove).await?;
        Ok(())
    })?;
    let routes = run(&["ip", "-n", &lab.one.netns, "route"])?;
    ensure!(!routes.contains(" via "), "{routes}");
    ensure!(routes.contains("unreachable 10.244.0.0/16"), "{routes}");
    Ok(())
}

#[test]
fn the_kernel_tells_of_addresses_of_links_that_are_no_pods_and_of_our_routes() -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut lab = Lab::new()?;
    let netns = lab.one.netns.clone();
    run(&[
        "ip",
        "-n",
        &netns,
        "route",
        "add",
        "unreachable",
        "10.99.0.0/16",
        "proto",
        "107",
    ])?;
    let told = lab.one.with_network(async |_| {
        let mut changes = NetworkChanges::open()?;
        let mut told = Vec::new();
        for command in [
            "address add 198.18.0.200/24 dev eth0",
            "address del 198.18.0.200/24 dev eth0",
            "link set eth0 down",
            "link set eth0 up",
            // As systemd-networkd does when it starts.
            "route del unreachable 10.99.0.0/16",
        ] {
            let words: Vec<&str> = ["ip", "-n", &netns]
                .into_iter()
                .chain(command.split(' '))
                .collect();
            run(&words)?;
            let changed = tokio::time::timeout(LIMIT, changes.next()).await;
            let changed = changed.with_context(|| format!("nothing was told of {command}"))?;
            told.push(changed.context("the socket is open")?);
            // A link that comes up is told of several times.
            while tokio::time::timeout(Duration::from_millis(200), changes.next())
                .await
                .is_ok()
            {}
        }
        Ok(told)
    })?;
    let addresses = |changed: &Changed| changed.addresses;
    ensure!(told[..2].iter().all(addresses), "{told:?}");
    ensure!(told[2..].iter().all(|changed| changed.links), "{told:?}");

    let quiet = lab.one.with_network(async |network| {
        let mut changes = NetworkChanges::open()?;
        let fresh = format!("{netns}x");
        run(&["ip", "netns", "add", &fresh])?;
        let pod = PodNetwork {
            host_ifname: PodNetwork::host_ifname("0123456789ab"),
            pod_ip: "10.244.1.77".parse()?,
        };
        let file = std::fs::File::open(format!("/run/netns/{fresh}"))?;
        let added = network.pod_network_add(file.as_fd(), &pod).await;
        let told = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
        network.pod_network_remove(&pod.host_ifname).await?;
        run(&["ip", "netns", "delete", &fresh])?;
        added?;
        Ok(told.is_err())
    })?;
    ensure!(quiet, "a pod's veth is nothing to look at");
    lab.pod(1, 2)?;
    Ok(())
}
