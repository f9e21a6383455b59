// SPDX-License-Identifier: Apache-2.0
//! The Node object as this machine sees itself: addresses, capacity, conditions, images. Looked at with
//! each heartbeat, said only when it changed.
//!
//! Not here: the heartbeat itself (`feed`). Spawned once by `run`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_agent_plan::Millis;
use knarr_agent_plan::node::{
    ConditionKind, DatapathState, NodeEvent, Pressure, Scheduling, change, conditions,
    scheduling_change,
};
use knarr_agent_plan::status::time;
use knarr_api::quantity::Quantity;
use knarr_datapath::DatapathError;
use knarr_datapath::inspect::Inspector;
use knarr_datapath::overflow::{self, Room};
use knarr_runtime::{Image, ImageStore, ImagesStamp, Runtime};
use procfs::Current;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::events::{EventReason, Events, Kind};
use crate::machine::Machine;
use crate::outbox::Outbox;

/// How often the machine is looked at: a condition is seen after this long at most.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Images in the status (kubelet's nodeStatusMaxImages).
const IMAGES_MAX: usize = 50;
/// Kubernetes' version whose behaviour this node has.
pub const KUBELET_VERSION: &str = concat!("v1.37.0+knarr.", env!("CARGO_PKG_VERSION"));

/// The datapath, once it is open.
pub type OpenDatapath = Option<Inspector>;

/// What the Node follows besides the machine.
pub struct Watched {
    /// Whether pods can have a network.
    pub datapath: watch::Receiver<OpenDatapath>,
    /// Whether the node gets new pods.
    pub scheduling: watch::Receiver<Scheduling>,
}

/// Makes the Node.
pub struct NodeReporter {
    machine: Arc<Machine>,
    runtime: Runtime,
    labels: Vec<(String, String)>,
    max_pods: u32,
    data_dir: PathBuf,
    datapath: watch::Receiver<OpenDatapath>,
    scheduling: watch::Receiver<Scheduling>,
    /// What was last told of scheduling.
    told: Scheduling,
    events: Arc<Events>,
    /// The programs' statistics at the last look; none before the first.
    stats: Stats,
    /// The images, and the state of the store that they were read in.
    images: Option<(ImagesStamp, Vec<Image>)>,
    /// Last transition of each condition.
    since: BTreeMap<ConditionKind, (bool, Millis)>,
}

impl NodeReporter {
    /// For this machine.
    pub fn new(
        machine: Arc<Machine>,
        runtime: Runtime,
        labels: Vec<(String, String)>,
        max_pods: u32,
        data_dir: PathBuf,
        watched: Watched,
        events: Arc<Events>,
    ) -> NodeReporter {
        let Watched {
            datapath,
            scheduling,
        } = watched;
        // What was known before a restart was told before it.
        let told = *scheduling.borrow();
        NodeReporter {
            machine,
            runtime,
            labels,
            max_pods,
            data_dir,
            datapath,
            told,
            scheduling,
            events,
            stats: Stats::new(),
            images: None,
            since: BTreeMap::new(),
        }
    }

