// SPDX-License-Identifier: Apache-2.0
//! What the loops of the agent share: opened once, then handed to each.
//!
//! Not here: the order in which loops start (`start`).

use std::sync::Arc;

use anyhow::Context as _;
use knarr_datapath::Network;
use knarr_runtime::{Runtime, RuntimeConfig};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::settings::Settings;
use crate::clock::Clock;
use crate::datapath::SharedDatapath;
use crate::desired::Desired;
use crate::edges;
use crate::events::Events;
use crate::feed::{DesiredFile, Feed};
use crate::join::JoinConfig;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::node::{NodeReporter, OpenDatapath, Watched};
use crate::outbox::Outbox;
use crate::pods::ipam::Ipam;
use crate::pods::live::Live;
use crate::pods::records::Records;
use crate::pods::{self, ENDS_AT_ONCE, STARTS_AT_ONCE};
use crate::streams::{NodeServer, Streams};

/// What this process runs, also when its file was replaced by another version's.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the loops share, opened from the disk.
pub(super) struct Parts {
    pub machine: Arc<Machine>,
    pub metrics: Arc<Metrics>,
    pub outbox: Arc<Outbox>,
    pub events: Arc<Events>,
    pub desired: Arc<Desired>,
    pub runtime: Runtime,
    pub records: Arc<Records>,
    pub live: Arc<Live>,
    pub ipam: Ipam,
}

/// What is open in the kernel.
pub(super) struct Kernel {
    pub datapath: SharedDatapath,
    pub network: Network,
}

impl Parts {
    /// Opens them; the file of the desired state is the feed's.
    pub async fn open(
        settings: &Settings,
        machine: Machine,
    ) -> anyhow::Result<(Parts, DesiredFile)> {
        let data_dir = &settings.data_dir;
        let machine = Arc::new(machine);
        let metrics = Arc::new(Metrics::default());
        let outbox = Arc::new(Outbox::default());
        let events = Arc::new(Events::new(outbox.clone(), &machine.node_name));
        let (desired, journal) = Desired::open(&data_dir.join("desired"))?;
        let desired_file = DesiredFile::new(journal, desired.clone(), metrics.clone());
        let cgroups = machine.cgroups.clone();
        let mut config = RuntimeConfig::new(data_dir, &settings.run_dir, cgroups, OWN_PROGRAM);
        config.log = settings.log;
        let runtime = Runtime::open(config)
            .await
            .context("cannot open the container runtime")?;
        let parts = Parts {
            machine,
            metrics,
            outbox,
            events,
            desired,
            runtime,
            records: Arc::new(Records::open(data_dir)?),
            live: Arc::new(Live::default()),
            ipam: Ipam::open(data_dir)?,
        };
        Ok((parts, desired_file))
    }

    pub fn reporter(
        &self,
        settings: &Settings,
        datapath: watch::Receiver<OpenDatapath>,
    ) -> NodeReporter {
        let watched = Watched {
            datapath,
            scheduling: self.desired.watch_scheduling(),
        };
        NodeReporter::new(
            self.machine.clone(),
            self.runtime.clone(),
            settings.labels.clone(),
            settings.max_pods,
            settings.data_dir.clone(),
            watched,
            self.events.clone(),
        )
    }

    /// The loop that keeps the connection to the control plane.
    pub fn feed(
        &self,
        join: JoinConfig,
        desired_file: DesiredFile,
        shutdown: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let server = NodeServer::new(
            self.desired.clone(),
            Arc::new(self.runtime.clone()),
            self.records.clone(),
            self.live.clone(),
        );
        let streams = Arc::new(Streams::new(Arc::new(server)));
        let (outbox, metrics) = (self.outbox.clone(), self.metrics.clone());
        async move {
            // A node that has joined before starts its pods whether or not the control plane answers.
            // A join that is dropped half-way leaves a certificate without its key; the next start joins again.
            let identity = tokio::select! {
                identity = crate::join::identity(&join) => identity?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let feed = Feed {
                join,
                identity,
                desired_file,
                outbox,
                streams: Arc::new(streams),
                metrics,
            };
            feed.run(shutdown).await;
            Ok(())
        }
    }

    /// What the workers of pods share.
    pub fn context(self, settings: &Settings, kernel: Kernel) -> pods::Context {
        let Kernel { datapath, network } = kernel;
        pods::Context {
            desired: self.desired,
            outbox: self.outbox,
            events: self.events,
            edges: edges::node::edges(self.runtime, network, datapath),
            clock: Clock::System,
            ipam: self.ipam,
            records: self.records,
            machine: self.machine,
            max_pods: settings.max_pods,
            sysctls: settings.sysctls.clone(),
            pod_pids: settings.pod_pids,
            metrics: self.metrics,
            live: self.live,
            starts: Semaphore::new(STARTS_AT_ONCE),
            ends: Semaphore::new(ENDS_AT_ONCE),
        }
    }
}
