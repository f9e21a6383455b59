// SPDX-License-Identifier: Apache-2.0
//! Elements of maps that are given from key to key while the programs read them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use knarr_datapath::{MapContents, MapOp};
use knarr_services::{DesiredService, ServiceName, ServiceProtocol};

use crate::lab::{Lab, ask_udp, endpoint, inside, service};

const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 96, 0, 10), Ipv4Addr::new(10, 96, 0, 11)];
/// How long sockets connect while elements change.
const TIME: Duration = Duration::from_secs(3);
/// How often each element is replaced in one call. The kernel gives the element that one replacement frees to the next.
const TURNS: usize = 64;

/// The two Services, each with one backend of its own.
fn two_services(lab: &mut Lab, affinity_seconds: u32) -> Result<[Ipv4Addr; 2]> {
    let pods = [lab.pod(1, 2)?, lab.pod(1, 3)?];
    for (number, (vip, pod)) in VIPS.iter().zip(pods).enumerate() {
        let name = ServiceName::new("default", format!("recycled-{number}"));
        let mut wanted = DesiredService {
            name: name.clone(),
            cluster_ips: vec![IpAddr::V4(*vip)],
            affinity_seconds,
            ..service(ServiceProtocol::Udp)
        };
        wanted.ports[0].node_port = None;
        let mut backend = endpoint(pod);
        backend.service = name;
        lab.both(|table| {
            table.set_service(wanted.clone());
            table.set_endpoint(backend.clone());
        })?;
    }
    Ok(pods)
}

/// Writes what is there again, the two Services in turn: nothing changes but the elements.
fn rewrite(contents: &MapContents) -> Vec<MapOp> {
    let backends = contents
        .backends
        .iter()
        .map(|(id, entry)| MapOp::SetBackend {
            id: *id,
            entry: *entry,
        });
    let slots = contents
        .slots
        .iter()
        .map(|(set, generation, _, backend)| MapOp::SetSlots {
            set: *set,
            generation: *generation,
            backends: vec![*backend],
        });
    let services = contents
        .services
        .iter()
        .map(|(key, entry)| MapOp::SetService {
            key: *key,
            entry: *entry,
        });
    let again = |ops: Vec<MapOp>| std::iter::repeat_n(ops, TURNS).flatten();
    again(backends.collect())
        .chain(again(slots.collect()))
        .chain(again(services.collect()))
        .collect()
}

fn connects_reach_their_own_service(affinity_seconds: u32) -> Result<()> {
    let mut lab = Lab::new()?;
    let pods = two_services(&mut lab, affinity_seconds)?;
    let mut datapath = lab.one.datapath.take().context("it is open")?;
    let ops = rewrite(&datapath.restore()?);
    ensure!(ops.len() == TURNS * 6, "{ops:?}");
    let stop = AtomicBool::new(false);
    let (asked, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<usize> {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                datapath.apply(&ops)?;
                written += ops.len();
            }
            Ok(written)
        });
        let asked = inside(lab.one.pod(pods[0]), || {
            let end = Instant::now() + TIME;
            let mut asked = 0;
            while Instant::now() < end {
                for (vip, pod) in VIPS.iter().zip(pods) {
                    let answer = ask_udp(SocketAddr::from((*vip, 80)))
                        .with_context(|| format!("{vip} after {asked} connects"))?;
                    ensure!(
                        answer.server == pod,
                        "{vip} led to {} after {asked} connects",
                        answer.server
                    );
                    asked += 1;
                }
            }
            Ok(asked)
        });
        stop.store(true, Ordering::Relaxed);
        let written = writer.join().expect("the writer ends");
        Ok::<_, anyhow::Error>((asked?, written?))
    })?;
    println!(
        "{asked} connects beside {written} replaced elements; read again: {:?}",
        datapath
            .stats()?
            .iter()
            .find(|(name, _)| *name == "element_moved")
    );
    let errors = ["slot_missing", "backend_missing"];
    for (name, times) in datapath.stats()? {
        ensure!(times == 0 || !errors.contains(&name), "{name}: {times}");
    }
    ensure!(asked > 100 && written > 1_000, "{asked} {written}");
    Ok(())
}

#[test]
fn every_connect_reaches_its_own_service_while_elements_change_hands() -> Result<()> {
    connects_reach_their_own_service(0)
}

#[test]
fn affinity_too_reaches_its_own_service_while_elements_change_hands() -> Result<()> {
    connects_reach_their_own_service(60)
}
