// SPDX-License-Identifier: Apache-2.0
//! `demo`: a Deployment behind a Service, called from everywhere a Service is called from, in a minute of reading.
//! It stops at the first thing that is not as it should be.

mod calls;
mod manifest;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::lab::enter;
use crate::{build, kube, paths, run, ui, up};
use calls::{Caller, Spread};

/// Where the demo's objects live.
const NAMESPACE: &str = "demo";
/// How many nodes it runs on.
const NODES: u32 = 2;
/// How many pods answer.
const REPLICAS: usize = 3;
/// Calls for each line of the spread: so many that a pod is left out by chance once in 60,000 runs.
const CALLS: usize = 30;
/// Nothing in the demo takes longer than this on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);

/// The command.
pub fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    ui::heading("One control plane, two nodes");
    up::up_with(NODES, &[], build::Build::asked())?;
    show(&["get", "nodes", "--output", "wide"])?;

    ui::heading("A Deployment with three replicas and a Service, with the real kubectl");
    kube::apply(&manifest::all())?;
    kubectl_wait(&["rollout", "status", "deployment/web", "--timeout=90s"])?;
    kubectl_wait(&[
        "wait",
        "--for=condition=Ready",
        "pod",
        "--selector=app=web",
        "--timeout=90s",
    ])?;
    show(&[
        "-n",
        NAMESPACE,
        "get",
        "deployment,pods,service,endpointslices",
        "--output",
        "wide",
    ])?;

    let service = ServiceView::fetch("web")?;
    wait_until_it_answers(&service)?;
    ui::heading(&format!(
        "The ClusterIP {} from everywhere inside",
        service.cluster_ip
    ));
    let address = format!("{}:80", service.cluster_ip);
    for node in ["node-1", "node-2"] {
        let pod = format!("call-from-{node}");
        calls_are_spread(&Caller::Pod { node, pod: &pod }, &address)?;
    }
    for node in ["node-1", "node-2"] {
        calls_are_spread(&Caller::Node(node), &address)?;
    }

    ui::heading(&format!(
        "The NodePort {} from a host outside the cluster",
        service.node_port
    ));
    // The Deployment's pods are kept off node-2, so what comes in there goes on to node-1.
    let entry = format!(
        "{}:{}",
        crate::lab::address("node-2").context("node-2 has an address")?,
        service.node_port
    );
    ui::line("node-2 runs none of the pods; the call goes in there and on to the node that does");
    calls_are_spread(&Caller::Outside, &entry)?;

    ui::heading("One client keeps one pod under sessionAffinity: ClientIP");
    let sticky = ServiceView::fetch("web-sticky")?;
    wait_until_it_answers(&sticky)?;
    calls_keep_one(
        &Caller::Pod {
            node: "node-1",
            pod: "call-sticky",
        },
        &format!("{}:80", sticky.cluster_ip),
    )?;
    calls_keep_one(
        &Caller::Node("node-1"),
        &format!("{}:80", sticky.cluster_ip),
    )?;
    let sticky_entry = format!(
        "{}:{}",
        crate::lab::address("node-2").context("node-2 has an address")?,
        sticky.node_port
    );
    calls_keep_one(&Caller::Outside, &sticky_entry)?;

    ui::heading("Why: what the maps of node-1 say about the Service");
    let trace = enter::output(
        "node-1",
        &[
            "knarr-agent",
            "service",
            "trace",
            &format!("{NAMESPACE}/web"),
        ],
    )?;
    print_indented(&trace);

    ui::heading("Look around");
    ui::line(&format!(
        "export KUBECONFIG={}",
        paths::kubeconfig().display()
    ));
    ui::line(&format!(
        "{} -n {NAMESPACE} get pods -o wide",
        paths::show(&paths::up_bin().join("kubectl"))
    ));
    ui::line("cargo xtask node node-1 -- knarr-agent service ls");
    ui::line(&format!(
        "cargo xtask client -- knarr-echo client get {entry}"
    ));
    ui::line(
        "cargo xtask node node-1 --kill-agent        # the calls go on; --restart-agent brings it back",
    );
    ui::line("cargo xtask down                            # stop, and leave nothing");
    ui::heading(&format!(
        "The demo took {:.0} s.",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// What the demo needs to know of a Service.
struct ServiceView {
    cluster_ip: String,
    node_port: String,
}

impl ServiceView {
    fn fetch(name: &str) -> anyhow::Result<Self> {
        let text = kube::get(&[
            "-n",
            NAMESPACE,
            "get",
            "service",
            name,
            "--output",
            "jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}",
        ])?;
        let (cluster_ip, node_port) = text
            .trim()
            .split_once(' ')
            .with_context(|| format!("the Service {name} has no address yet: {text}"))?;
        Ok(Self {
            cluster_ip: cluster_ip.to_owned(),
            node_port: node_port.to_owned(),
        })
    }
}

/// Ready is one thing, in the maps of every node another; the way between is short and bounded.
fn wait_until_it_answers(service: &ServiceView) -> anyhow::Result<()> {
    let address = format!("{}:80", service.cluster_ip);
    let end = Instant::now() + LIMIT;
    for node in ["node-1", "node-2"] {
        while let Err(error) = enter::output(node, &["knarr-echo", "client", "get", &address]) {
            if Instant::now() >= end {
                return Err(error).with_context(|| format!("{address} does not answer on {node}"));
            }
            std::thread::sleep(POLL);
        }
    }
    Ok(())
}

fn calls_are_spread(caller: &Caller<'_>, address: &str) -> anyhow::Result<()> {
    let spread = caller.call(address, CALLS)?;
    ui::line(&format!("{:<22} {}", caller.to_string(), spread));
    check_count(&spread, caller)?;
    if spread.pods() < REPLICAS {
        bail!(
            "{CALLS} calls {caller} reached {} of {REPLICAS} pods",
            spread.pods()
        );
    }
    Ok(())
}

fn calls_keep_one(caller: &Caller<'_>, address: &str) -> anyhow::Result<()> {
    let spread = caller.call(address, CALLS)?;
    ui::line(&format!("{:<22} {}", caller.to_string(), spread));
    check_count(&spread, caller)?;
    if spread.pods() != 1 {
        bail!(
            "{caller} was answered by {} pods under session affinity",
            spread.pods()
        );
    }
    Ok(())
}

fn check_count(spread: &Spread, caller: &Caller<'_>) -> anyhow::Result<()> {
    if spread.answers() != CALLS {
        bail!(
            "{} of {CALLS} calls {caller} were answered",
            spread.answers()
        );
    }
    Ok(())
}

fn show(args: &[&str]) -> anyhow::Result<()> {
    print_indented(&kube::get(args)?);
    Ok(())
}

fn print_indented(text: &str) {
    for line in text.lines() {
        ui::line(line);
    }
}

fn kubectl_wait(args: &[&str]) -> anyhow::Result<()> {
    let step = ui::step(format!("kubectl {}", args[..2.min(args.len())].join(" ")));
    run::stdout(kube::kubectl().args(["-n", NAMESPACE]).args(args))?;
    step.done();
    Ok(())
}
