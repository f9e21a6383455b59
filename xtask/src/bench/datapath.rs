// SPDX-License-Identifier: Apache-2.0
//! `bench datapath`: connects, round trips and programming with 1, 1,000 and 10,000 Services: direct, Knarr, iptables and
//! nftables beside each other. Each variant has a lab host of its own that does nothing else, so that "direct" comes
//! from a namespace without rules; client and server share one core; variants take turns, and ratios are of neighbours.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, bail};

use super::peers::{self, ENDPOINTS, PORT, Service};
use super::{Effort, Figure, stats};
use crate::build::{self, Build};
use crate::lab::host;
use crate::lab::state::{self, State};
use crate::lab::{CLIENT, HostKind, address, enter};
use crate::{paths, process::Process, run, ui, up};

/// How many Services there are.
const SIZES: [u32; 3] = [1, 1_000, 10_000];
/// Turns of all variants; an odd number has a middle.
const ROUNDS: usize = 31;
/// Connects or round trips of one turn.
const CALLS: usize = 400;
/// How often a command that loads nothing is started.
const STARTS: usize = 5;
/// How often the kernel measures the programs.
const COST_ROUNDS: usize = 5;
/// The core of clients and servers.
const CORE: &str = "1";
/// The NodePort of the tested Service.
const NODE_PORT: u16 = 30_080;
/// Where servers listen that close at once; the tested Service's endpoints.
const SINKS: [u16; ENDPOINTS as usize] = [9000, 9001, 9002];
/// One that is no endpoint of anything.
const OTHER_SINK: u16 = 9100;
/// Echo servers for round trips are endpoints of the tested Service in runs of their own.
const ECHOES: [u16; ENDPOINTS as usize] = [9200, 9201, 9202];
/// The host of the servers.
const SERVER: &str = "node-1";

/// One way to reach a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Direct,
    Knarr,
    Iptables,
    Nftables,
}

const VARIANTS: [Variant; 4] = [
    Variant::Direct,
    Variant::Knarr,
    Variant::Iptables,
    Variant::Nftables,
];

impl Variant {
    /// Its host.
    fn host(self) -> &'static str {
        match self {
            Self::Direct => "node-2",
            Self::Knarr => "node-3",
            Self::Iptables => "node-4",
            Self::Nftables => "node-5",
        }
    }

    /// A file that loads nothing and the command for it, where a variant is loaded by a command.
    fn nothing(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Self::Direct | Self::Knarr => None,
            Self::Iptables => Some(("*nat\nCOMMIT\n", &["iptables-legacy-restore", "--noflush"])),
            Self::Nftables => Some(("", &["nft", "-f"])),
        }
    }

    /// The case in a metric's name; ours has none.
    fn suffix(self) -> &'static str {
        match self {
            Self::Direct => "_direct",
            Self::Knarr => "",
            Self::Iptables => "_iptables",
            Self::Nftables => "_nftables",
        }
    }
}

/// How often everything is called.
#[derive(Clone, Copy, Debug)]
struct Turns {
    rounds: usize,
    /// In each turn.
    calls: usize,
}

/// Measures.
pub fn measure(effort: Effort) -> anyhow::Result<Vec<Figure>> {
    let sizes = effort.pick(&SIZES[..], &SIZES[..1]);
    let turns = effort.pick(
        Turns {
            rounds: ROUNDS,
            calls: CALLS,
        },
        Turns {
            rounds: 1,
            calls: 10,
        },
    );
    for program in ["iptables-legacy-restore", "nft", "taskset"] {
        if !run::exists(program) {
            bail!("{program} is missing: `cargo xtask setup` installs it");
        }
    }
    up::down()?;
    let programs = build::programs(Build::asked())?;
    let loader = loader()?;
    up::hosts_only(5)?;
    fs::create_dir_all(paths::up_bin())?;
    fs::copy(programs.echo, paths::up_bin().join("knarr-echo"))?;
    let mut figures = Vec::new();
    for &size in sizes {
        ui::heading(&format!("{size} Services with {ENDPOINTS} endpoints each"));
        figures.extend(one_size(turns, size, &loader)?);
    }
    Ok(figures)
}