    /// Looks again and again until `shutdown`.
    pub async fn run(mut self, outbox: Arc<Outbox>, shutdown: CancellationToken) {
        loop {
            self.look(&outbox).await;
            let changed = async {
                if self.datapath.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let rescheduled = async {
                if self.scheduling.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            // Every arm only waits.
            tokio::select! {
                () = changed => {}
                () = rescheduled => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Looks once.
    pub async fn look(&mut self, outbox: &Outbox) {
        let (store, data_dir) = (self.runtime.images().clone(), self.data_dir.clone());
        if self.since.is_empty() {
            self.events
                .node(Kind::Normal, &EventReason::Starting, "Starting kubelet.");
        }
        self.tell_scheduling();
        let (known, datapath) = (self.images.take(), self.datapath.borrow().clone());
        let (pressure, images, disk_bytes, read) = knarr_base::blocking::run(move || {
            let read = datapath.and_then(|inspector| match read_stats(&inspector) {
                Ok(read) => Some(read),
                Err(error) => {
                    tracing::debug!(%error, "the datapath's statistics cannot be read");
                    None
                }
            });
            let images = look_at_images(&store, known);
            (measure(&data_dir), images, disk_bytes(&data_dir), read)
        })
        .await;
        if let Some((stats, room)) = read {
            self.tell_overflows(&stats, &room);
            self.stats = stats;
        }
        let listed = images.as_ref().map_or(&[][..], |(_, images)| images);
        let node = self.node(&pressure, listed, disk_bytes, crate::clock::now_ms());
        self.images = images;
        match serde_json::to_vec(&node) {
            Ok(json) => outbox.node(json.into()),
            Err(error) => tracing::error!(%error, "the Node cannot be written"),
        }
    }

    /// Says which maps of the kernel programs had no room since the last look; at the first, since they were made: the
    /// programs go on while no agent looks.
    fn tell_overflows(&self, stats: &Stats, room: &Room) {
        for overflow in overflow::overflows(&self.stats, stats, room) {
            tracing::warn!("{}", overflow.message);
            let reason = EventReason::Overflow(overflow.reason);
            self.events.node(Kind::Warning, &reason, &overflow.message);
        }
    }

    /// Tells of a changed `spec.unschedulable`, as kubelet (v1.37). That one says after each start that a node is not
    /// schedulable; here only a change is told.
    fn tell_scheduling(&mut self) {
        let now = *self.scheduling.borrow_and_update();
        let before = std::mem::replace(&mut self.told, now);
        if let Some(event) = scheduling_change(before, now) {
            self.tell_change(event);
        }
    }

    fn tell_change(&self, event: NodeEvent) {
        let name = &self.machine.node_name;
        let message = format!("Node {name} status is now: {}", event.as_str());
        let reason = EventReason::Node(event);
        self.events.node(Kind::Normal, &reason, &message);
    }

    fn node(
        &mut self,
        pressure: &Pressure,
        images: &[Image],
        disk_bytes: i64,
        now_ms: Millis,
    ) -> Node {
        let machine = self.machine.clone();
        let mut labels = machine.labels();
        labels.extend(self.labels.iter().cloned());
        let text = |q: Quantity| ApiQuantity(q.to_string());
        let resources = |cpu_milli: i64, memory: i64| -> BTreeMap<String, ApiQuantity> {
            BTreeMap::from([
                ("cpu".to_owned(), text(Quantity::from_millis(cpu_milli))),
                ("memory".to_owned(), text(Quantity::from_bytes(memory))),
                (
                    "ephemeral-storage".to_owned(),
                    text(Quantity::from_bytes(disk_bytes)),
                ),
                (
                    "pods".to_owned(),
                    text(Quantity::from_units(self.max_pods.into())),
                ),
            ])
        };
        let capacity = resources(machine.cpus * 1000, machine.memory_bytes);
        let free = machine.allocatable(self.max_pods);
        let allocatable = resources(free.cpu_milli, free.memory_bytes);
        let datapath = if self.datapath.borrow().is_some() {
            DatapathState::Up
        } else {
            DatapathState::Down
        };
        let conditions = conditions(pressure, datapath).map(|c| {
            let before = self.since.get(&c.kind).map(|(held, _)| *held);
            if let Some(event) = change(&c, before) {
                self.tell_change(event);
            }
            let since = self.since.entry(c.kind).or_insert((c.holds, now_ms));
            if since.0 != c.holds {
                *since = (c.holds, now_ms);
            }
            NodeCondition {
                type_: c.kind.as_str().to_owned(),
                status: if c.holds { "True" } else { "False" }.to_owned(),
                reason: Some(c.reason.as_str().to_owned()),
                message: Some(c.message.to_owned()),
                last_transition_time: Some(time(since.1)),
                // The control plane puts the time in at which it hears of this: a report that says the same again is
                // the same.
                last_heartbeat_time: Some(time(since.1)),
            }
        });
        let address = |type_: &str, address: String| NodeAddress {
            type_: type_.to_owned(),
            address,
        };
        let status = NodeStatus {
            addresses: Some(vec![
                address("InternalIP", machine.node_ip.to_string()),
                address("Hostname", machine.node_name.clone()),
            ]),
            capacity: Some(capacity),
            allocatable: Some(allocatable),
            conditions: Some(conditions.to_vec()),
            daemon_endpoints: Some(NodeDaemonEndpoints::default()),
            images: Some(container_images(images)),
            node_info: Some(NodeSystemInfo {
                architecture: Machine::architecture().to_owned(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: concat!("knarr://", env!("CARGO_PKG_VERSION"))
                    .to_owned(),
                kernel_version: machine.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: machine.os_image.clone(),
                system_uuid: machine.system_uuid.clone(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        };
        Node {
            metadata: ObjectMeta {
                name: Some(machine.node_name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec::default()),
            status: Some(status),
        }
    }
}

/// The largest images, as kubelet lists them.
fn container_images(images: &[Image]) -> Vec<ContainerImage> {
    let mut list: Vec<ContainerImage> = images
        .iter()
        .map(|image| ContainerImage {
            names: Some(image.names.iter().map(ToString::to_string).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect();
    list.sort_by(|a, b| {
        b.size_bytes
            .cmp(&a.size_bytes)
            .then_with(|| a.names.cmp(&b.names))
    });
    list.truncate(IMAGES_MAX);
    list
}

type Stats = Vec<(&'static str, u64)>;

fn read_stats(inspector: &Inspector) -> Result<(Stats, Room), DatapathError> {
    Ok((inspector.stats()?, inspector.room()?))
}

/// The images as they are; read again only where the store changed since `known`.
fn look_at_images(
    store: &ImageStore,
    known: Option<(ImagesStamp, Vec<Image>)>,
) -> Option<(ImagesStamp, Vec<Image>)> {
    let stamp = match store.stamp() {
        Ok(stamp) => stamp,
        Err(error) => {
            tracing::debug!(%error, "the image store cannot be looked at");
            return None;
        }
    };
    if let Some((at, images)) = known
        && stamp.is_same(&at)
    {
        return Some((at, images));
    }
    match store.list() {
        Ok(images) => Some((stamp, images)),
        Err(error) => {
            tracing::debug!(%error, "the images cannot be listed");
            None
        }
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 100,
        whole => part.saturating_mul(100) / whole,
    }
}

/// Looks at memory, disk and process numbers. What cannot be read is taken for sufficient.
fn measure(data_dir: &std::path::Path) -> Pressure {
    let (mut disk_free_percent, mut inodes_free_percent) = (100, 100);
    if let Ok(disk) = nix::sys::statvfs::statvfs(data_dir) {
        disk_free_percent = percent(disk.blocks_available(), disk.blocks());
        inodes_free_percent = percent(disk.files_available(), disk.files());
    }
    Pressure {
        memory_available: memory_available().unwrap_or(i64::MAX),
        disk_free_percent,
        inodes_free_percent,
        pids_free_percent: pids_free_percent().unwrap_or(100),
    }
}

fn memory_available() -> Option<i64> {
    static SAID: Once = Once::new();
    let available = procfs::Meminfo::current().map(|memory| memory.mem_available);
    if !matches!(available, Ok(Some(_))) {
        SAID.call_once(|| {
            tracing::warn!(
                error = available.as_ref().err().map(tracing::field::display),
                "/proc/meminfo does not say how much memory is available: MemoryPressure stays False"
            );
        });
    }
    i64::try_from(available.ok()??).ok()
}

fn pids_free_percent() -> Option<u64> {
    let max = u64::try_from(procfs::sys::kernel::pid_max().ok()?).ok()?;
    let running = u64::from(procfs::LoadAverage::current().ok()?.max);
    Some(percent(max.saturating_sub(running), max))
}

fn disk_bytes(data_dir: &std::path::Path) -> i64 {
    let bytes = nix::sys::statvfs::statvfs(data_dir)
        .map(|disk| disk.blocks().saturating_mul(disk.fragment_size()));
    i64::try_from(bytes.unwrap_or(0)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_measured() {
        let pressure = measure(std::path::Path::new("/"));
        assert!(pressure.memory_available > 0);
        assert!(pressure.pids_free_percent <= 100);
        assert!(disk_bytes(std::path::Path::new("/")) > 0);
    }
}
