// SPDX-License-Identifier: Apache-2.0
//! What every node knows of Services: the desired table, and the map entries that follow from it. It keeps what is desired
//! and what the maps hold, and says what to change.
//!
//! Plain functions: no maps, files or clock; `now` is an argument. The agent feeds it from the node feed
//! (`set_service`, `set_endpoint`, ...), calls [`ServiceTable::plan`], and gives the operations to
//! `knarr_datapath::Datapath::apply`. The cost of a plan depends on what changed, never on how many
//! Services there are.
//!
//! ```text
//! endpoint comes:   SetBackend -> SetSlots/SetTable of a new generation -> SetService (flip)
//! endpoint goes:    SetSlots/SetTable -> SetService (flip) -> SetBackend(drained)
//!                   ... RETIRE_AFTER later: RemoveSlots/RemoveTable, RemoveBackend, PurgeBackends
//! ```
#![forbid(unsafe_code)]

mod desired;
mod ids;
mod output;
mod port;
mod restored;
pub mod simulated;
mod small;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use knarr_ebpf_common::ops::Named;
use knarr_ebpf_common::{MapContents, MapOp, ServiceKey};

pub use desired::{
    DesiredEndpoint, DesiredPort, DesiredService, EndpointKey, Refusal, ServiceName,
    ServiceProtocol, TrafficPolicy,
};
use desired::{Endpoint, Endpoints, Nodes};
use ids::Ids;
use output::Output;
use port::{PortState, Waiting};
use restored::Restored;

/// Old generations and removed backends stay this long after the flip. A kernel program that read the
/// old entry needs microseconds; seconds leave room for a preempted one.
pub const RETIRE_AFTER: Duration = Duration::from_secs(5);

/// One port of one Service. Many places name it, and all of them share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PortKey(Arc<(ServiceName, Box<str>)>);

impl PortKey {
    fn new(service: &ServiceName, port_name: &str) -> Self {
        Self(Arc::new((service.clone(), port_name.into())))
    }

    fn service(&self) -> &ServiceName {
        &self.0.0
    }

    fn port_name(&self) -> &str {
        &self.0.1
    }

    fn endpoint(&self, address: std::net::IpAddr, port: u16) -> EndpointKey {
        EndpointKey {
            service: self.service().clone(),
            port_name: self.port_name().to_owned(),
            address,
            port,
        }
    }
}

/// Maps of fewer entries keep the room that they have.
const SHRINK_MIN: usize = 256;

/// Gives room back after many entries went.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>) {
    if map.capacity() > SHRINK_MIN && map.len() < map.capacity() / 4 {
        map.shrink_to_fit();
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Map operations in safe order.
    pub ops: Vec<MapOp>,
    /// What new and removed ids stand for, for `knarr-agent service`.
    pub names: Vec<Named>,
    /// What cannot be carried yet, once for each time it is set: log it and make an Event of it.
    pub refusals: Vec<Refusal>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.names.is_empty() && self.refusals.is_empty()
    }
}

/// Desired Services beside what the maps hold.
#[derive(Debug)]
pub struct ServiceTable {
    node_name: String,
    service_ids: Ids,
    backend_ids: Ids,
    // Boxed: a hash table has room for half as many again.
    services: HashMap<ServiceName, Box<DesiredService>>,
    endpoints: HashMap<PortKey, Endpoints>,
    nodes: Nodes,
    ports: HashMap<PortKey, Box<PortState>>,
    owners: HashMap<ServiceKey, PortKey>,
    waiting: Waiting,
    dirty: BTreeSet<PortKey>,
    restored: Restored,
    retired: BTreeMap<Duration, Vec<Retired>>,
    refusals: Vec<Refusal>,
    prune: Prune,
}

/// Whether entries that are not desired may be removed at the next plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prune {
    /// The desired set is not complete yet: leave unknown entries alone.
    Wait,
    /// It is complete, and not all that the maps hold has been compared with it.
    Now,
    /// It is complete and compared.
    Done,
}

/// Something that nothing points at any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Retired {
    Generation {
        set: u32,
        generation: u32,
        slots: u32,
        table_len: u32,
    },
    Backend {
        port: PortKey,
        service: u32,
        address: knarr_ebpf_common::Address,
        port_be: u16,
        id: u32,
    },
    OrphanBackend {
        id: u32,
    },
    Service {
        id: u32,
    },
}

