// SPDX-License-Identifier: Apache-2.0
//! Which cluster IPs and node ports are taken, and the choice of new ones while a Service is written.
//!
//! The store has one key for each address and port (`keys`), written and deleted in the transactions that write and
//! delete Services. So several servers never give one address twice, and a crash leaves no address without a Service.
//! What is here is a copy of those keys, kept by the caches' task: it is what a choice is made from and a refusal
//! named by, and the transaction decides. The ranges are the [`crate::ServiceAllocator`]'s; `repair` plans the keys
//! of Services that an earlier version has stored.
//!
//! A Service's `spec.healthCheckNodePort` is a node port like any other, of the Services that need one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use knarr_store::{Compare, Event, KeyValue, Op, Revision, Txn};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admission::Hold;
use crate::config::ServiceAllocator;
use crate::field::FieldErrors;
use crate::registry::{Kind, key};
use crate::{ApiError, value};
use keys::{Item, Owners};

pub(crate) use keys::PREFIX;
pub(crate) use repair::Known;

mod keys;
mod repair;

/// Whose an item is, as stored.
#[derive(Debug)]
struct Held {
    owners: Owners,
    /// The revision that wrote the key.
    revision: u64,
}

/// In maps that give the room of many items back when these are gone.
#[derive(Debug, Default)]
struct Taken {
    /// Every key of the store.
    held: BTreeMap<Item, Held>,
    /// What writes under way in this process try to take, and how many of them. Others choose something else.
    picked: BTreeMap<Item, usize>,
}

impl Taken {
    fn is_free(&self, item: Item) -> bool {
        !self.held.contains_key(&item) && !self.picked.contains_key(&item)
    }

    fn hold(&mut self, kv_key: &[u8], value: &[u8], revision: u64) {
        if let Some(item) = Item::of_key(kv_key) {
            let owners = Owners::parse(value);
            self.held.insert(item, Held { owners, revision });
        }
    }
}

/// The addresses and ports of all Services.
#[derive(Debug, Default)]
pub(crate) struct Allocations(Arc<Mutex<Taken>>);

impl Allocations {
    /// Starts again from everything that is stored below [`PREFIX`].
    pub(crate) fn fill(&self, stored: &[KeyValue]) {
        let mut taken = self.0.lock();
        taken.held.clear();
        for kv in stored {
            taken.hold(&kv.key, &kv.value, kv.mod_revision.0);
        }
    }

    /// Follows one change of the store.
    pub(crate) fn observe(&self, event: &Event, revision: u64) {
        if !event.key().starts_with(PREFIX.as_bytes()) {
            return;
        }
        let mut taken = self.0.lock();
        match event {
            Event::Put { key, value } => taken.hold(key, value, revision),
            Event::Delete { key } => {
                if let Some(item) = Item::of_key(key) {
                    taken.held.remove(&item);
                }
            }
        }
    }
}

/// What a write under way tries to take. Until it is dropped, no other write of this process chooses the same.
#[derive(Debug)]
pub(crate) struct Picks {
    taken: Arc<Mutex<Taken>>,
    items: Vec<Item>,
    /// How far the caches are.
    progress: watch::Receiver<u64>,
}

impl Picks {
    fn pick(&mut self, taken: &mut Taken, item: Item) {
        *taken.picked.entry(item).or_default() += 1;
        self.items.push(item);
    }
}

impl Hold for Picks {
    /// Until the caches show the keys that the write has taken.
    fn keep(mut self: Box<Self>, revision: u64) {
        if self.items.is_empty() || *self.progress.borrow() >= revision {
            return;
        }
        tokio::spawn(async move {
            // An error means that the API server has ended, and its caches with it.
            drop(self.progress.wait_for(|seen| *seen >= revision).await);
        });
    }
}

impl Drop for Picks {
    fn drop(&mut self) {
        if self.items.is_empty() {
            return;
        }
        let mut taken = self.taken.lock();
        for item in &self.items {
            if let Some(count) = taken.picked.get_mut(item) {
                *count -= 1;
                if *count == 0 {
                    taken.picked.remove(item);
                }
            }
        }
    }
}

/// What a write does to the keys of addresses and ports, beside the object itself.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    compare: Vec<Compare>,
    then: Vec<Op>,
}

impl Claims {
    /// The whole transaction: the object's own step as well, if its comparison holds.
    pub(crate) fn with(mut self, compare: Compare, op: Op) -> Txn {
        self.compare.push(compare);
        self.then.push(op);
        Txn {
            compare: self.compare,
            then: self.then,
        }
    }
}

fn addresses_of(service: &Value) -> Vec<IpAddr> {
    value::items(service, "spec.clusterIPs")
        .iter()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}

