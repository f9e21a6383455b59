// SPDX-License-Identifier: Apache-2.0
//! Wires the agent: opens what it needs in the order that lets pods and Services go on first, and
//! supervises the loops.

use crate::clock::Clock;
use crate::config::{
    ConfigError, HEALTH_LISTEN_DEFAULT, MAX_PODS_DEFAULT, POD_PIDS_DEFAULT, RunOptions,
};
use crate::desired::Desired;
use crate::edges;
use crate::events::Events;
use crate::feed::{Feed, Keeper};
use crate::health::{Health, HealthListener};
use crate::join::JoinConfig;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::node::{NodeReporter, OpenDatapath, Watched};
use crate::outbox::Outbox;
use crate::pods::ipam::Ipam;
use crate::pods::live::Live;
use crate::pods::records::Records;
use crate::pods::{Context, ENDS_AT_ONCE, Pods, STARTS_AT_ONCE};
use crate::ranges::NodeRanges;
use crate::services::{Services, SharedDatapath, prepare_node};
use crate::streams::Streams;
use anyhow::Context as _;
use knarr_api::feed::Welcome;
use knarr_datapath::{Datapath, DatapathConfig, MapSizes, Network, ProgramLog, TcHook};
use knarr_runtime::{Runtime, RuntimeConfig};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the loops may take to end after a signal.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
/// How long the lock of an agent that was just killed may still be there.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// How often the lock is tried within [`LOCK_WITHIN`].
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// A link that is being set up may have an address for a moment only: another address counts when the machine has it
/// this long.
const ADDRESS_SETTLES: Duration = Duration::from_secs(5);
/// What this process runs, also when its file was replaced by another version's.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Kubernetes' NodePort range, used until the control plane says its own.
const NODE_PORTS_DEFAULT: (u16, u16) = (30_000, 32_767);

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
    let (data_dir, run_dir) = (options.data_dir(), options.run_dir());
    let join = JoinConfig::new(&options, &machine.node_name)?;
    let labels = options.labels()?;
    let log_policy = options.log_policy()?;
    let sysctls = options.allowed_sysctls()?;
    let datapath_config = datapath_config(&options, &machine)?;
    let object = crate::object::datapath_object()?;
    // Before anything is made and anybody is asked: it would not help to join.
    Datapath::check_bpf_root(&datapath_config.bpf_root)?;
    crate::files::private_dir(&data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    crate::files::private_dir(&run_dir)
        .with_context(|| format!("cannot make the run directory {}", run_dir.display()))?;
    let _lock = lock(&data_dir).await?;
    let listener = options
        .health_listen
        .as_deref()
        .unwrap_or(HEALTH_LISTEN_DEFAULT);
    let listener = HealthListener::bind(listener).await?;
    say_ready();

    let machine = Arc::new(machine);
    let metrics = Arc::new(Metrics::default());
    let outbox = Arc::new(Outbox::default());
    let events = Arc::new(Events::new(outbox.clone(), &machine.node_name));
    let (desired, journal) = Desired::open(&data_dir.join("desired"))?;
    let keeper = Keeper::new(journal, desired.clone(), metrics.clone());
    let cgroups = machine.cgroups.clone();
    let mut runtime_config = RuntimeConfig::new(&data_dir, &run_dir, cgroups, OWN_PROGRAM);
    runtime_config.log = log_policy;
    let runtime = Runtime::open(runtime_config)
        .await
        .context("cannot open the container runtime")?;
    let records = Arc::new(Records::open(&data_dir)?);
    let live = Arc::new(Live::default());
    let ipam = Ipam::open(&data_dir)?;

    let (datapath_up, datapath_open) = watch::channel(OpenDatapath::None);
    let mut reporter = Some(NodeReporter::new(
        machine.clone(),
        runtime.clone(),
        labels,
        options.max_pods.unwrap_or(MAX_PODS_DEFAULT),
        data_dir.clone(),
        Watched {
            datapath: datapath_open,
            scheduling: desired.watch_scheduling(),
        },
        events.clone(),
    ));
    look(&mut reporter, &outbox).await;
    let streams = Arc::new(Streams::new(
        desired.clone(),
        Arc::new(runtime.clone()),
        records.clone(),
        live.clone(),
    ));
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let feed = {
        let (outbox, metrics) = (outbox.clone(), metrics.clone());
        let shutdown = shutdown.clone();
        async move {
            // A node that has joined before starts its pods whether or not anybody answers.
            // A join that is dropped half-way leaves a certificate that nobody holds the key of; the next
            // start joins again.
            let identity = tokio::select! {
                identity = crate::join::identity(&join) => identity?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let feed = Feed {
                join,
                identity,
                keeper,
                outbox,
                streams: Arc::new(streams),
                metrics,
            };
            feed.run(shutdown).await;
            Ok(())
        }
    };
    // A restarted agent has the cluster's ranges on disk and takes its datapath over before it says hello,
    // so that the node is never reported unready. A new node gets them with the first Welcome.
    let (welcome, feed) = match desired.welcome() {
        Some(welcome) => (welcome, Some(feed)),
        None => {
            tasks.spawn(feed);
            report(&mut reporter, &mut tasks, &outbox, &shutdown);
            // The first arm only waits, the second is handed to whoever ends the others, and dropping the
            // third loses a wake-up that nobody needs any more.
            let welcome = tokio::select! {
                welcome = first_welcome(&desired) => welcome,
                ended = tasks.join_next() => return supervise(ended, tasks, shutdown).await,
                () = shutdown.cancelled() => return drain(tasks).await,
            };
            (welcome, None)
        }
    };
    let ranges = NodeRanges::from(&welcome);
    let datapath = open_datapath(datapath_config, &ranges, object, &mut tasks).await?;
    let network = Network::open().context("cannot open netlink")?;
    prepare_node(&network, &ranges.pods, &ranges.services)
        .await
        .context("cannot prepare the node's network")?;
    datapath_up.send_replace(Some(datapath.inspector().clone()));
    if let Some(feed) = feed {
        look(&mut reporter, &outbox).await;
        tasks.spawn(feed);
        report(&mut reporter, &mut tasks, &outbox, &shutdown);
    }
    let waiting = crate::addresses::Waiting::default();
    let bursts = Arc::new(crate::memory::Bursts::default());
    let services = Services {
        desired: desired.clone(),
        datapath: datapath.clone(),
        network: network.clone(),
        events: events.clone(),
        metrics: metrics.clone(),
        welcome,
        data_dir: data_dir.clone(),
        node_name: machine.node_name.clone(),
        node_ip: machine.node_ip,
        links: waiting.links.clone(),
        bursts: bursts.clone(),
    };
    let services = services.run(shutdown.clone());
    tasks.spawn(async move { services.await.context("the Service loop ended") });
    let changes = waiting.addresses.clone();
    let moves = until_address_moves(options.clone(), machine.node_ip, changes, shutdown.clone());
    tasks.spawn(moves);
    let addresses = crate::addresses::follow(datapath.clone(), waiting, shutdown.clone());
    tasks.spawn(finish(addresses));
    tasks.spawn(finish(crate::memory::follow(bursts, shutdown.clone())));
    let health = Health {
        metrics: metrics.clone(),
        datapath: Some(datapath.clone()),
    };
    tasks.spawn(finish(health.run(listener, shutdown.clone())));
    let context = Arc::new(Context {
        desired,
        outbox,
        events,
        edges: edges::node::edges(runtime, network, datapath),
        clock: Clock::System,
        ipam,
        records,
        machine,
        max_pods: options.max_pods.unwrap_or(MAX_PODS_DEFAULT),
        sysctls,
        pod_pids: Some(options.pod_pids.unwrap_or(POD_PIDS_DEFAULT)).filter(|n| *n > 0),
        metrics,
        live,
        starts: Semaphore::new(STARTS_AT_ONCE),
        ends: Semaphore::new(ENDS_AT_ONCE),
    });
    let pods = Pods::adopt(context)
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

/// One agent for each data directory.
async fn lock(data_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = data_dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let started = tokio::time::Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            // The kernel needs a moment to close the files of an agent that was killed.
            Err((unlocked, _)) if started.elapsed() < LOCK_WITHIN => file = unlocked,
            Err((_, Errno::EWOULDBLOCK)) => anyhow::bail!(
                "another agent uses {}; stop it, or give this one its own --data-dir and --run-dir",
                data_dir.display()
            ),
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
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

fn datapath_config(options: &RunOptions, machine: &Machine) -> Result<DatapathConfig, ConfigError> {
    let defaults = MapSizes::default();
    let wrong = |option, value: &str, what: &str| ConfigError::Value {
        option,
        value: value.to_owned(),
        what: what.to_owned(),
    };
    let log = match options.bpf_log.as_deref() {
        None | Some("off") => ProgramLog::Off,
        Some("warn") => ProgramLog::Warn,
        Some("debug") => ProgramLog::Debug,
        Some(other) => return Err(wrong("bpf-log", other, "is none of off, warn, debug")),
    };
    let tc_hook = match options.tc_hook.as_deref() {
        None | Some("auto") => TcHook::Auto,
        Some("classic") => TcHook::Classic,
        Some(other) => return Err(wrong("tc-hook", other, "is neither auto nor classic")),
    };
    Ok(DatapathConfig {
        bpf_root: options.bpf_root(),
        cgroup_root: machine.cgroups.unified_root(),
        uplinks: machine.uplinks.clone(),
        node_ip: machine.node_ip,
        cluster_cidr: None,
        node_ports: NODE_PORTS_DEFAULT,
        sizes: MapSizes {
            services: options.bpf_services.unwrap_or(defaults.services),
            backends: options.bpf_backends.unwrap_or(defaults.backends),
            tables: options.bpf_tables.unwrap_or(defaults.tables),
            affinity: options.bpf_affinity.unwrap_or(defaults.affinity),
            flows: options.bpf_flows.unwrap_or(defaults.flows),
            sockets: options.bpf_sockets.unwrap_or(defaults.sockets),
        },
        log,
        tc_hook,
    })
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
