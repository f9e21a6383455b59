// SPDX-License-Identifier: Apache-2.0
//! Wires the agent: opens what it needs in the order that lets pods and Services go on first, and
//! supervises the loops.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use knarr_api::feed::Welcome;
use knarr_datapath::{Datapath, DatapathConfig, Network};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::RunOptions;
use crate::datapath::SharedDatapath;
use crate::desired::Desired;
use crate::health::Health;
use crate::machine::Machine;
use crate::node::{NodeReporter, OpenDatapath};
use crate::outbox::Outbox;
use crate::pods::Pods;
use crate::ranges::NodeRanges;
use crate::services::{Services, prepare_node};
use parts::{Kernel, Parts};
use settings::{Settings, claim};

mod parts;
mod settings;

/// How long the loops may take to end after a signal.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
/// A link that is being set up may have an address for a moment only: another address counts when the machine has it
/// this long.
const ADDRESS_SETTLES: Duration = Duration::from_secs(5);

/// Tells systemd, where it started this (sd_notify(3)), that nothing of this machine or of the settings is in the way.
/// A node starts whether or not its control plane answers, so this does not wait for it.
fn say_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd cannot be told that the agent has started");
    }
}

/// Runs the agent until `shutdown`. Pods and Services stay as they are afterwards.
pub async fn run(
    options: RunOptions,
    machine: Machine,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let settings = Settings::read(&options, &machine)?;
    let (_lock, listener) = claim(&settings).await?;
    say_ready();
    let (parts, desired_file) = Parts::open(&settings, machine).await?;
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let (datapath_up, datapath_open) = watch::channel(OpenDatapath::None);
    let mut reporter = Some(parts.reporter(&settings, datapath_open));
    look(&mut reporter, &parts.outbox).await;
    let feed = parts.feed(settings.join.clone(), desired_file, shutdown.clone());
    // A restarted agent has the cluster's ranges on disk and takes its datapath over before it says hello,
    // so that the node is never reported unready. A new node gets them with the first Welcome.
    let (welcome, feed) = match parts.desired.welcome() {
        Some(welcome) => (welcome, Some(feed)),
        None => {
            tasks.spawn(feed);
            report(&mut reporter, &mut tasks, &parts.outbox, &shutdown);
            // The first arm only waits, the second is handed to what ends the others, and dropping the
            // third loses a wake-up that nothing needs any more.
            let welcome = tokio::select! {
                welcome = first_welcome(&parts.desired) => welcome,
                ended = tasks.join_next() => return supervise(ended, tasks, shutdown).await,
                () = shutdown.cancelled() => return drain(tasks).await,
            };
            (welcome, None)
        }
    };
    let ranges = NodeRanges::from(&welcome);
    let datapath = open_datapath(
        settings.datapath.clone(),
        &ranges,
        settings.object,
        &mut tasks,
    )
    .await?;
    let network = Network::open().context("cannot open netlink")?;
    prepare_node(&network, &ranges.pods, &ranges.services)
        .await
        .context("cannot prepare the node's network")?;
    datapath_up.send_replace(Some(datapath.inspector().clone()));
    if let Some(feed) = feed {
        look(&mut reporter, &parts.outbox).await;
        tasks.spawn(feed);
        report(&mut reporter, &mut tasks, &parts.outbox, &shutdown);
    }
    let kernel = Kernel { datapath, network };
    spawn_services(&mut tasks, &parts, &kernel, &settings, welcome, &shutdown);
    let health = Health {
        metrics: parts.metrics.clone(),
        datapath: Some(kernel.datapath.clone()),
    };
    tasks.spawn(finish(health.run(listener, shutdown.clone())));
    let pods = Pods::adopt(Arc::new(parts.context(&settings, kernel)))
        .await
        .context("cannot adopt running pods")?;
    tasks.spawn(finish(pods.run(shutdown.clone())));
    tracing::info!("the node is up");
    // `join_next` takes a task out only when it is ready; the other arm only waits.
    tokio::select! {
        ended = tasks.join_next() => supervise(ended, tasks, shutdown).await,
        () = shutdown.cancelled() => drain(tasks).await,
    }
}

/// Starts the loop of Services, and what follows the machine's addresses and memory.
fn spawn_services(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    parts: &Parts,
    kernel: &Kernel,
    settings: &Settings,
    welcome: Welcome,
    shutdown: &CancellationToken,
) {
    let node_ip = parts.machine.node_ip;
    let waiting = crate::addresses::Waiting::default();
    let bursts = Arc::new(crate::memory::Bursts::default());
    let services = Services {
        desired: parts.desired.clone(),
        maps: Arc::new(kernel.datapath.clone()),
        network: Arc::new(kernel.network.clone()),
        events: parts.events.clone(),
        metrics: parts.metrics.clone(),
        welcome,
        data_dir: settings.data_dir.clone(),
        node_name: parts.machine.node_name.clone(),
        node_ip,
        links: waiting.links.clone(),
        bursts: bursts.clone(),
    };
    let services = services.run(shutdown.clone());
    tasks.spawn(async move { services.await.context("the Service loop ended") });
    let changes = waiting.addresses.clone();
    let options = settings.options.clone();
    tasks.spawn(until_address_moves(
        options,
        node_ip,
        changes,
        shutdown.clone(),
    ));
    let addresses = crate::addresses::follow(kernel.datapath.clone(), waiting, shutdown.clone());
    tasks.spawn(finish(addresses));
    tasks.spawn(finish(crate::memory::follow(bursts, shutdown.clone())));
}

