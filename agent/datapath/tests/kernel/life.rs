// SPDX-License-Identifier: Apache-2.0
//! The datapath across the life of agents: pins, upgrades, restarts, full maps, log lines, explanations.

use std::net::Ipv4Addr;
use std::os::unix::fs::DirEntryExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use knarr_datapath::explain::{self, Caller};
use knarr_datapath::inspect::Inspector;
use knarr_datapath::names::{Names, NamesFile};
use knarr_datapath::{DatapathError, MapSizes, ProgramLog, TcHook, view};
use knarr_services::{ServiceProtocol, ServiceTable};
use parking_lot::Mutex;

use crate::lab::{Lab, NODE_PORT, ask_tcp, endpoint, inside, run, service, vip};

fn web(hosts: &[(u8, u8)]) -> Result<(Lab, Vec<Ipv4Addr>)> {
    let mut lab = Lab::new()?;
    let pods = hosts
        .iter()
        .map(|(node, host)| lab.pod(*node, *host))
        .collect::<Result<Vec<_>>>()?;
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        for pod in &pods {
            table.set_endpoint(endpoint(*pod));
        }
    })?;
    Ok((lab, pods))
}

/// Names and inodes of the pinned links: a link that is replaced in place keeps its pin.
fn pinned_links(lab: &Lab) -> Result<Vec<(String, u64)>> {
    let mut links = Vec::new();
    for entry in std::fs::read_dir(lab.one.bpf_root.join("knarr/v1/links"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        links.push((name, entry.ino()));
    }
    links.sort();
    Ok(links)
}

#[test]
fn everything_serves_on_while_no_agent_runs() -> Result<()> {
    let (mut lab, _) = web(&[(1, 2), (2, 2)])?;
    lab.one.datapath = None;
    lab.two.datapath = None;
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    let to = (lab.one.ip, NODE_PORT);
    for _ in 0..10 {
        lab.outside(|| ask_tcp(to))?;
    }
    Ok(())
}

#[test]
fn a_restarted_agent_finds_everything_as_it_left_it_and_writes_nothing() -> Result<()> {
    let (mut lab, pods) = web(&[(1, 2), (1, 3)])?;
    let before = lab.one.datapath().restore()?;
    lab.one.datapath = None;
    lab.one.open()?;
    ensure!(lab.one.datapath().restore()? == before);
    lab.one.table.replace(
        vec![service(ServiceProtocol::Tcp)],
        pods.iter().copied().map(endpoint).collect(),
    );
    let plan = lab.one.table.plan(std::time::Duration::ZERO);
    ensure!(plan.ops.is_empty(), "{:?}", plan.ops);
    Ok(())
}

/// Whether the kernel is 6.6 or newer.
fn has_tcx() -> Result<bool> {
    let release = run(&["uname", "--kernel-release"])?;
    let mut numbers = release.split(|sign: char| !sign.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse::<u32>().ok());
    let version = number().zip(number()).context("a kernel has a version")?;
    Ok(version >= (6, 6))
}

#[test]
fn an_upgrade_under_load_loses_no_connect_and_adds_no_second_program() -> Result<()> {
    for hook in [TcHook::Auto, TcHook::Classic] {
        let mut lab = Lab::bare()?;
        lab.one.hook = hook;
        lab.one.open()?;
        let pod = lab.pod(1, 2)?;
        lab.both(|table| {
            table.set_service(service(ServiceProtocol::Tcp));
            table.set_endpoint(endpoint(pod));
        })?;
        let pins = pinned_links(&lab)?;
        let stop = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        let netns = lab.one.netns.clone();
        std::thread::scope(|scope| -> Result<()> {
            let load = scope.spawn(|| {
                inside(&netns, || {
                    while !stop.load(Ordering::Relaxed) {
                        ask_tcp(vip())?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            });
            for _ in 0..5 {
                lab.one.datapath = None;
                lab.one.open()?;
            }
            stop.store(true, Ordering::Relaxed);
            load.join().expect("the load thread ends")
        })?;
        ensure!(done.load(Ordering::Relaxed) > 20);
        let to = (lab.one.ip, NODE_PORT);
        lab.outside(|| ask_tcp(to))?;
        ensure!(pinned_links(&lab)? == pins, "a link was made anew");
        let filters = run(&[
            "tc",
            "-n",
            &lab.one.netns,
            "filter",
            "show",
            "dev",
            "eth0",
            "ingress",
        ])?;
        let count = filters.matches(" name knarr_ingress ").count();
        // A kernel without TCX takes the classic way by itself; then the packet programs are filters, not links.
        let filters_wanted = match hook {
            TcHook::Auto if has_tcx()? => 0,
            TcHook::Auto | TcHook::Classic => 1,
        };
        // Five of socket programs; with TCX two of the uplink and one of the pod.
        let links_wanted = if filters_wanted == 0 { 8 } else { 5 };
        ensure!(
            pins.len() == links_wanted && count == filters_wanted,
            "{hook:?}: {pins:?} {filters}"
        );
    }
    Ok(())
}

#[test]
fn an_uplink_that_was_made_anew_is_attached_again() -> Result<()> {
    let (mut lab, _) = web(&[(1, 2)])?;
    lab.one.datapath = None;
    let netns = lab.one.netns.clone();
    // The link loses its index with a rename to another namespace and back.
    let away = lab.client.clone();
    run(&["ip", "-n", &netns, "link", "set", "eth0", "down"])?;
    run(&["ip", "-n", &netns, "link", "set", "eth0", "name", "moved"])?;
    run(&["ip", "-n", &netns, "link", "set", "moved", "netns", &away])?;
    run(&["ip", "-n", &away, "link", "set", "moved", "netns", &netns])?;
    run(&["ip", "-n", &netns, "link", "set", "moved", "name", "eth0"])?;
    run(&[
        "ip",
        "-n",
        &netns,
        "addr",
        "add",
        "198.18.0.1/24",
        "dev",
        "eth0",
    ])?;
    run(&["ip", "-n", &netns, "link", "set", "eth0", "up"])?;
    lab.one.open()?;
    let to = (lab.one.ip, NODE_PORT);
    lab.outside(|| ask_tcp(to))?;
    Ok(())
}

#[test]
fn a_full_map_is_reported_and_the_old_backends_serve_on() -> Result<()> {
    let mut lab = Lab::bare()?;
    lab.one.sizes.backends = 8;
    lab.one.open()?;
    let pod = lab.pod(1, 2)?;
    lab.one.table.set_service(service(ServiceProtocol::Tcp));
    lab.one.table.set_endpoint(endpoint(pod));
    lab.one.sync()?;
    for host in 10..30 {
        lab.one
            .table
            .set_endpoint(endpoint(Ipv4Addr::new(10, 244, 2, host)));
    }
    let error = lab
        .one
        .sync()
        .err()
        .context("twenty-one backends went into a map of eight")?;
    let full = error.downcast_ref::<DatapathError>();
    ensure!(
        matches!(
            full,
            Some(DatapathError::MapFull {
                map: "BACKENDS",
                max_entries: 8,
                ..
            })
        ),
        "{error:?}"
    );
    ensure!(error.to_string().contains("--bpf-backends"), "{error}");
    inside(&lab.one.netns, || {
        for _ in 0..10 {
            ensure!(ask_tcp(vip())?.server == pod);
        }
        Ok(())
    })?;
    // Once there is room again, what the maps really hold is brought to what is wanted.
    for host in 10..30 {
        lab.one
            .table
            .remove_endpoint(&endpoint(Ipv4Addr::new(10, 244, 2, host)).key());
    }
    let contents = lab.one.datapath().restore()?;
    lab.one.table.resync(&contents);
    lab.one.sync()?;
    lab.one.later()?;
    lab.one.later()?;
    ensure!(lab.one.datapath().restore()?.backends.len() == 1);
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    Ok(())
}

#[test]
fn pinned_maps_of_another_shape_are_refused_by_name() -> Result<()> {
    let mut lab = Lab::bare()?;
    lab.one.open()?;
    lab.one.datapath = None;
    let maps = lab.one.bpf_root.join("knarr/v1/maps");
    // IDS in the place of CONFIG: an array too, with values of another size.
    std::fs::remove_file(maps.join("CONFIG"))?;
    std::fs::rename(maps.join("IDS"), maps.join("CONFIG"))?;
    let error = lab.one.open().err().context("a wrong map was adopted")?;
    ensure!(
        error.to_string().contains("the pinned map CONFIG is"),
        "{error}"
    );
    Ok(())
}

#[test]
fn wrong_places_are_named_with_what_to_do() -> Result<()> {
    let mut lab = Lab::bare()?;
    let right = lab.one.bpf_root.clone();
    lab.one.bpf_root = "/tmp".into();
    let error = lab.one.open().err().context("/tmp is no bpffs")?;
    ensure!(error.to_string().contains("mount -t bpf"), "{error}");
    lab.one.bpf_root = right;
    let right = lab.one.cgroup.clone();
    lab.one.cgroup = "/tmp".into();
    let error = lab.one.open().err().context("/tmp is no cgroup")?;
    ensure!(error.to_string().contains("--cgroup-root"), "{error}");
    lab.one.cgroup = right;
    lab.one.open()
}

/// Collects what the programs' lines become.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, _metadata: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(
                &mut self,
                _field: &tracing::field::Field,
                value: &dyn std::fmt::Debug,
            ) {
                self.0.push_str(&format!("{value:?}"));
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        if event.metadata().target() == "knarr_ebpf" {
            self.0.lock().push(message.0);
        }
    }
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

/// Instructions of the program that was loaded last under this name, in bytes, as the kernel runs it.
fn size_of_newest(name: &str) -> Result<u32> {
    let loaded = aya::programs::loaded_programs().flatten();
    let newest = loaded
        .filter(|program| program.name_as_str() == Some(name))
        .max_by_key(aya::programs::ProgramInfo::id);
    newest
        .and_then(|program| program.size_translated())
        .with_context(|| format!("no {name} is loaded"))
}

#[test]
fn the_programs_log_when_asked_and_have_no_log_otherwise() -> Result<()> {
    let mut lab = Lab::bare()?;
    lab.one.log = ProgramLog::Debug;
    lab.one.open()?;
    let logging = size_of_newest("knarr_connect4")?;
    let pod = lab.pod(1, 2)?;
    lab.both(|table| {
        table.set_service(service(ServiceProtocol::Tcp));
        table.set_endpoint(endpoint(pod));
    })?;
    let lines = Lines::default();
    let datapath = lab.one.datapath.as_mut().context("open")?;
    let task = datapath.log_task()?.context("the log is on")?;
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    let _default = tracing::subscriber::set_default(lines.clone());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let _time_is_up =
                tokio::time::timeout(std::time::Duration::from_millis(300), task).await;
        });
    let lines = lines.0.lock().clone();
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("connect to 10.96.0.10:80: backend 1 at 10.244.1.2:8080")),
        "{lines:?}"
    );
    lab.one.log = ProgramLog::Off;
    lab.one.datapath = None;
    lab.one.open()?;
    ensure!(lab.one.datapath().log_task()?.is_none());
    // The kernel takes code out that a constant says is never reached.
    let silent = size_of_newest("knarr_connect4")?;
    ensure!(
        silent * 4 < logging * 3,
        "{silent} bytes without the log, {logging} with it"
    );
    Ok(())
}