impl ServiceTable {
    /// A table for the node of this name, over what its maps hold (empty for a new node). What is found
    /// keeps serving under its ids and generations until it is desired or [`Self::desired_complete`].
    pub fn restore(node_name: &str, contents: &MapContents) -> Self {
        Self {
            node_name: node_name.to_owned(),
            service_ids: Ids::after(contents.service_id_high),
            backend_ids: Ids::after(contents.backend_id_high),
            services: HashMap::new(),
            endpoints: HashMap::new(),
            nodes: Nodes::default(),
            ports: HashMap::new(),
            owners: HashMap::new(),
            waiting: Waiting::new(),
            dirty: BTreeSet::new(),
            restored: Restored::new(contents),
            retired: BTreeMap::new(),
            refusals: Vec::new(),
            prune: Prune::Wait,
        }
    }

    /// Starts again from what the maps really hold, with the same desired set: after an operation failed
    /// (a full map). Until the desired set is complete, entries outside it stay as after a restart.
    pub fn resync(&mut self, contents: &MapContents) {
        self.ports.clear();
        self.owners.clear();
        self.waiting.clear();
        self.retired.clear();
        self.restored = Restored::new(contents);
        self.service_ids.raise(contents.service_id_high);
        self.backend_ids.raise(contents.backend_id_high);
        if self.prune == Prune::Done {
            self.prune = Prune::Now;
        }
        let names: Vec<ServiceName> = self.services.keys().cloned().collect();
        for name in names {
            self.mark(&name);
        }
    }

    /// The desired set is complete: the next plan removes every entry that is not in it.
    pub fn desired_complete(&mut self) {
        self.prune = Prune::Now;
    }

    /// Makes the desired set exactly this (a full snapshot).
    pub fn replace(&mut self, services: Vec<DesiredService>, endpoints: Vec<DesiredEndpoint>) {
        let keep: BTreeSet<ServiceName> = services.iter().map(|s| s.name.clone()).collect();
        let gone: Vec<ServiceName> = self
            .services
            .keys()
            .filter(|name| !keep.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.remove_service(&name);
        }
        let keep: BTreeSet<EndpointKey> = endpoints.iter().map(DesiredEndpoint::key).collect();
        let gone: Vec<EndpointKey> = self
            .endpoints
            .iter()
            .flat_map(|(port, at)| {
                at.keys()
                    .map(|(address, number)| port.endpoint(*address, *number))
            })
            .filter(|key| !keep.contains(key))
            .collect();
        for key in gone {
            self.remove_endpoint(&key);
        }
        for service in services {
            self.set_service(service);
        }
        for endpoint in endpoints {
            self.set_endpoint(endpoint);
        }
        self.desired_complete();
    }

    /// Adds or changes a Service.
    pub fn set_service(&mut self, service: DesiredService) {
        let known = self.services.get(&service.name);
        if known.is_some_and(|known| **known == service) {
            return;
        }
        let name = service.name.clone();
        self.mark(&name);
        self.refusals.extend(service.refusals());
        self.services.insert(name.clone(), Box::new(service));
        self.mark(&name);
    }

    /// Removes a Service; its endpoints may come and go later on their own.
    pub fn remove_service(&mut self, name: &ServiceName) {
        self.mark(name);
        self.services.remove(name);
    }

    /// Adds or changes an endpoint. It may come before its Service.
    pub fn set_endpoint(&mut self, endpoint: DesiredEndpoint) {
        let port = self.shared(PortKey::new(&endpoint.service, &endpoint.port_name));
        let at = self.endpoints.entry(port.clone()).or_default();
        let identity = (endpoint.address, endpoint.port);
        let kept = Endpoint::new(endpoint, &mut self.nodes);
        if at.get(&identity) != Some(&kept) {
            at.insert(identity, kept);
            self.dirty.insert(port);
        }
    }

    /// Removes an endpoint.
    pub fn remove_endpoint(&mut self, key: &EndpointKey) {
        let port = PortKey::new(&key.service, &key.port_name);
        if let Some(at) = self.endpoints.get_mut(&port)
            && at.remove(&(key.address, key.port)).is_some()
        {
            if at.is_empty() {
                self.endpoints.remove(&port);
            }
            self.dirty.insert(port);
        }
    }