/// Ends with an error when the machine has another address in place of the node's: the next start takes it, as any
/// start adopts what runs. Routes, masquerading, the Node's status and NodePorts all follow from the address.
async fn until_address_moves(
    options: RunOptions,
    node_ip: Ipv4Addr,
    changes: Arc<Notify>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let options = Arc::new(options);
    let moved = async || {
        let asked = options.clone();
        knarr_base::blocking::run(move || crate::machine::moved_address(&asked, node_ip)).await
    };
    loop {
        // Both arms only wait.
        tokio::select! {
            () = changes.notified() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let Some(address) = moved().await else {
            continue;
        };
        // As above.
        tokio::select! {
            () = tokio::time::sleep(ADDRESS_SETTLES) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        if moved().await == Some(address) {
            anyhow::bail!(
                "this machine has the address {address} in place of {node_ip}: the agent ends, and starts again as a node with that address"
            );
        }
        // It changed again meanwhile.
        changes.notify_one();
    }
}

async fn look(reporter: &mut Option<NodeReporter>, outbox: &Outbox) {
    if let Some(reporter) = reporter {
        reporter.look(outbox).await;
    }
}

fn report(
    reporter: &mut Option<NodeReporter>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    outbox: &Arc<Outbox>,
    shutdown: &CancellationToken,
) {
    if let Some(reporter) = reporter.take() {
        tasks.spawn(finish(reporter.run(outbox.clone(), shutdown.clone())));
    }
}

async fn finish(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

type Ended = Option<Result<anyhow::Result<()>, tokio::task::JoinError>>;

/// A loop that ends before it should takes the agent with it: whoever started the agent starts it again,
/// and the pods do not notice.
async fn supervise(
    ended: Ended,
    tasks: JoinSet<anyhow::Result<()>>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let stopping = shutdown.is_cancelled();
    shutdown.cancel();
    let result = match ended {
        Some(Ok(Ok(()))) if stopping => Ok(()),
        Some(Ok(Ok(()))) => Err(anyhow::anyhow!("a part of the agent ended by itself")),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(anyhow::Error::new(error).context("a part of the agent failed")),
        None => Ok(()),
    };
    let drained = drain(tasks).await;
    result.and(drained)
}

/// Waits for the loops to end. One that panicked meanwhile is an error of the program, as it would be at any
/// other time.
async fn drain(mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut result = Ok(());
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!("while stopping: {}", knarr_base::chain(&*error));
                }
                Err(error) => {
                    tracing::error!("while stopping: {error}");
                    let error = anyhow::Error::new(error);
                    result = Err(error.context("a part of the agent failed while it stopped"));
                }
            }
        }
    };
    if tokio::time::timeout(SHUTDOWN_WITHIN, all).await.is_err() {
        tracing::warn!("some work was cut off; the next start looks at everything again");
    }
    result
}

async fn first_welcome(desired: &Desired) -> Welcome {
    let mut changes = desired.watch_pods();
    loop {
        changes.borrow_and_update();
        if let Some(welcome) = desired.welcome() {
            return welcome;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn open_datapath(
    mut config: DatapathConfig,
    ranges: &NodeRanges,
    object: &'static [u8],
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<SharedDatapath> {
    config.cluster_cidr = ranges.pods.first().copied();
    if let Some(ports) = &ranges.node_ports {
        config.node_ports = (*ports.start(), *ports.end());
    }
    let (datapath, log) = knarr_base::blocking::run(move || {
        let mut datapath = Datapath::open(&config, object)?;
        let log = datapath.log_task()?;
        Ok::<_, knarr_datapath::DatapathError>((datapath, log))
    })
    .await
    .context("cannot open the datapath")?;
    if let Some(log) = log {
        tasks.spawn(async move { log.await.context("the programs' log ended") });
    }
    Ok(SharedDatapath::new(datapath))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_while_stopping_is_an_error_and_an_error_is_only_told() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async { Err(anyhow::anyhow!("a disk")) });
        drain(tasks).await.expect("told in the log");
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        tasks.spawn(async { panic!("this panic belongs to the test") });
        tasks.spawn(async { Ok(()) });
        let error = drain(tasks).await.expect_err("a panic");
        assert_eq!(
            error.to_string(),
            "a part of the agent failed while it stopped"
        );
    }

    #[tokio::test]
    async fn the_first_failure_is_what_the_program_ends_with() {
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        tasks.spawn(async { panic!("this panic belongs to the test") });
        let first = Some(Ok(Err(anyhow::anyhow!("the first"))));
        let ended = supervise(first, tasks, CancellationToken::new()).await;
        assert_eq!(ended.expect_err("failed").to_string(), "the first");
    }
}