#[test]
fn trace_tells_what_then_happens() -> Result<()> {
    let mut lab = Lab::new()?;
    let pods = [lab.pod(1, 2)?, lab.pod(1, 3)?, lab.pod(2, 2)?];
    let mut sticky = service(ServiceProtocol::Tcp);
    sticky.affinity_seconds = 60;
    let data = std::env::temp_dir().join(format!("knarr-trace-{}", std::process::id()));
    std::fs::create_dir_all(&data)?;
    lab.one.table.set_service(sticky);
    for pod in pods {
        lab.one.table.set_endpoint(endpoint(pod));
    }
    let plan = lab.one.table.plan(std::time::Duration::ZERO);
    NamesFile::create(&data).append(&plan.names)?;
    lab.one.apply(&plan.ops)?;
    let names = Names::read(&data)?;
    std::fs::remove_dir_all(&data)?;
    let inspector = Inspector::open(&lab.one.bpf_root)?;
    let tell = |caller: Caller| -> Result<String> {
        let ports = view::ports(&inspector.contents()?, &names);
        let port = ports
            .iter()
            .find(|port| port.service() == "default/web")
            .context("the Service is listed by its name")?;
        ensure!(port.is_named("80") && port.is_named("30080") && !port.is_named("81"));
        Ok(explain::trace(&inspector, port, caller, explain::now_ns())?.join("\n"))
    };
    let before = tell(Caller::Pod(pods[0]))?;
    ensure!(before.contains("has no entry"), "{before}");
    let server = inside(lab.one.pod(pods[0]), || ask_tcp(vip()))?.server;
    ensure!(
        before.contains(&format!("{server}:8080")),
        "{server}\n{before}"
    );
    let after = tell(Caller::Pod(pods[0]))?;
    ensure!(after.contains("remembers backend") && after.contains(&format!("{server}:8080")));
    ensure!(after.contains("default/pod-"), "{after}");
    let outside = tell(Caller::Outside(crate::lab::CLIENT_IP, None))?;
    let to = (lab.one.ip, NODE_PORT);
    let server = lab.outside(|| ask_tcp(to))?.server;
    ensure!(
        outside.contains(&format!("{server}:8080")),
        "{server}\n{outside}"
    );
    let after = tell(Caller::Outside(crate::lab::CLIENT_IP, None))?;
    ensure!(after.contains("FLOWS has a"), "{after}");
    lab.one.table = ServiceTable::restore("node-1", &lab.one.datapath().restore()?);
    lab.one
        .table
        .replace(vec![service(ServiceProtocol::Tcp)], Vec::new());
    lab.one.sync()?;
    let refused = tell(Caller::Node)?;
    ensure!(refused.contains("ECONNREFUSED"), "{refused}");
    let refused = tell(Caller::Outside(crate::lab::CLIENT_IP, Some(4_000)))?;
    ensure!(refused.contains("answers a SYN with a reset"), "{refused}");
    Ok(())
}

