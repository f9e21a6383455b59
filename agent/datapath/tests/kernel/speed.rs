// SPDX-License-Identifier: Apache-2.0
//! What one change costs among many Services, counted in operations. Times are printed and not judged: they are the
//! benches' business.

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use knarr_datapath::MapSizes;
use knarr_services::{
    DesiredEndpoint, DesiredPort, DesiredService, ServiceName, ServiceProtocol, TrafficPolicy,
};

use crate::lab::{Lab, ask_tcp, endpoint, inside, service, vip};

const SERVICES: u32 = 50_000;
const ENDPOINTS: u32 = 3;

fn name(number: u32) -> ServiceName {
    ServiceName::new("default", format!("s{number}"))
}

fn many(number: u32) -> DesiredService {
    DesiredService {
        name: name(number),
        cluster_ips: vec![IpAddr::V4(Ipv4Addr::from(0x0a61_0000 + number))],
        ports: vec![DesiredPort {
            name: String::new(),
            protocol: ServiceProtocol::Tcp,
            port: 80,
            node_port: None,
        }],
        affinity_seconds: 0,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

fn one_of(number: u32, place: u32) -> DesiredEndpoint {
    DesiredEndpoint {
        service: name(number),
        ..endpoint(Ipv4Addr::from(
            0x0af4_0300 + (number * ENDPOINTS + place) % 60_000,
        ))
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn one_change_among_fifty_thousand_services_writes_no_more_than_alone() -> Result<()> {
    let mut lab = Lab::bare()?;
    lab.one.sizes = MapSizes::default();
    lab.one.open()?;
    let pod = lab.pod(1, 2)?;
    lab.one.table.set_service(service(ServiceProtocol::Tcp));
    lab.one.table.set_endpoint(endpoint(pod));
    lab.one.sync()?;
    let change = |lab: &mut Lab| -> Result<(Duration, usize)> {
        let mut times = Vec::new();
        let mut writes = 0;
        for turn in 0..40 {
            let mut other = endpoint(Ipv4Addr::new(10, 244, 2, 9));
            other.ready = turn % 2 == 0;
            let started = Instant::now();
            lab.one.table.set_endpoint(other);
            writes += lab.one.sync()?;
            times.push(started.elapsed());
        }
        lab.one
            .table
            .remove_endpoint(&endpoint(Ipv4Addr::new(10, 244, 2, 9)).key());
        lab.one.sync()?;
        lab.one.later()?;
        Ok((median(times), writes))
    };
    let connects = |lab: &Lab| -> Result<(Duration, Duration)> {
        inside(&lab.one.netns, || {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let direct = listener.local_addr()?;
            let mut service = Vec::new();
            let mut other = Vec::new();
            for _ in 0..400 {
                let started = Instant::now();
                let stream = TcpStream::connect(vip())?;
                service.push(started.elapsed());
                drop(stream);
                let started = Instant::now();
                let stream = TcpStream::connect(direct)?;
                other.push(started.elapsed());
                drop(stream);
                listener.accept()?;
            }
            Ok((median(service), median(other)))
        })
    };
    let (change_before, ops_before) = change(&mut lab)?;
    let connects_before = connects(&lab)?;

    for number in 0..SERVICES {
        lab.one.table.set_service(many(number));
        for place in 0..ENDPOINTS {
            lab.one.table.set_endpoint(one_of(number, place));
        }
    }
    let started = Instant::now();
    let plan = lab.one.table.plan(Duration::from_secs(100));
    let planned = started.elapsed();
    lab.one.apply(&plan.ops)?;
    let programmed = started.elapsed();
    let (change_after, ops_after) = change(&mut lab)?;
    let connects_after = connects(&lab)?;
    let started = Instant::now();
    let contents = lab.one.datapath().restore()?;
    let restored = started.elapsed();
    println!(
        "{SERVICES} Services x {ENDPOINTS}: planned in {planned:?}, programmed in {programmed:?} in all, read back in {restored:?}\n\
         one change: {change_before:?} alone, {change_after:?} among them\n\
         connect to a Service: {:?} alone, {:?} among them; to no Service: {:?}, {:?}",
        connects_before.0, connects_after.0, connects_before.1, connects_after.1
    );
    ensure!(contents.services.len() as u32 == SERVICES + 3);
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    // How long it takes is printed, and measured by the bench; that a change does not grow with what is there
    // already is counted.
    ensure!(
        ops_after == ops_before,
        "{ops_before} writes became {ops_after}"
    );
    Ok(())
}
