// SPDX-License-Identifier: Apache-2.0
//! `knarr-agent service ls|get|trace`: reads the pinned maps and explains them. Needs root, but no
//! running agent. Prints only; what it says comes from `knarr_datapath::{view, explain}`.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use knarr_datapath::Network;
use knarr_datapath::check::MissingEntry;
use knarr_datapath::explain::{self, Caller};
use knarr_datapath::inspect::Inspector;
use knarr_datapath::names::Names;
use knarr_datapath::view::{self, PortView, v4};
use knarr_ebpf_common::{
    BACKEND_ACTIVE, BACKEND_LOCAL, BACKEND_TERMINATING, SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_INTERNAL,
};

use crate::config::{ConfigError, RunOptions};

/// Arguments of `service`.
#[derive(Args)]
pub struct ServiceArgs {
    #[command(flatten)]
    pub(super) maps: MapArgs,
    #[command(subcommand)]
    command: ServiceCommand,
}

/// Where the maps and the names are, for `service` and `datapath`.
#[derive(Args)]
pub struct MapArgs {
    /// The agent's configuration file (TOML); `data-dir` and `bpf-root` are taken from it.
    #[arg(long, global = true, env = "KNARR_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The agent's data directory, for names. [default: /var/lib/knarr]
    #[arg(long, global = true, env = "KNARR_AGENT_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The mounted BPF file system that holds the agent's pins. [default: /sys/fs/bpf]
    #[arg(long, global = true, env = "KNARR_AGENT_BPF_ROOT", value_name = "DIR")]
    bpf_root: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// List the Services that this node carries.
    #[command(alias = "list")]
    Ls,
    /// Show the addresses, backends, clients and counters of a Service.
    Get {
        /// NAMESPACE/NAME.
        #[arg(value_name = "NS/NAME")]
        service: String,
    },
    /// Say step by step what happens to a connect or a packet for a Service, and why.
    Trace {
        /// NAMESPACE/NAME, and a port's number or name where it has several.
        #[arg(value_name = "NS/NAME[:PORT]")]
        service: String,
        /// The pod that calls: NAMESPACE/NAME or its address. Without it, this node calls.
        #[arg(long, value_name = "POD", conflicts_with = "from_outside")]
        from: Option<String>,
        /// A host outside the cluster calls: its address, or ADDRESS:PORT for one flow.
        #[arg(long, value_name = "ADDR")]
        from_outside: Option<String>,
    },
}

impl MapArgs {
    /// What the agent of this machine was told, as far as it matters here.
    pub(super) fn options(&self) -> Result<RunOptions, ConfigError> {
        RunOptions {
            config: self.config.clone(),
            data_dir: self.data_dir.clone(),
            bpf_root: self.bpf_root.clone(),
            ..RunOptions::default()
        }
        .with_file()
    }

    /// Opens the maps, and reads what they hold by Service port.
    pub(super) fn open(&self) -> anyhow::Result<(Inspector, Vec<PortView>)> {
        let options = self.options()?;
        let inspector = Inspector::open(&options.bpf_root())?;
        let names = Names::read(&options.data_dir())?;
        let ports = view::ports(&inspector.contents()?, &names);
        Ok((inspector, ports))
    }
}

/// Runs it.
pub fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let (inspector, ports) = args.maps.open()?;
    let mut out = std::io::stdout().lock();
    match args.command {
        ServiceCommand::Ls => list(&mut out, &inspector, &ports),
        ServiceCommand::Get { service } => {
            let found = of_service(&ports, &service)?;
            let missing_entries = inspector.check()?.missing_entries;
            for port in found {
                show(&mut out, &inspector, port, &missing_entries)?;
            }
            Ok(())
        }
        ServiceCommand::Trace {
            service,
            from,
            from_outside,
        } => {
            let port = one_port(&ports, &service)?;
            let caller = caller(&ports, from.as_deref(), from_outside.as_deref())?;
            let steps = explain::trace(&inspector, port, caller, explain::now_ns())?;
            let mut number = 0;
            for step in steps {
                if let Some(detail) = step.strip_prefix("  ") {
                    writeln!(out, "      {detail}")?;
                } else {
                    number += 1;
                    writeln!(out, "{number:>3}. {step}")?;
                }
            }
            Ok(())
        }
    }
}