#[test]
fn slots_that_are_missing_are_named_and_the_next_agent_repairs_them() -> Result<()> {
    let (mut lab, pods) = web(&[(1, 2), (1, 3)])?;
    let inspector = Inspector::open(&lab.one.bpf_root)?;
    let report = inspector.check()?;
    ensure!(report.missing_entries.is_empty(), "{report:?}");
    ensure!(report.addresses > 0 && report.slots > 0 && report.chunks > 0);
    let contents = inspector.contents()?;
    let (_, entry) = contents.services.first().context("a Service")?;
    inspector.break_service(entry)?;
    ensure!(inside(&lab.one.netns, || ask_tcp(vip())).is_err());
    let missing_entries = inspector.check()?.missing_entries;
    ensure!(
        !missing_entries.is_empty()
            && missing_entries
                .iter()
                .all(|missing_entry| missing_entry.service == entry.service)
    );
    let ports = view::ports(&contents, &Names::default());
    let steps = explain::trace(&inspector, &ports[0], Caller::Node, explain::now_ns())?;
    ensure!(
        steps.iter().any(|step| step.starts_with("MISSING:")),
        "{steps:?}"
    );

    lab.one.datapath = None;
    lab.one.open()?;
    lab.one.table.replace(
        vec![service(ServiceProtocol::Tcp)],
        pods.iter().copied().map(endpoint).collect(),
    );
    lab.one.sync()?;
    lab.one.later()?;
    let report = inspector.check()?;
    ensure!(report.missing_entries.is_empty(), "{report:?}");
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    Ok(())
}