    /// When [`Self::plan`] has something to do without any change: the time of the next clean-up.
    pub fn next_wake(&self) -> Option<Duration> {
        self.retired.keys().next().map(|at| *at + RETIRE_AFTER)
    }

    /// What to do. `now` is any monotonic time; the operations count as done once returned.
    pub fn plan(&mut self, now: Duration) -> Plan {
        let mut out = Output::default();
        while let Some(key) = self.dirty.pop_first() {
            self.plan_port(key, now, &mut out);
            self.dirty.extend(out.again.drain(..));
        }
        if self.prune == Prune::Now {
            self.prune = Prune::Done;
            self.restored.prune(&mut out, &self.owners);
        }
        for retired in std::mem::take(&mut out.retired) {
            self.retired.entry(now).or_default().push(retired);
        }
        self.sweep(now, &mut out);
        let mut plan = out.into_plan();
        plan.refusals = std::mem::take(&mut self.refusals);
        shrink(&mut self.services);
        shrink(&mut self.endpoints);
        shrink(&mut self.ports);
        shrink(&mut self.owners);
        plan
    }

    /// The same key as the one that is kept already.
    fn shared(&self, key: PortKey) -> PortKey {
        let of_ports = self.ports.get_key_value(&key).map(|(known, _)| known);
        let known = of_ports.or_else(|| self.endpoints.get_key_value(&key).map(|(known, _)| known));
        known.cloned().unwrap_or(key)
    }

    fn mark(&mut self, name: &ServiceName) {
        if let Some(service) = self.services.get(name) {
            for port in &service.ports {
                self.dirty.insert(PortKey::new(name, &port.name));
            }
        }
    }

    fn plan_port(&mut self, key: PortKey, now: Duration, out: &mut Output) {
        let key = &self.shared(key);
        let none = Endpoints::default();
        let wanted = self.services.get(key.service()).and_then(|service| {
            let port = service
                .ports
                .iter()
                .find(|port| port.name == key.port_name())?;
            desired::resolve(
                service,
                port,
                self.endpoints.get(key).unwrap_or(&none),
                &self.node_name,
            )
        });
        let Some(wanted) = wanted else {
            if let Some(state) = self.ports.remove(key) {
                state.remove(key, &mut self.owners, &mut self.waiting, out);
            }
            return;
        };
        let state = self.ports.entry(key.clone()).or_insert_with(|| {
            let adopted = self.restored.adopt(&wanted);
            Box::new(adopted.unwrap_or_else(|| PortState::new(self.service_ids.next())))
        });
        state.update(
            key,
            &wanted,
            port::Context {
                owners: &mut self.owners,
                waiting: &mut self.waiting,
                service_ids: &mut self.service_ids,
                backend_ids: &mut self.backend_ids,
                now,
            },
            out,
        );
        for (key, _, _) in &wanted.keys {
            self.restored.forget_key(key);
        }
    }

    fn sweep(&mut self, now: Duration, out: &mut Output) {
        while let Some((at, items)) = self.retired.pop_first() {
            if at + RETIRE_AFTER > now {
                self.retired.insert(at, items);
                break;
            }
            for item in items {
                self.sweep_one(item, at, out);
            }
        }
    }

    fn sweep_one(&mut self, item: Retired, at: Duration, out: &mut Output) {
        match item {
            Retired::Generation {
                set,
                generation,
                slots,
                table_len,
            } => {
                out.remove_generation(set, generation, slots, table_len);
            }
            Retired::Backend {
                port,
                service,
                address,
                port_be,
                id,
            } => {
                // A port that was removed, or created again, has handed its backends over as orphans.
                let forgotten = match self.ports.get_mut(&port) {
                    Some(state) if state.id == service => {
                        state.forget_retired(&address, port_be, id, at)
                    }
                    _ => port::Forgotten::Keep,
                };
                if forgotten == port::Forgotten::Remove {
                    out.remove_backend(id);
                }
            }
            Retired::OrphanBackend { id } => out.remove_backend(id),
            Retired::Service { id } => out.remove_service_id(id),
        }
    }
}

#[cfg(test)]
mod tests;