fn node_ports_of(service: &Value) -> Vec<u16> {
    value::items(service, "spec.ports")
        .iter()
        .filter_map(|p| u16::try_from(value::int(p, "nodePort")?).ok())
        .filter(|p| *p != 0)
        .collect()
}

/// Where a Service that needs one tells load balancers whether a node has pods of it; 0 where it has none.
fn health_port_of(service: &Value) -> u16 {
    if !needs_health_port(service) {
        return 0;
    }
    let port = value::int(service, "spec.healthCheckNodePort").unwrap_or(0);
    u16::try_from(port).unwrap_or(0)
}

/// As `NeedsHealthCheck` of Kubernetes v1.37.
pub(crate) fn needs_health_port(service: &Value) -> bool {
    value::text(service, "spec.type") == "LoadBalancer"
        && value::text(service, "spec.externalTrafficPolicy") == "Local"
}

/// Everything that a Service holds.
fn items_of(service: &Value) -> BTreeSet<Item> {
    let health = Some(health_port_of(service)).filter(|port| *port != 0);
    let ports = node_ports_of(service).into_iter().chain(health);
    let addresses = addresses_of(service).into_iter().map(Item::Address);
    addresses.chain(ports.map(Item::Port)).collect()
}

fn owner_of(service: &Value) -> String {
    key(
        value::text(service, "metadata.namespace"),
        value::text(service, "metadata.name"),
    )
}

/// Whether objects of this kind hold addresses or ports.
pub(crate) fn allocates(kind: &Kind) -> bool {
    kind.strategy.allocates()
}

impl Allocations {
    /// Gives a Service the addresses and ports that it needs and does not name, and refuses those it names and that
    /// another has. `progress` is how far the caches are.
    pub(crate) fn allocate(
        &self,
        ranges: &dyn ServiceAllocator,
        progress: watch::Receiver<u64>,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Picks>, ApiError> {
        let mut choice = Choice {
            all: self,
            ranges,
            old_addresses: old.map(addresses_of).unwrap_or_default(),
            old_node_ports: old.map(node_ports_of).unwrap_or_default(),
            old_health_port: old.map(health_port_of).unwrap_or_default(),
            errors: FieldErrors::default(),
            picks: Picks {
                taken: Arc::clone(&self.0),
                items: Vec::new(),
                progress,
            },
        };
        choice.cluster_ips(service)?;
        choice.node_ports(service)?;
        choice.health_port(service)?;
        if choice.errors.is_empty() {
            // Most writes of a Service pick nothing, and then there is nothing to hold.
            return Ok((!choice.picks.items.is_empty()).then_some(choice.picks));
        }
        let name = value::text(service, "metadata.name");
        Err(ApiError::invalid("", &kind.kind, name, &choice.errors))
    }

    /// What has to be in the transaction that turns `old` into `new` (`None`: there is no such object): takes what
    /// only the new one has, if it is free, and gives back what only the old one had.
    pub(crate) fn claims(&self, kind: &Kind, old: Option<&Value>, new: Option<&Value>) -> Claims {
        let mut claims = Claims::default();
        let Some(owner) = new.or(old).filter(|_| allocates(kind)).map(owner_of) else {
            return claims;
        };
        let before = old.map(items_of).unwrap_or_default();
        let after = new.map(items_of).unwrap_or_default();
        for item in after.difference(&before) {
            let owners = Owners::one(&owner);
            claims.compare.push(Compare::absent(item.key()));
            claims.then.push(Op::put(item.key(), owners.to_value()));
        }
        let taken = self.0.lock();
        for item in before.difference(&after) {
            // Where the key is another's, or there is none, nothing is given back.
            let Some(held) = taken.held.get(item).filter(|held| held.owners.has(&owner)) else {
                continue;
            };
            let read = Revision(held.revision);
            claims.compare.push(Compare::mod_revision(item.key(), read));
            claims.then.push(match held.owners.without(&owner) {
                Some(left) => Op::put(item.key(), left.to_value()),
                None => Op::delete(item.key()),
            });
        }
        claims
    }
}

struct Choice<'a> {
    all: &'a Allocations,
    ranges: &'a dyn ServiceAllocator,
    old_addresses: Vec<IpAddr>,
    old_node_ports: Vec<u16>,
    /// 0 where it has none.
    old_health_port: u16,
    errors: FieldErrors,
    picks: Picks,
}