/// Name to size, of all maps whose size people can set.
fn sizes(inspector: &Inspector) -> Result<std::collections::BTreeMap<&'static str, u32>> {
    let usage = inspector.usage()?;
    Ok(usage
        .into_iter()
        .map(|(name, _, size)| (name, size))
        .collect())
}

#[test]
fn maps_begin_small_and_grow_under_load_without_a_lost_connect() -> Result<()> {
    /// More than the first sizes hold, and less than half of the limits.
    const SERVICES: u16 = 3_000;
    let mut lab = Lab::bare()?;
    let limits = MapSizes::default();
    lab.one.sizes = limits;
    lab.one.open()?;
    let pod = lab.pod(1, 2)?;
    let inspector = lab.one.datapath().inspector();
    let before = sizes(&inspector)?;
    for (name, limit) in [
        ("SERVICES", limits.services),
        ("BACKENDS", limits.backends),
        ("FLOWS", limits.flows),
        ("AFFINITY", limits.affinity),
    ] {
        ensure!(before[name] * 16 <= limit, "{name}: {before:?}");
    }
    let mut inner = service(ServiceProtocol::Tcp);
    inner.ports[0].node_port = None;
    lab.one.table.set_service(inner);
    lab.one.table.set_endpoint(endpoint(pod));
    lab.one.sync()?;
    ensure!(
        sizes(&inspector)? == before,
        "nothing of it needs more room"
    );

    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let netns = lab.one.netns.clone();
    std::thread::scope(|scope| -> Result<()> {
        let load = scope.spawn(|| {
            inside(&netns, || {
                while !stop.load(Ordering::Relaxed) {
                    ask_tcp(vip())?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        for number in 0..SERVICES {
            let [high, low] = number.to_be_bytes();
            let mut other = service(ServiceProtocol::Tcp);
            other.name.name = format!("s{number}");
            other.cluster_ips = vec![Ipv4Addr::new(10, 97, high, low).into()];
            other.ports[0].node_port = None;
            for host in 1..4 {
                let mut of_other = endpoint(Ipv4Addr::new(10, 244, 2, host));
                of_other.service = other.name.clone();
                lab.one.table.set_endpoint(of_other);
            }
            lab.one.table.set_service(other);
            if number % 500 == 0 {
                lab.one.sync()?;
            }
        }
        lab.one.sync()?;
        // The first NodePort and the first affinity.
        let mut whole = service(ServiceProtocol::Tcp);
        whole.affinity_seconds = 60;
        lab.one.table.set_service(whole);
        lab.one.sync()?;
        stop.store(true, Ordering::Relaxed);
        load.join().expect("the load thread ends")
    })?;
    ensure!(done.load(Ordering::Relaxed) > 20);
    let after = sizes(&inspector)?;
    for name in ["SERVICES", "SLOTS", "BACKENDS"] {
        ensure!(after[name] > before[name], "{name}: {before:?} {after:?}");
    }
    ensure!(after["FLOWS"] == limits.flows && after["NAT"] == limits.flows);
    ensure!(after["AFFINITY"] == limits.affinity, "{after:?}");
    ensure!(inspector.check()?.missing_entries.is_empty());
    let to = (lab.one.ip, NODE_PORT);
    lab.outside(|| ask_tcp(to))?;

    // What was pinned is what is used: the next agent goes on with it.
    let contents = inspector.contents()?;
    lab.one.datapath = None;
    lab.one.open()?;
    ensure!(sizes(&Inspector::open(&lab.one.bpf_root)?)? == after);
    ensure!(lab.one.datapath().restore()? == contents);
    inside(&lab.one.netns, || ask_tcp(vip()))?;
    Ok(())
}

#[test]
fn maps_that_cannot_grow_without_the_uplink_hold_no_endpoint_back() -> Result<()> {
    /// Services, of which the first map holds 2,048.
    const MORE_THAN_FIRST: u16 = 2_200;
    let mut lab = Lab::bare()?;
    let limits = MapSizes::default();
    lab.one.sizes = limits;
    lab.one.open()?;
    let pods = [lab.pod(1, 2)?, lab.pod(1, 3)?];
    let inspector = lab.one.datapath().inspector();
    let before = sizes(&inspector)?;
    let netns = lab.one.netns.clone();
    let rename = |from: &str, to: &str| -> Result<()> {
        run(&["ip", "-n", &netns, "link", "set", from, "down"])?;
        run(&["ip", "-n", &netns, "link", "set", from, "name", to])?;
        run(&["ip", "-n", &netns, "link", "set", to, "up"])?;
        Ok(())
    };
    rename("eth0", "away")?;
    let mut sticky = service(ServiceProtocol::Tcp);
    sticky.affinity_seconds = 60;
    lab.one.table.set_service(sticky);
    lab.one.table.set_endpoint(endpoint(pods[0]));
    lab.one.sync()?;
    ensure!(sizes(&inspector)? == before, "maps grew without an uplink");
    ensure!(inside(&netns, || ask_tcp(vip()))?.server == pods[0]);
    lab.one.table.set_endpoint(endpoint(pods[1]));
    lab.one.table.remove_endpoint(&endpoint(pods[0]).key());
    lab.one.sync()?;
    ensure!(inside(&netns, || ask_tcp(vip()))?.server == pods[1]);
    lab.one.later()?;
    ensure!(lab.one.datapath().restore()?.backends.len() == 1);
    // A map that is full is an error, and the sockets see what is written nevertheless.
    for number in 0..MORE_THAN_FIRST {
        let [high, low] = number.to_be_bytes();
        let mut other = service(ServiceProtocol::Tcp);
        other.name.name = format!("s{number}");
        other.cluster_ips = vec![Ipv4Addr::new(10, 97, high, low).into()];
        other.ports[0].node_port = None;
        lab.one.table.set_service(other);
    }
    let full = |result: Result<usize>| -> Result<()> {
        let error = result.err().context("more than the map holds")?;
        let full = error.downcast_ref::<DatapathError>();
        ensure!(
            matches!(full, Some(DatapathError::MapFull { .. })),
            "{error:?}"
        );
        Ok(())
    };
    full(lab.one.sync())?;
    let contents = lab.one.datapath().restore()?;
    lab.one.table.resync(&contents);
    lab.one.table.set_endpoint(endpoint(pods[0]));
    lab.one.table.remove_endpoint(&endpoint(pods[1]).key());
    full(lab.one.sync())?;
    ensure!(inside(&netns, || ask_tcp(vip()))?.server == pods[0]);
    let remembered = |inspector: &Inspector| -> Result<Vec<u32>> {
        let all = inspector.affinities()?;
        Ok(all.into_iter().map(|(_, entry)| entry.backend).collect())
    };
    let known = remembered(&inspector)?;
    ensure!(known.len() == 1, "{known:?}");

    // The next change of such a Service tries again, and takes along what the small maps hold.
    rename("away", "eth0")?;
    let contents = lab.one.datapath().restore()?;
    lab.one.table.resync(&contents);
    lab.one.table.set_endpoint(endpoint(pods[1]));
    lab.one.sync()?;
    let after = sizes(&inspector)?;
    ensure!(after["FLOWS"] == limits.flows && after["AFFINITY"] == limits.affinity);
    ensure!(remembered(&inspector)? == known, "{known:?}");
    ensure!(inside(&netns, || ask_tcp(vip()))?.server == pods[0]);
    let to = (lab.one.ip, NODE_PORT);
    lab.outside(|| ask_tcp(to))?;
    Ok(())
}

#[test]
fn maps_of_an_earlier_version_shrink_when_no_service_needs_them() -> Result<()> {
    const FIRST: u32 = 128;
    let mut lab = Lab::bare()?;
    let limits = MapSizes::default();
    lab.one.sizes = limits;
    // With a log maps begin at full size, as they did in earlier versions.
    lab.one.log = ProgramLog::Debug;
    lab.one.open()?;
    let pod = lab.pod(1, 2)?;
    lab.one.table.set_service(service(ServiceProtocol::Tcp));
    lab.one.table.set_endpoint(endpoint(pod));
    lab.one.sync()?;
    let of_now = |lab: &Lab| -> Result<[u32; 3]> {
        let found = sizes(&Inspector::open(&lab.one.bpf_root)?)?;
        Ok(["FLOWS", "NAT", "AFFINITY"].map(|name| found[name]))
    };
    let full = [limits.flows, limits.flows, limits.affinity];
    ensure!(of_now(&lab)? == full);

    lab.one.log = ProgramLog::Off;
    lab.one.datapath = None;
    lab.one.open()?;
    let found = of_now(&lab)?;
    ensure!(found == [limits.flows, limits.flows, FIRST], "{found:?}");
    let to = (lab.one.ip, NODE_PORT);
    lab.outside(|| ask_tcp(to))?;

    let mut inner = service(ServiceProtocol::Tcp);
    inner.ports[0].node_port = None;
    lab.one.table.replace(vec![inner], vec![endpoint(pod)]);
    lab.one.sync()?;
    lab.one.later()?;
    lab.one.datapath = None;
    lab.one.open()?;
    let found = of_now(&lab)?;
    ensure!(found == [FIRST; 3], "{found:?}");
    inside(&lab.one.netns, || ask_tcp(vip()))?;

    lab.one
        .table
        .replace(vec![service(ServiceProtocol::Tcp)], vec![endpoint(pod)]);
    lab.one.sync()?;
    let found = of_now(&lab)?;
    ensure!(found == [limits.flows, limits.flows, FIRST], "{found:?}");
    lab.outside(|| ask_tcp(to))?;
    Ok(())
}