fn list(out: &mut impl Write, inspector: &Inspector, ports: &[PortView]) -> anyhow::Result<()> {
    let rows = ports
        .iter()
        .map(|port| row(inspector, port))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let head = [
        "SERVICE",
        "PORT",
        "PROTOCOL",
        "CLUSTER-IP",
        "NODE-PORT",
        "READY",
        "TERMINATING",
        "AFFINITY",
        "CONNECTS",
        "FLOWS",
    ]
    .map(str::to_owned);
    let mut widths = head.each_ref().map(String::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    for row in std::iter::once(&head).chain(&rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(inspector: &Inspector, port: &PortView) -> anyhow::Result<[String; 10]> {
    let counters = port.counters(inspector)?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let affinity = port
        .keys
        .values()
        .map(|entry| entry.affinity_seconds)
        .max()
        .filter(|seconds| *seconds > 0);
    Ok([
        port.service(),
        or_dash(Some(port.port_name.clone()).filter(|name| !name.is_empty())),
        port.protocol().to_owned(),
        or_dash(port.cluster_ip().map(|ip| ip.to_string())),
        or_dash(port.node_port().map(|port| port.to_string())),
        port.count(BACKEND_ACTIVE).to_string(),
        port.count(BACKEND_TERMINATING).to_string(),
        or_dash(affinity.map(|seconds| format!("{seconds}s"))),
        counters.connects.to_string(),
        counters.flows.to_string(),
    ])
}

fn show(
    out: &mut impl Write,
    inspector: &Inspector,
    port: &PortView,
    missing_entries: &[MissingEntry],
) -> anyhow::Result<()> {
    let name = match port.port_name.as_str() {
        "" => String::new(),
        name => format!(" port {name}"),
    };
    writeln!(out, "{}{name} (service {})", port.service(), port.id)?;
    for (key, entry) in &port.keys {
        let number = u16::from_be(key.port_be);
        let address = match key.scope {
            SCOPE_CLUSTER_IP => format!("{}:{number}", v4(&key.vip)),
            SCOPE_NODE_PORT_INTERNAL => format!("NodePort {number} from inside"),
            _ => format!("NodePort {number} from outside"),
        };
        writeln!(
            out,
            "  {address} {}: set {}, generation {}, {} ready, {} terminating, affinity {} s, table of {} places",
            port.protocol(),
            entry.set,
            entry.generation,
            entry.count,
            entry.terminating,
            entry.affinity_seconds,
            entry.table_len
        )?;
    }
    for missing_entry in missing_entries
        .iter()
        .filter(|missing_entry| missing_entry.service == port.id)
    {
        writeln!(out, "  MISSING: {missing_entry}")?;
    }
    writeln!(out, "  backends:")?;
    for backend in &port.backends {
        let here = if backend.entry.flags & BACKEND_LOCAL != 0 {
            ", this node"
        } else {
            ""
        };
        writeln!(
            out,
            "    {} ({}{here})",
            backend.describe(),
            backend.state()
        )?;
    }
    let now = explain::now_ns();
    let clients: Vec<_> = inspector
        .affinities()?
        .into_iter()
        .filter(|(key, _)| key.service == port.id)
        .collect();
    if !clients.is_empty() {
        writeln!(out, "  remembered clients:")?;
        for (key, entry) in clients {
            let backend = port.backend(entry.backend).map_or_else(
                || format!("backend {}, gone", entry.backend),
                |b| b.describe(),
            );
            let seconds = now.saturating_sub(entry.last_used_ns) / 1_000_000_000;
            writeln!(
                out,
                "    {} -> {backend}, used {seconds} s ago",
                v4(&key.client)
            )?;
        }
    }
    let counters = port.counters(inspector)?;
    writeln!(
        out,
        "  counters: {} connects, {} refused, {} flows from outside, {} refused, {} packets in, {} out, {} by affinity",
        counters.connects,
        counters.refused,
        counters.flows,
        counters.flows_refused,
        counters.packets_in,
        counters.packets_out,
        counters.affinity_hits
    )?;
    Ok(())
}

fn of_service<'a>(ports: &'a [PortView], service: &str) -> anyhow::Result<Vec<&'a PortView>> {
    let found: Vec<&PortView> = ports
        .iter()
        .filter(|port| port.service() == service)
        .collect();
    if found.is_empty() && !service.contains('/') {
        bail!(
            "{service:?} names no Service: give NAMESPACE/NAME, as `knarr-agent service ls` shows them"
        );
    }
    if found.is_empty() {
        bail!(
            "this node carries no Service {service}; `knarr-agent service ls` shows those it does"
        );
    }
    Ok(found)
}

fn one_port<'a>(ports: &'a [PortView], service: &str) -> anyhow::Result<&'a PortView> {
    let (service, wanted) = match service.split_once(':') {
        Some((service, port)) => (service, Some(port)),
        None => (service, None),
    };
    let found = of_service(ports, service)?;
    let names = || {
        let names: Vec<String> = found
            .iter()
            .map(|port| {
                let number = port
                    .cluster_ip()
                    .map(|ip| ip.port())
                    .or(port.node_port())
                    .unwrap_or_default();
                match port.port_name.as_str() {
                    "" => number.to_string(),
                    name => format!("{number} ({name})"),
                }
            })
            .collect();
        names.join(", ")
    };
    match wanted {
        Some(wanted) => found
            .iter()
            .find(|port| port.is_named(wanted))
            .copied()
            .with_context(|| format!("Service {service} has no port {wanted}, but {}", names())),
        None if found.len() == 1 => Ok(found[0]),
        None => bail!("Service {service} has several ports, name one: {}", names()),
    }
}