/// The program that fills the maps as the agent does.
fn loader() -> anyhow::Result<String> {
    const NAME: &str = "knarr-bench-load";
    let build = Build::asked();
    // The tests' compilation has it beside the programs.
    if build == Build::Release {
        build::build(
            "the bench's loader",
            &[
                "build",
                "--release",
                "--package",
                "knarr-tests",
                "--bin",
                NAME,
            ],
            &[],
        )?;
    }
    let path = build.directory().join(NAME);
    path.to_str()
        .map(str::to_owned)
        .context("the target folder has a name that is text")
}

fn one_size(turns: Turns, size: u32, loader: &str) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let server = address(SERVER).context("the server has an address")?;
    // Round 1: endpoints that close at once, for connects.
    restart_hosts()?;
    let servers = start_servers(SERVER)?;
    let endpoints: Vec<(Ipv4Addr, u16)> = SINKS.map(|port| (server, port)).to_vec();
    figures.extend(program(size, &endpoints, loader)?);
    let services = peers::services(size, &endpoints, NODE_PORT);
    figures.extend(connects(turns, size, &services)?);
    figures.extend(costs(turns, size, &services, loader)?);
    figures.extend(node_port(turns, size, "remote")?);
    // Round 2: endpoints that echo, for round trips.
    restart_hosts()?;
    drop(servers);
    let _servers = start_servers(SERVER)?;
    let endpoints: Vec<(Ipv4Addr, u16)> = ECHOES.map(|port| (server, port)).to_vec();
    program(size, &endpoints, loader)?;
    figures.extend(round_trips(
        turns,
        size,
        &peers::services(size, &endpoints, NODE_PORT),
    )?);
    // Round 3: the endpoints are on the node that is called.
    restart_hosts()?;
    for variant in VARIANTS {
        let own = address(variant.host()).context("a variant has an address")?;
        start_servers(variant.host())?;
        let endpoints: Vec<(Ipv4Addr, u16)> = SINKS.map(|port| (own, port)).to_vec();
        load(variant, size, &endpoints, loader)?;
    }
    figures.extend(node_port(turns, size, "local")?);
    Ok(figures)
}

/// Hosts without any rule, map or server.
fn restart_hosts() -> anyhow::Result<()> {
    let _lock = state::lock()?;
    let mut state = State::require()?;
    for name in state.nodes() {
        host::stop(&mut state, &name)?;
        host::start(&mut state, &name, HostKind::Node)?;
    }
    for name in state.nodes() {
        let node = address(&name).context("a node has an address")?;
        if name == SERVER {
            continue;
        }
        // A connect to a Service needs a route before its address is replaced by a rule. It leads to the lab's
        // switch and nowhere else.
        enter::output(
            &name,
            &[
                "ip",
                "route",
                "replace",
                "10.96.0.0/12",
                "dev",
                "eth0",
                "src",
                &node.to_string(),
            ],
        )?;
        enter::output(&name, &["busybox", "sysctl", "-w", "net.ipv4.ip_forward=1"])?;
    }
    Ok(())
}

fn start_servers(name: &str) -> anyhow::Result<Vec<Process>> {
    let log = paths::logs().join(format!("bench-{name}.log"));
    let mut started = Vec::new();
    for port in SINKS.into_iter().chain([OTHER_SINK]) {
        started.push(pinned(
            name,
            &log,
            &["knarr-echo", "sink", "--port", &port.to_string()],
        )?);
    }
    for port in ECHOES {
        started.push(pinned(
            name,
            &log,
            &[
                "knarr-echo",
                "serve",
                "--http",
                "0",
                "--udp",
                "0",
                "--tcp",
                &port.to_string(),
            ],
        )?);
    }
    wait_for(name, OTHER_SINK)?;
    wait_for(name, ECHOES[ECHOES.len() - 1])?;
    Ok(started)
}

