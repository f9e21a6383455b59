// SPDX-License-Identifier: Apache-2.0
//! Services: from the desired state through the plan into the maps, and routes to other nodes' pods.
//!
//! A burst of changes becomes one plan. Not here: decisions (`knarr_services`), maps and
//! netlink (`knarr-datapath`). Spawned once by `run`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use knarr_api::feed::{EndpointSet, PeerSet, Protocol, ServiceSet, Welcome};
use knarr_datapath::names::NamesFile;
use knarr_datapath::{DatapathError, MapContents, NodeRoute, Strangers};
use knarr_services::{
    DesiredEndpoint, DesiredPort, DesiredService, EndpointKey as PlanKey, ServiceName,
    ServiceProtocol, ServiceTable, TrafficPolicy,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::desired::{Desired, EndpointKey, ServiceChanges, ServiceKey};
use crate::edges::{NodeNetwork, ServiceMaps};
use crate::events::{EventReason, Events, Kind};
use crate::memory::Bursts;
use crate::metrics::Metrics;
use crate::ranges::NodeRanges;

mod purges;

use purges::Purges;

/// Changes that come within this time are one plan. A first change is not held back.
const COALESCE: Duration = Duration::from_millis(2);
/// After an operation failed, the maps are read again and compared with what is wanted.
const RESYNC_AFTER: Duration = Duration::from_secs(5);

/// How often the preparation of the node is tried again: another program that set the same routes has ended by then.
const PREPARE_TRIES: u32 = 5;
/// How long after a failure.
const PREPARE_PAUSE: Duration = Duration::from_millis(50);

/// The loop.
pub struct Services {
    /// What is wanted.
    pub desired: Arc<Desired>,
    /// The maps.
    pub maps: Arc<dyn ServiceMaps>,
    /// Routes.
    pub network: Arc<dyn NodeNetwork>,
    /// Makes the event about a full map.
    pub events: Arc<Events>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The ranges that the node was prepared for.
    pub welcome: Welcome,
    /// Where names for people are kept.
    pub data_dir: PathBuf,
    /// This node.
    pub node_name: String,
    /// This node's address.
    pub node_ip: Ipv4Addr,
    /// Notified when the kernel may have dropped routes.
    pub links: Arc<Notify>,
    /// Counts changes, after many of which memory is given back.
    pub bursts: Arc<Bursts>,
}

/// Whether the maps are known to hold what the table thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Clean,
    Broken,
}