fn caller(
    ports: &[PortView],
    from: Option<&str>,
    from_outside: Option<&str>,
) -> anyhow::Result<Caller> {
    if let Some(outside) = from_outside {
        let (address, port) = match outside.split_once(':') {
            Some((address, port)) => (
                address,
                Some(
                    port.parse()
                        .with_context(|| format!("\"{port}\" is no port"))?,
                ),
            ),
            None => (outside, None),
        };
        let address = address
            .parse()
            .with_context(|| format!("\"{address}\" is no IPv4 address"))?;
        return Ok(Caller::Outside(address, port));
    }
    match from {
        None => Ok(Caller::Node),
        Some(pod) => match pod.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Caller::Pod(address)),
            Err(_) => Ok(Caller::Pod(pod_address(ports, pod)?)),
        },
    }
}

/// The address of a pod by name: from its veth on this node, or where it is a backend.
fn pod_address(ports: &[PortView], pod: &str) -> anyhow::Result<Ipv4Addr> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let on_this_node = runtime.block_on(async { Network::open()?.pod_names().await })?;
    find_pod(&on_this_node, ports, pod)
}

/// A pod without a namespace is one of `default`, as for kubectl.
fn find_pod(
    on_this_node: &[(String, Ipv4Addr)],
    ports: &[PortView],
    pod: &str,
) -> anyhow::Result<Ipv4Addr> {
    let wanted = if pod.contains('/') {
        pod.to_owned()
    } else {
        format!("default/{pod}")
    };
    if let Some((_, address)) = on_this_node.iter().find(|(name, _)| *name == wanted) {
        return Ok(*address);
    }
    ports
        .iter()
        .flat_map(|port| &port.backends)
        .find(|backend| backend.pod == wanted)
        .map(|backend| *backend.address().ip())
        .with_context(|| {
            format!(
                "no pod {wanted} is known on this node; give its address instead: --from 10.244.1.2"
            )
        })
}

#[cfg(test)]
mod tests;