fn pinned(name: &str, log: &std::path::Path, command: &[&str]) -> anyhow::Result<Process> {
    let mut all: Vec<String> = ["taskset", "--cpu-list", CORE].map(str::to_owned).to_vec();
    all.extend(command.iter().map(|word| (*word).to_owned()));
    enter::detached(name, log, None, &all)
}

fn wait_for(name: &str, port: u16) -> anyhow::Result<()> {
    const TRIES: usize = 100;
    let target = format!("127.0.0.1:{port}");
    for _ in 0..TRIES {
        if enter::output(
            name,
            &["knarr-echo", "client", "connects", &target, "--count", "1"],
        )
        .is_ok()
        {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bail!("no server listens on {name} at {port}")
}

/// Fills every variant and says how long that took.
fn program(size: u32, endpoints: &[(Ipv4Addr, u16)], loader: &str) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for variant in VARIANTS {
        let Some(ms) = load(variant, size, endpoints, loader)? else {
            continue;
        };
        let note = match variant {
            Variant::Knarr => "plan and map writes in a running program",
            Variant::Iptables => "iptables-legacy-restore, as kube-proxy runs it: with its start",
            _ => "nft -f, as kube-proxy runs it: with its start",
        };
        figures.push(stats::median(
            format!("program_all_ms{}_{size}", variant.suffix()),
            "ms",
            &[ms],
            format!("{note}; once"),
        ));
        let Some((rules, command)) = variant.nothing() else {
            continue;
        };
        let starts = (0..STARTS)
            .map(|_| load_rules(variant.host(), rules, command))
            .collect::<anyhow::Result<Vec<f64>>>()?;
        let start = stats::median("start", "ms", &starts, "").value;
        figures.push(stats::median(
            format!("program_start_ms{}_{size}", variant.suffix()),
            "ms",
            &starts,
            format!("the same command with nothing to load, {STARTS} times"),
        ));
        figures.push(stats::median(
            format!("program_rules_ms{}_{size}", variant.suffix()),
            "ms",
            &[(ms - start).max(0.0)],
            "the difference: what is comparable with a running program; once",
        ));
    }
    Ok(figures)
}

/// Milliseconds that it took to load everything into a variant; none for direct.
fn load(
    variant: Variant,
    size: u32,
    endpoints: &[(Ipv4Addr, u16)],
    loader: &str,
) -> anyhow::Result<Option<f64>> {
    let services = peers::services(size, endpoints, NODE_PORT);
    let name = variant.host();
    let step = ui::step(format!("loading {size} Services, {variant:?}"));
    let ms = match variant {
        Variant::Direct => None,
        Variant::Knarr => {
            let list = paths::up().join("services.txt");
            fs::write(&list, as_list(&services))?;
            let ip = address(name).context("a node has an address")?.to_string();
            let object = paths::ebpf_object();
            let said = enter::output(
                name,
                &[
                    loader,
                    &list.to_string_lossy(),
                    &object.to_string_lossy(),
                    &ip,
                    "eth0",
                ],
            )?;
            let ms = said
                .lines()
                .find_map(|line| line.strip_prefix("program_ms "))
                .with_context(|| format!("the loader said {said}"))?;
            Some(ms.trim().parse::<f64>()?)
        }
        Variant::Iptables => Some(load_rules(
            name,
            &peers::iptables(&services),
            &["iptables-legacy-restore"],
        )?),
        Variant::Nftables => Some(load_rules(
            name,
            &peers::nftables(&services, address(name).context("a node has an address")?),
            &["nft", "-f"],
        )?),
    };
    step.done_with(&ms.map_or_else(String::new, |ms| format!("{ms:.0} ms")));
    Ok(ms)
}

/// One line each: `IP NODEPORT|0 ADDR:PORT...`.
fn as_list(services: &[Service]) -> String {
    let mut text = String::new();
    for Service {
        ip,
        node_port,
        endpoints,
        ..
    } in services
    {
        text.push_str(&format!("{ip} {}", node_port.unwrap_or(0)));
        for (address, port) in endpoints {
            text.push_str(&format!(" {address}:{port}"));
        }
        text.push('\n');
    }
    text
}

fn load_rules(name: &str, rules: &str, command: &[&str]) -> anyhow::Result<f64> {
    let file = paths::up().join("rules.txt");
    fs::write(&file, rules)?;
    let file = file.to_string_lossy().into_owned();
    let mut all = command.to_vec();
    all.push(&file);
    let started = Instant::now();
    enter::output(name, &all)?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// One turn of a client: the median of its calls, in microseconds.
fn turn(calls: usize, name: &str, kind: &str, target: &str) -> anyhow::Result<f64> {
    let calls = calls.to_string();
    let said = enter::output(
        name,
        &[
            "taskset",
            "--cpu-list",
            CORE,
            "knarr-echo",
            "client",
            kind,
            target,
            "--count",
            &calls,
        ],
    )
    .with_context(|| format!("{kind} from {name} to {target}"))?;
    let words: Vec<&str> = said.split_whitespace().collect();
    let at = words
        .iter()
        .position(|word| *word == "p50")
        .with_context(|| format!("no median in {said}"))?;
    words
        .get(at + 1)
        .context("a median has a value")?
        .parse()
        .context("a median is a number")
}

/// Lets variants take turns. Targets are by variant.
fn interleave(
    turns: Turns,
    what: &str,
    kind: &str,
    calls: &[(Variant, &str, String)],
) -> anyhow::Result<Vec<(Variant, Vec<f64>)>> {
    let step = ui::step(what);
    let mut samples: Vec<(Variant, Vec<f64>)> = calls
        .iter()
        .map(|(variant, _, _)| (*variant, Vec::new()))
        .collect();
    // One round that does not count: neighbours, routes and caches are found.
    for (_, host, target) in calls {
        turn(turns.calls, host, kind, target)?;
    }
    for round in 0..turns.rounds {
        step.say(&format!("round {} of {}", round + 1, turns.rounds));
        for at in 0..calls.len() {
            // The first one changes, so that none always follows the same other one.
            let at = (at + round) % calls.len();
            let (_, host, target) = &calls[at];
            samples[at].1.push(turn(turns.calls, host, kind, target)?);
        }
    }
    step.done();
    Ok(samples)
}

/// Absolute figures of all variants and their ratios to direct.
fn figures(
    turns: Turns,
    metric: &str,
    ratio: &str,
    ending: &str,
    samples: &[(Variant, Vec<f64>)],
    note: &str,
) -> anyhow::Result<Vec<Figure>> {
    let (_, base) = samples
        .iter()
        .find(|(variant, _)| *variant == Variant::Direct)
        .context("direct is always measured")?;
    let Turns { rounds, calls } = turns;
    let note = format!("{rounds} interleaved rounds of {calls}; {note}");
    let mut figures = Vec::new();
    for (variant, values) in samples {
        figures.push(stats::median(
            format!("{metric}{}{ending}", variant.suffix()),
            "µs",
            values,
            &note,
        ));
    }
    for (variant, values) in samples
        .iter()
        .filter(|(variant, _)| *variant != Variant::Direct)
    {
        let ratios = stats::ratios(values, base);
        figures.push(stats::median(
            format!("{ratio}{}{ending}", variant.suffix()),
            "x direct",
            &ratios,
            &note,
        ));
    }
    Ok(figures)
}

fn connects(turns: Turns, size: u32, services: &[Service]) -> anyhow::Result<Vec<Figure>> {
    let server = address(SERVER).context("the server has an address")?;
    let service = format!("{}:{PORT}", peers::tested(services).ip);
    let direct = format!("{server}:{}", SINKS[0]);
    let calls = VARIANTS.map(|variant| {
        (
            variant,
            variant.host(),
            if variant == Variant::Direct {
                direct.clone()
            } else {
                service.clone()
            },
        )
    });
    let samples = interleave(turns, "connects to the Service", "connects", &calls)?;
    let mut all = figures(
        turns,
        "connect_us",
        "connect_ratio",
        &format!("_{size}"),
        &samples,
        "connect() to a ClusterIP in the middle of all",
    )?;
    let other = format!("{server}:{OTHER_SINK}");
    let calls = VARIANTS.map(|variant| (variant, variant.host(), other.clone()));
    let samples = interleave(
        turns,
        "connects to an address that is no Service",
        "connects",
        &calls,
    )?;
    all.extend(figures(
        turns,
        "connect_other_us",
        "connect_other_ratio",
        &format!("_{size}"),
        &samples,
        "connect() to no Service",
    )?);
    Ok(all)
}

/// What each of our programs costs a run, as the kernel measures it: the end of a socket (`knarr_sock_release`) is in no
/// client's time, but every socket of the machine pays for it.
fn costs(
    turns: Turns,
    size: u32,
    services: &[Service],
    loader: &str,
) -> anyhow::Result<Vec<Figure>> {
    let server = address(SERVER).context("the server has an address")?;
    let service = format!("{}:{PORT}", peers::tested(services).ip);
    let other = format!("{server}:{OTHER_SINK}");
    let name = Variant::Knarr.host();
    let (rounds, calls) = (turns.rounds.min(COST_ROUNDS), turns.calls.to_string());
    let step = ui::step("cost of each program");
    let mut figures = Vec::new();
    for (what, target) in [("service", service), ("other", other)] {
        let mut samples: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for _ in 0..rounds {
            let said = enter::output(
                name,
                &[
                    "taskset",
                    "--cpu-list",
                    CORE,
                    loader,
                    "cost",
                    &calls,
                    &target,
                ],
            )?;
            for line in said.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let ["cost", program, runs, nanos] = words.as_slice() else {
                    bail!("the loader said {line}");
                };
                let of_run = nanos.parse::<f64>()? / runs.parse::<f64>()?;
                samples
                    .entry((*program).to_owned())
                    .or_default()
                    .push(of_run);
            }
        }
        for (program, values) in samples {
            figures.push(stats::median(
                format!("run_ns_{program}_{what}_{size}"),
                "ns",
                &values,
                format!(
                    "mean of a run, {rounds} rounds of {calls} connects, as bpf_stats_enabled measures it (with its own \
                     two looks at the clock)"
                ),
            ));
        }
    }
    step.done();
    Ok(figures)
}

fn round_trips(turns: Turns, size: u32, services: &[Service]) -> anyhow::Result<Vec<Figure>> {
    let server = address(SERVER).context("the server has an address")?;
    let service = format!("{}:{PORT}", peers::tested(services).ip);
    let direct = format!("{server}:{}", ECHOES[0]);
    let calls = VARIANTS.map(|variant| {
        (
            variant,
            variant.host(),
            if variant == Variant::Direct {
                direct.clone()
            } else {
                service.clone()
            },
        )
    });
    let samples = interleave(turns, "round trips", "roundtrips", &calls)?;
    figures(
        turns,
        "rr_us",
        "rr_ratio",
        &format!("_{size}"),
        &samples,
        "one byte there and back on one connection",
    )
}

/// From outside. `remote`: the endpoints are on another node than the one called; `local`: on the same.
fn node_port(turns: Turns, size: u32, place: &str) -> anyhow::Result<Vec<Figure>> {
    let server = address(SERVER).context("the server has an address")?;
    let calls = VARIANTS
        .iter()
        .map(|variant| {
            let node = address(variant.host()).context("a variant has an address")?;
            let target = match (variant, place) {
                (Variant::Direct, "local") => format!("{node}:{}", SINKS[0]),
                (Variant::Direct, _) => format!("{server}:{}", SINKS[0]),
                _ => format!("{node}:{NODE_PORT}"),
            };
            Ok((*variant, CLIENT, target))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let samples = interleave(
        turns,
        &format!("NodePort from outside, {place} endpoints"),
        "connects",
        &calls,
    )?;
    figures(
        turns,
        "nodeport_connect_us",
        "nodeport_connect_ratio",
        &format!("_{place}_{size}"),
        &samples,
        &format!(
            "connect() from outside, {place} endpoints that are processes of the host; direct is the endpoint's own address"
        ),
    )
}