impl Choice<'_> {
    fn cluster_ips(&mut self, service: &mut Value) -> Result<(), ApiError> {
        if value::text(service, "spec.type") == "ExternalName"
            || value::text(service, "spec.clusterIP") == "None"
        {
            return Ok(());
        }
        let ranges = self.ranges;
        let named = addresses_of(service);
        let shown = value::at(service, "spec.clusterIPs").cloned();
        let mut taken = self.all.0.lock();
        if named.is_empty() {
            let free = ranges
                .next_cluster_ip(&|ip| !taken.is_free(Item::Address(ip)))
                .ok_or_else(|| {
                    ApiError::internal("failed to allocate a serviceIP: range is full")
                })?;
            self.picks.pick(&mut taken, Item::Address(free));
            value::set(service, "spec.clusterIP", free.to_string());
            value::set(service, "spec.clusterIPs", json!([free.to_string()]));
            return Ok(());
        }
        for address in named {
            if self.old_addresses.contains(&address) {
                continue;
            }
            let item = Item::Address(address);
            let refusal = match ranges.check_cluster_ip(address) {
                Err(message) => message,
                Ok(()) if taken.held.contains_key(&item) => {
                    format!("failed to allocate IP {address}: provided IP is already allocated")
                }
                Ok(()) => {
                    self.picks.pick(&mut taken, item);
                    continue;
                }
            };
            let shown = shown.clone().unwrap_or_default();
            self.errors.invalid("spec.clusterIPs", shown, &refusal);
        }
        Ok(())
    }

    fn node_ports(&mut self, service: &mut Value) -> Result<(), ApiError> {
        let wants = match value::text(service, "spec.type") {
            "NodePort" => true,
            "LoadBalancer" => {
                value::at(service, "spec.allocateLoadBalancerNodePorts") != Some(&json!(false))
            }
            _ => false,
        };
        // Ports with one number and different protocols of one Service share their node port.
        let mut shared: Vec<(i64, String, u16)> = Vec::new();
        for (index, port) in value::items_mut(service, "spec.ports").enumerate() {
            let field = format!("spec.ports[{index}].nodePort");
            let number = value::int(port, "port").unwrap_or(0);
            let protocol = value::text(port, "protocol").to_owned();
            let named = value::int(port, "nodePort").unwrap_or(0);
            if named != 0 {
                let Ok(named) = u16::try_from(named) else {
                    continue;
                };
                shared.push((number, protocol, named));
                let picked = self.picks.items.contains(&Item::Port(named));
                if picked || self.old_node_ports.contains(&named) {
                    continue;
                }
                if let Err(refusal) = self.claim_port(named) {
                    self.errors.invalid(&field, named, &refusal);
                }
            } else if wants {
                let same = shared
                    .iter()
                    .find(|(n, p, _)| *n == number && *p != protocol)
                    .map(|(_, _, node)| *node);
                let free = match same {
                    Some(port) => port,
                    None => self.free_port().ok_or_else(|| {
                        ApiError::internal("failed to allocate a nodePort: range is full")
                    })?,
                };
                shared.push((number, protocol, free));
                value::set(port, "nodePort", free);
            }
        }
        Ok(())
    }

    /// Comes after the node ports, and shares none with them: a node serves something else there.
    fn health_port(&mut self, service: &mut Value) -> Result<(), ApiError> {
        const FIELD: &str = "spec.healthCheckNodePort";
        if !needs_health_port(service) {
            return Ok(());
        }
        let named = value::int(service, FIELD).unwrap_or(0);
        if named == 0 {
            let free = self.free_port().ok_or_else(|| {
                ApiError::internal("failed to allocate a HealthCheck NodePort: range is full")
            })?;
            value::set(service, FIELD, free);
            return Ok(());
        }
        let Ok(named) = u16::try_from(named) else {
            // Refused by the validation before.
            return Ok(());
        };
        if named == self.old_health_port {
            return Ok(());
        }
        let claimed = if self.picks.items.contains(&Item::Port(named)) {
            Err(PORT_TAKEN.to_owned())
        } else {
            self.claim_port(named)
        };
        if let Err(refusal) = claimed {
            self.errors.invalid(FIELD, named, &refusal);
        }
        Ok(())
    }

    /// Takes the port that the client names, or says why it cannot be had.
    fn claim_port(&mut self, port: u16) -> Result<(), String> {
        self.ranges.check_node_port(port)?;
        let mut taken = self.all.0.lock();
        let item = Item::Port(port);
        if taken.held.contains_key(&item) {
            return Err(PORT_TAKEN.to_owned());
        }
        self.picks.pick(&mut taken, item);
        Ok(())
    }

    /// Takes any free port; `None` when there is none.
    fn free_port(&mut self) -> Option<u16> {
        let mut taken = self.all.0.lock();
        let ranges = self.ranges;
        let free = ranges.next_node_port(&|port| !taken.is_free(Item::Port(port)))?;
        self.picks.pick(&mut taken, Item::Port(free));
        Some(free)
    }
}

/// Why a node port is refused.
const PORT_TAKEN: &str = "provided port is already allocated";

#[cfg(test)]
mod tests;
