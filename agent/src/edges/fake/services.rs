// SPDX-License-Identifier: Apache-2.0
//! The Service maps and the node's routes over values (`knarr_services::simulated`): no kernel programs, no netlink, no root.
//!
//! A [`FakeServices`] outlives the Service loops that are started on it, as a kernel does. Tests break what they want to see
//! fail. Here is no decision about Services.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{Error, ErrorKind};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use knarr_datapath::{DatapathError, MapContents, MapOp, NodeRoute, Strangers};
use knarr_services::simulated::{Full, Room, SimulatedMaps};
use parking_lot::{Mutex, MutexGuard};

use crate::edges::{NodeNetwork, ServiceMaps};

/// More than any test fills.
const ROOMY: Room = Room {
    services: 1 << 16,
    slots: 1 << 16,
    backends: 1 << 16,
};

/// What a Service loop sees of a machine.
pub struct FakeServices {
    world: Mutex<World>,
}

struct World {
    maps: SimulatedMaps,
    room: Room,
    routes: BTreeMap<Ipv4Net, Ipv4Addr>,
    guarded: BTreeSet<Ipv4Net>,
    node_ports: Option<RangeInclusive<u16>>,
    broken: BTreeSet<Broken>,
    calls: Calls,
    walks: Vec<Vec<u32>>,
}

/// How often something was asked for, whether or not it worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// The maps were read.
    pub restores: usize,
    /// Operations were carried out.
    pub applies: usize,
    /// The node was prepared.
    pub prepares: usize,
    /// Routes were set.
    pub routes: usize,
}

/// What a test can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Broken {
    /// Maps cannot be read.
    Reading,
    /// Maps cannot be written.
    Writing,
    /// Flows cannot be purged.
    Purging,
    /// The node cannot be prepared.
    Preparing,
    /// Routes cannot be set.
    Routes,
}

impl FakeServices {
    /// Empty maps with room for every test.
    pub fn new() -> Arc<FakeServices> {
        Arc::new(FakeServices {
            world: Mutex::new(World {
                maps: SimulatedMaps::default(),
                room: ROOMY,
                routes: BTreeMap::new(),
                guarded: BTreeSet::new(),
                node_ports: None,
                broken: BTreeSet::new(),
                calls: Calls::default(),
                walks: Vec::new(),
            }),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Breaks something until [`FakeServices::mend`].
    pub fn break_it(&self, what: Broken) {
        self.world().broken.insert(what);
    }

    /// Mends it.
    pub fn mend(&self, what: Broken) {
        self.world().broken.remove(&what);
    }

    /// Gives the maps room for so many backends.
    pub fn resize_backends(&self, backends: usize) {
        self.world().room.backends = backends;
    }

    /// What the maps hold now.
    pub fn maps(&self) -> SimulatedMaps {
        self.world().maps.clone()
    }

    /// The routes to other nodes.
    pub fn routes(&self) -> Vec<NodeRoute> {
        let world = self.world();
        let routes = world.routes.iter();
        routes
            .map(|(pod_cidr, via)| NodeRoute {
                pod_cidr: *pod_cidr,
                via: *via,
            })
            .collect()
    }

    /// Something else on the machine removes all routes.
    pub fn lose_routes(&self) {
        let mut world = self.world();
        world.routes.clear();
        world.guarded.clear();
    }

    /// The ranges that have `unreachable` routes.
    pub fn guarded(&self) -> Vec<String> {
        let world = self.world();
        world.guarded.iter().map(ToString::to_string).collect()
    }

    /// The NodePort range.
    pub fn node_ports(&self) -> Option<RangeInclusive<u16>> {
        self.world().node_ports.clone()
    }

    /// How often things were asked for.
    pub fn calls(&self) -> Calls {
        self.world().calls
    }

    /// The backends of each purge that was begun, also of those that failed.
    pub fn walks(&self) -> Vec<Vec<u32>> {
        self.world().walks.clone()
    }
}

impl World {
    /// Fails as the kernel does where a test has broken this.
    fn try_map(&self, what: Broken, action: &'static str) -> Result<(), DatapathError> {
        if self.broken.contains(&what) {
            return Err(DatapathError::Map {
                action,
                map: "SERVICES",
                source: Error::from(ErrorKind::OutOfMemory),
            });
        }
        Ok(())
    }

    fn try_network(&self, what: Broken, object: &str) -> Result<(), DatapathError> {
        if self.broken.contains(&what) {
            return Err(DatapathError::Network {
                action: "set",
                object: object.to_owned(),
                source: Error::from(ErrorKind::NetworkDown),
            });
        }
        Ok(())
    }

    fn full(&self, full: Full) -> DatapathError {
        let (map, size, flag) = match full {
            Full::Services => ("SERVICES", self.room.services, "--bpf-services"),
            Full::Slots => ("SLOTS", self.room.slots, "--bpf-backends"),
            // The simulated maps have room for every table.
            Full::Tables => ("TABLES", usize::MAX, "--bpf-tables"),
            Full::Backends => ("BACKENDS", self.room.backends, "--bpf-backends"),
        };
        DatapathError::MapFull {
            map,
            max_entries: u32::try_from(size).unwrap_or(u32::MAX),
            flag,
        }
    }
}

#[async_trait]
impl ServiceMaps for FakeServices {
    async fn restore(&self) -> Result<MapContents, DatapathError> {
        let mut world = self.world();
        world.calls.restores += 1;
        world.try_map(Broken::Reading, "read")?;
        Ok(world.maps.contents())
    }

    async fn apply(&self, ops: Vec<MapOp>) -> Result<(), DatapathError> {
        let mut world = self.world();
        world.calls.applies += 1;
        world.try_map(Broken::Writing, "write")?;
        let room = world.room;
        let done = world.maps.apply_within(&ops, &room);
        done.map_err(|full| world.full(full))
    }

    async fn set_node_ports(&self, ports: RangeInclusive<u16>) -> Result<(), DatapathError> {
        let mut world = self.world();
        world.try_map(Broken::Writing, "write")?;
        world.node_ports = Some(ports);
        Ok(())
    }

    async fn purge_backends(&self, gone: Arc<HashSet<u32>>) -> Result<(), DatapathError> {
        let mut world = self.world();
        let mut ids: Vec<u32> = gone.iter().copied().collect();
        ids.sort_unstable();
        world.walks.push(ids.clone());
        world.try_map(Broken::Purging, "delete from")?;
        world.maps.apply(&[MapOp::PurgeBackends { ids }]);
        Ok(())
    }
}

#[async_trait]
impl NodeNetwork for FakeServices {
    async fn prepare_node(
        &self,
        pods: &[Ipv4Net],
        services: &[Ipv4Net],
    ) -> Result<(), DatapathError> {
        let mut world = self.world();
        world.calls.prepares += 1;
        world.try_network(Broken::Preparing, "the unreachable route")?;
        world.guarded = pods.iter().chain(services).copied().collect();
        Ok(())
    }

    async fn sync_routes(
        &self,
        routes: &[NodeRoute],
        strangers: Strangers,
    ) -> Result<(), DatapathError> {
        let mut world = self.world();
        world.calls.routes += 1;
        world.try_network(Broken::Routes, "the route")?;
        if strangers == Strangers::Remove {
            world.routes.clear();
        }
        let wanted = routes.iter().map(|route| (route.pod_cidr, route.via));
        world.routes.extend(wanted);
        Ok(())
    }
}