impl Services {
    /// Runs until `shutdown`; the maps keep serving afterwards.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DatapathError> {
        let contents = self.maps.restore().await?;
        let names = Arc::new(Mutex::new(NamesFile::create(&self.data_dir)));
        let mut table = ServiceTable::restore(&self.node_name, &contents);
        drop(contents);
        self.desired.touch_services();
        let start = Instant::now();
        let mut changes = self.desired.watch_services();
        let mut welcome = Some(self.welcome.clone());
        let mut sync = Sync::Clean;
        let mut purges = Purges::new(self.maps.clone());
        let mut routes: Vec<NodeRoute> = Vec::new();
        // They stay due until the kernel has taken them.
        let mut routes_due = false;
        // The ranges' own routes and the settings for forwarding: something else on the machine may undo them.
        let mut prepare_due = false;
        // Until the desired set is complete, a route that it does not name may be one to a node that it will name.
        let mut strangers = Strangers::Keep;
        loop {
            changes.borrow_and_update();
            let mut network = Sync::Clean;
            let now_welcome = self.desired.welcome();
            if prepare_due || now_welcome != welcome {
                network = self.take_welcome(now_welcome.as_ref()).await;
                if network == Sync::Clean {
                    welcome = now_welcome;
                    prepare_due = false;
                }
            }
            let taken = self.desired.take_touched_services();
            let received = Instant::now();
            if taken.complete && strangers == Strangers::Keep {
                strangers = Strangers::Remove;
                routes_due = true;
            }
            if let Some(wanted) = self.take(&mut table, taken) {
                routes = wanted;
                routes_due = true;
            }
            if routes_due {
                match self.network.sync_routes(&routes, strangers).await {
                    Ok(()) => routes_due = false,
                    Err(error) => {
                        let error = anyhow::Error::from(error);
                        tracing::error!("routes to other nodes: {}", knarr_base::chain(&*error));
                        network = Sync::Broken;
                    }
                }
            }
            if sync == Sync::Broken {
                let contents = self.maps.restore().await;
                sync = resync(&mut table, contents);
            }
            // What a table plans that does not know the maps counts as written and never is.
            if sync == Sync::Clean {
                sync = self
                    .carry_out(&mut table, &names, &mut purges, start.elapsed())
                    .await;
            }
            self.metrics.services_synced(received.elapsed());
            let again = sync == Sync::Broken || network == Sync::Broken || names.lock().is_behind();
            let wake = if again {
                Some(RESYNC_AFTER)
            } else {
                table
                    .next_wake()
                    .map(|at| at.saturating_sub(start.elapsed()).max(COALESCE))
            };
            let timer = async {
                match wake {
                    Some(wake) => tokio::time::sleep(wake).await,
                    None => std::future::pending().await,
                }
            };
            // A purge goes on in `purges` when its arm is dropped; every other arm only waits.
            tokio::select! {
                never = purges.run() => match never {},
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if received.elapsed() < COALESCE {
                        tokio::time::sleep(COALESCE).await;
                    }
                }
                () = self.links.notified() => {
                    routes_due = true;
                    prepare_due = true;
                }
                () = timer => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Ranges that the control plane decides.
    async fn take_welcome(&self, welcome: Option<&Welcome>) -> Sync {
        let Some(welcome) = welcome else {
            return Sync::Clean;
        };
        let mut sync = Sync::Clean;
        let NodeRanges {
            pods,
            services,
            node_ports,
            // The feed has logged them.
            refused: _,
        } = NodeRanges::from(welcome);
        if let Err(error) = prepare_node(&*self.network, &pods, &services).await {
            let error = anyhow::Error::from(error);
            tracing::error!(
                "preparing the node's network: {}",
                knarr_base::chain(&*error)
            );
            sync = Sync::Broken;
        }
        if let Some(ports) = node_ports
            && let Err(error) = self.maps.set_node_ports(ports).await
        {
            tracing::error!("{}", knarr_base::chain(&error));
            sync = Sync::Broken;
        }
        sync
    }

    /// Takes changes into the table; returns the routes that the node has to have, where peers changed.
    fn take(&self, table: &mut ServiceTable, changes: ServiceChanges) -> Option<Vec<NodeRoute>> {
        let peers = take_changes(table, changes);
        peers.map(|peers| routes(&peers, &self.node_name, self.node_ip))
    }

    async fn carry_out(
        &self,
        table: &mut ServiceTable,
        names: &Arc<Mutex<NamesFile>>,
        purges: &mut Purges,
        now: Duration,
    ) -> Sync {
        let plan = table.plan(now);
        let was_behind = names.lock().is_behind();
        let (file, new_names) = (names.clone(), plan.names);
        let appended = knarr_base::blocking::run(move || file.lock().append(&new_names)).await;
        if let Err(error) = appended
            && !was_behind
        {
            // Traffic does not need names.
            tracing::warn!(
                "{}: `knarr-agent service` shows ids until it can be written",
                knarr_base::chain(&error)
            );
        }
        for refusal in &plan.refusals {
            tracing::warn!("{refusal}");
            self.events.node(
                Kind::Warning,
                &EventReason::ServiceNotCarried,
                &refusal.to_string(),
            );
        }
        if plan.ops.is_empty() {
            return Sync::Clean;
        }
        tracing::debug!(operations = plan.ops.len(), "programming Services");
        // The order of a removal: flip, keep while terminating, delete the backend, then purge what leads to
        // it. The purge walks whole maps and must not keep the next change waiting.
        self.bursts.add(plan.ops.len());
        let (ops, gone) = knarr_datapath::split_purges(plan.ops);
        let done = self.maps.apply(ops).await;
        purges.add(gone);
        match done {
            Ok(()) => Sync::Clean,
            Err(error) => {
                let text = knarr_base::chain(&error);
                tracing::error!("programming Services: {text}");
                self.events
                    .node(Kind::Warning, &EventReason::ServiceProgrammingFailed, &text);
                self.metrics.services_failed();
                Sync::Broken
            }
        }
    }
}

/// Takes Services and endpoints into the table; returns the peers, which are not of the table.
fn take_changes(table: &mut ServiceTable, changes: ServiceChanges) -> Option<Vec<PeerSet>> {
    let ServiceChanges {
        services,
        endpoints,
        peers,
        complete,
    } = changes;
    for (key, value) in services {
        match value {
            Some(set) => table.set_service(service(&set)),
            None => table.remove_service(&name(&key)),
        }
    }
    for (key, value) in endpoints {
        match value.as_ref().map(endpoint) {
            Some(Some(endpoint)) => table.set_endpoint(endpoint),
            Some(None) => tracing::warn!(?key, "an endpoint without an address is ignored"),
            None => {
                if let Some(key) = endpoint_key(&key) {
                    table.remove_endpoint(&key);
                }
            }
        }
    }
    if complete {
        table.desired_complete();
    }
    peers
}

/// Sysctls and routes of the node. Another program that manages this machine's network may change them in the same moment,
/// so a failure is tried again a few times.
pub async fn prepare_node(
    network: &dyn NodeNetwork,
    pods: &[Ipv4Net],
    services: &[Ipv4Net],
) -> Result<(), DatapathError> {
    let mut left = PREPARE_TRIES;
    loop {
        match network.prepare_node(pods, services).await {
            Err(error) if left > 0 => {
                tracing::debug!(%error, "preparing the node's network again");
                left -= 1;
                tokio::time::sleep(PREPARE_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Goes on from what the maps hold, where they could be read.
fn resync(table: &mut ServiceTable, contents: Result<MapContents, DatapathError>) -> Sync {
    match contents {
        Ok(contents) => {
            table.resync(&contents);
            Sync::Clean
        }
        Err(error) => {
            tracing::error!(
                "the Service maps cannot be read; they are read again in {} s and not written until then: {}",
                RESYNC_AFTER.as_secs(),
                knarr_base::chain(&error)
            );
            Sync::Broken
        }
    }
}

fn name(key: &ServiceKey) -> ServiceName {
    ServiceName::new(key.0.clone(), key.1.clone())
}

fn service(set: &ServiceSet) -> DesiredService {
    let policy = |local: bool| {
        if local {
            TrafficPolicy::Local
        } else {
            TrafficPolicy::Cluster
        }
    };
    let ports = set.ports.iter().filter_map(|p| {
        Some(DesiredPort {
            name: p.name.clone(),
            protocol: match p.protocol() {
                Protocol::Tcp => ServiceProtocol::Tcp,
                Protocol::Udp => ServiceProtocol::Udp,
                Protocol::Sctp => ServiceProtocol::Sctp,
            },
            port: u16::try_from(p.port).ok()?,
            node_port: u16::try_from(p.node_port).ok().filter(|n| *n != 0),
        })
    });
    DesiredService {
        name: ServiceName::new(set.namespace.clone(), set.name.clone()),
        cluster_ips: set
            .cluster_ips
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect(),
        ports: ports.collect(),
        affinity_seconds: set.affinity_seconds,
        internal_policy: policy(set.internal_local),
        external_policy: policy(set.external_local),
    }
}

fn endpoint(set: &EndpointSet) -> Option<DesiredEndpoint> {
    Some(DesiredEndpoint {
        service: ServiceName::new(set.namespace.clone(), set.service.clone()),
        port_name: set.port_name.clone(),
        address: set.address.parse().ok()?,
        port: u16::try_from(set.port).ok()?,
        ready: set.ready,
        serving: set.serving,
        terminating: set.terminating,
        node_name: set.node_name.clone(),
        pod: set.pod.clone(),
    })
}

fn endpoint_key(key: &EndpointKey) -> Option<PlanKey> {
    let (namespace, service, port_name, address, port) = key;
    Some(PlanKey {
        service: ServiceName::new(namespace.clone(), service.clone()),
        port_name: port_name.clone(),
        address: address.parse::<IpAddr>().ok()?,
        port: u16::try_from(*port).ok()?,
    })
}

/// A route for each IPv4 pod range of each other node.
fn routes(peers: &[PeerSet], own: &str, own_ip: Ipv4Addr) -> Vec<NodeRoute> {
    let mut routes = Vec::new();
    for peer in peers.iter().filter(|p| p.name != own) {
        let mut addresses = peer
            .addresses
            .iter()
            .filter_map(|a| a.parse::<Ipv4Addr>().ok());
        let Some(via) = addresses.find(|a| *a != own_ip) else {
            continue;
        };
        for cidr in &peer.pod_cidrs {
            if let Ok(range) = cidr.parse::<Ipv4Net>() {
                let pod_cidr = range.trunc();
                routes.push(NodeRoute { pod_cidr, via });
            }
        }
    }
    routes
}

#[cfg(test)]
pub(crate) mod memory;

#[cfg(test)]
mod tests;
