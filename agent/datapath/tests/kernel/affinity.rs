// SPDX-License-Identifier: Apache-2.0
//! `sessionAffinity: ClientIP` in the socket path and from outside.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use knarr_services::ServiceProtocol;

use crate::lab::{Lab, NODE_PORT, ask_tcp, endpoint, inside, service, vip};

/// Long enough that twenty connects fit into it, short enough to wait for.
const TIMEOUT: u32 = 2;

fn sticky() -> Result<(Lab, Vec<Ipv4Addr>)> {
    let mut lab = Lab::new()?;
    let pods = vec![
        lab.pod(1, 2)?,
        lab.pod(1, 3)?,
        lab.pod(1, 4)?,
        lab.pod(2, 2)?,
        lab.pod(2, 3)?,
    ];
    let mut sticky = service(ServiceProtocol::Tcp);
    sticky.affinity_seconds = TIMEOUT;
    lab.both(|table| {
        table.set_service(sticky.clone());
        for pod in &pods {
            table.set_endpoint(endpoint(*pod));
        }
    })?;
    Ok((lab, pods))
}

fn ask(netns: &str, to: SocketAddr, times: usize) -> Result<Ipv4Addr> {
    inside(netns, || repeat(to, times))
}

fn ask_outside(lab: &Lab, to: SocketAddr, times: usize) -> Result<Ipv4Addr> {
    lab.outside(|| repeat(to, times))
}

fn repeat(to: SocketAddr, times: usize) -> Result<Ipv4Addr> {
    let first = ask_tcp(to)?.server;
    for _ in 1..times {
        let again = ask_tcp(to)?.server;
        ensure!(again == first, "{first} became {again}");
    }
    Ok(first)
}

#[test]
fn one_client_keeps_one_pod_on_every_path() -> Result<()> {
    let (lab, pods) = sticky()?;
    let mut chosen = Vec::new();
    for pod in &pods[..3] {
        let netns = lab.one.pod(*pod);
        let by_vip = ask(netns, vip(), 10)?;
        let by_own_node = ask(netns, (lab.one.ip, NODE_PORT).into(), 10)?;
        let by_other_node = ask(netns, (lab.two.ip, NODE_PORT).into(), 10)?;
        ensure!(by_vip == by_own_node && by_vip == by_other_node);
        chosen.push(by_vip);
    }
    // Each pod of a node is a client of its own; with five backends three clients rarely agree, and
    // the choice by hash is the same in every run.
    ensure!(chosen.iter().any(|pod| *pod != chosen[0]), "{chosen:?}");
    let from_node = ask(&lab.one.netns, vip(), 10)?;
    ensure!(from_node == ask(&lab.one.netns, (lab.two.ip, NODE_PORT).into(), 10)?);
    let outside = ask_outside(&lab, (lab.one.ip, NODE_PORT).into(), 10)?;
    ensure!(outside == ask_outside(&lab, (lab.two.ip, NODE_PORT).into(), 10)?);
    Ok(())
}

#[test]
fn affinity_outlives_new_backends() -> Result<()> {
    let (mut lab, _) = sticky()?;
    // Without its own memory the client would move: the set changes until its hash leads elsewhere.
    let to = SocketAddr::from((lab.one.ip, NODE_PORT));
    let first = ask_outside(&lab, to, 3)?;
    for host in 10..20 {
        let pod = lab.pod(2, host)?;
        // Making the pod may have taken longer than the timeout: the time counts from here.
        let before = ask_outside(&lab, to, 1)?;
        lab.both(|table| table.set_endpoint(endpoint(pod)))?;
        ensure!(
            ask_outside(&lab, to, 1)? == before,
            "a new backend took the client of {first}"
        );
    }
    Ok(())
}

/// As upstream's conformance has it ("session affinity timeout work"): requests, a wait of the timeout, another pod.
#[test]
fn after_the_timeout_a_client_gets_another_pod_and_keeps_that() -> Result<()> {
    const ROUNDS: usize = 5;
    let (lab, pods) = sticky()?;
    let netns = lab.one.pod(pods[0]);
    let node_port = SocketAddr::from((lab.one.ip, NODE_PORT));
    let mut seen = vec![(ask(netns, vip(), 3)?, ask_outside(&lab, node_port, 3)?)];
    for _ in 0..ROUNDS {
        std::thread::sleep(Duration::from_millis(u64::from(TIMEOUT) * 1_000 + 100));
        let (inside, outside) = (ask(netns, vip(), 3)?, ask_outside(&lab, node_port, 3)?);
        let before = seen.last().context("it begins with one")?;
        ensure!(inside != before.0, "{inside} again for a pod: {seen:?}");
        ensure!(
            outside != before.1,
            "{outside} again from outside: {seen:?}"
        );
        seen.push((inside, outside));
    }
    // A choice of four, five times: the chance that it is the same two pods all the time is one in 256.
    for pods in [
        seen.iter().map(|pair| pair.0).collect::<HashSet<_>>(),
        seen.iter().map(|pair| pair.1).collect(),
    ] {
        ensure!(pods.len() > 2, "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_client_whose_pod_is_gone_gets_another_at_once() -> Result<()> {
    let (mut lab, pods) = sticky()?;
    let netns = lab.one.pod(pods[0]).to_owned();
    let first = ask(&netns, vip(), 3)?;
    lab.both(|table| table.remove_endpoint(&endpoint(first).key()))?;
    let second = ask(&netns, vip(), 3)?;
    ensure!(second != first);
    // The pod comes back: the client stays where it is now.
    lab.both(|table| table.set_endpoint(endpoint(first)))?;
    ensure!(ask(&netns, vip(), 3)? == second);
    Ok(())
}

#[test]
fn a_purge_takes_what_leads_to_backends_that_are_gone_and_nothing_else() -> Result<()> {
    let (mut lab, pods) = sticky()?;
    for pod in &pods[..3] {
        ask(lab.one.pod(*pod), vip(), 1)?;
    }
    let to = SocketAddr::from((lab.one.ip, NODE_PORT));
    ask_outside(&lab, to, 4)?;
    // Neither the reading nor the purge needs the datapath itself, which others write through meanwhile.
    let reader = lab.one.datapath().inspector();
    let (clients, flows) = (reader.affinities()?, reader.flows()?);
    ensure!(
        clients.len() == 4 && flows.len() >= 4,
        "{clients:?} {flows:?}"
    );
    let usage = reader.usage()?;
    for (map, entries) in [("AFFINITY", clients.len()), ("FLOWS", flows.len())] {
        ensure!(
            usage
                .iter()
                .any(|(name, used, _)| *name == map && *used as usize == entries),
            "{map}: {usage:?}"
        );
    }
    let outside = flows[0].backend_id;
    reader.purge_backends(&HashSet::from([outside]))?;
    let left: Vec<_> = clients
        .iter()
        .filter(|(_, entry)| entry.backend != outside)
        .map(|(key, _)| *key)
        .collect();
    let mut after: Vec<_> = reader.affinities()?.iter().map(|(key, _)| *key).collect();
    let mut wanted = left.clone();
    after.sort_unstable();
    wanted.sort_unstable();
    ensure!(after == wanted && wanted.len() < clients.len());
    ensure!(reader.flows()?.is_empty(), "one client, one backend");
    Ok(())
}
