// SPDX-License-Identifier: Apache-2.0
//! Loads the datapath and fills it with Services, as the agent does, and says how long that took; or has the kernel
//! measure what the attached programs cost while a client connects. Run by `cargo xtask bench datapath` on a lab host;
//! what it pins stays when it has ended.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use knarr_datapath::costs::Meter;
use knarr_datapath::{Datapath, DatapathConfig, MapSizes, ProgramLog, TcHook};
use knarr_services::{
    DesiredEndpoint, DesiredPort, DesiredService, ServiceName, ServiceProtocol, ServiceTable,
    TrafficPolicy,
};

/// Where cgroup v2 may be mounted on a lab host.
const CGROUP_ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// Where a lab host's pins are.
const BPF_ROOT: &str = "/sys/fs/bpf";
/// The port of every Service.
const PORT: u16 = 80;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (list, object, node_ip, uplink) = match words.as_slice() {
        [word, count, target] if word == "cost" => return cost(count, target),
        [list, object, node_ip, uplink] => (list, object, node_ip, uplink),
        _ => bail!(
            "usage: knarr-bench-load LIST OBJECT NODE-IP UPLINK, or knarr-bench-load cost COUNT TARGET"
        ),
    };
    let node_ip: Ipv4Addr = node_ip.parse().context("the node's address")?;
    let (services, endpoints) = read(list, node_ip)?;
    let cgroup_root = CGROUP_ROOTS
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.join("cgroup.controllers").exists())
        .context("no cgroup v2 is mounted")?;
    let config = DatapathConfig {
        bpf_root: BPF_ROOT.into(),
        cgroup_root,
        uplinks: vec![uplink.clone()],
        node_ip,
        cluster_cidr: "10.244.0.0/16".parse().ok(),
        node_ports: (30_000, 32_767),
        sizes: MapSizes::default(),
        log: ProgramLog::Off,
        tc_hook: TcHook::Auto,
    };
    let object = std::fs::read(object).context("the kernel programs")?;
    let mut datapath = Datapath::open(&config, object).context("the datapath does not load")?;
    let mut table = ServiceTable::restore("node", &datapath.restore()?);

    let (count, started) = (services.len(), Instant::now());
    table.replace(services, endpoints);
    table.desired_complete();
    let plan = table.plan(Duration::ZERO);
    datapath
        .apply(&plan.ops)
        .context("the maps do not take it")?;
    println!("program_ms {:.3}", started.elapsed().as_secs_f64() * 1e3);
    println!("services {count} operations {}", plan.ops.len());
    if !plan.refusals.is_empty() {
        bail!(
            "{} refusals, the first: {:?}",
            plan.refusals.len(),
            plan.refusals.first()
        );
    }
    Ok(())
}

/// Has a client connect so many times, and prints runs and nanoseconds of each program that ran.
fn cost(count: &str, target: &str) -> anyhow::Result<()> {
    let meter = Meter::start()?;
    let before = meter.read(Path::new(BPF_ROOT))?;
    let client = Command::new("knarr-echo")
        .args(["client", "connects", target, "--count", count])
        .output()
        .context("the client does not start")?;
    if !client.status.success() {
        bail!("{}", String::from_utf8_lossy(&client.stderr));
    }
    for (name, after) in meter.read(Path::new(BPF_ROOT))? {
        let before = before.get(&name).copied().unwrap_or_default();
        let (runs, nanos) = (after.runs - before.runs, after.nanos - before.nanos);
        if runs > 0 {
            println!("cost {name} {runs} {nanos}");
        }
    }
    Ok(())
}

/// Lines `IP NODEPORT|0 ADDR:PORT...`.
fn read(
    list: &str,
    node_ip: Ipv4Addr,
) -> anyhow::Result<(Vec<DesiredService>, Vec<DesiredEndpoint>)> {
    let text = std::fs::read_to_string(list).with_context(|| format!("cannot read {list}"))?;
    let (mut services, mut endpoints) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let ip: Ipv4Addr = words.next().context("no address")?.parse()?;
        let node_port: u16 = words.next().context("no NodePort")?.parse()?;
        let name = ServiceName::new("bench", format!("svc-{number}"));
        for word in words {
            let endpoint: SocketAddrV4 = word.parse()?;
            endpoints.push(DesiredEndpoint {
                service: name.clone(),
                port_name: String::new(),
                address: IpAddr::V4(*endpoint.ip()),
                port: endpoint.port(),
                ready: true,
                serving: true,
                terminating: false,
                node_name: if *endpoint.ip() == node_ip {
                    "node"
                } else {
                    "other"
                }
                .to_owned(),
                pod: String::new(),
            });
        }
        services.push(DesiredService {
            name,
            cluster_ips: vec![IpAddr::V4(ip)],
            ports: vec![DesiredPort {
                name: String::new(),
                protocol: ServiceProtocol::Tcp,
                port: PORT,
                node_port: (node_port != 0).then_some(node_port),
            }],
            affinity_seconds: 0,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
        });
    }
    Ok((services, endpoints))
}
