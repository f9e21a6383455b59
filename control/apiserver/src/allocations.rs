// SPDX-License-Identifier: Apache-2.0
//! Which cluster IPs and node ports are taken, and the reservation of new ones while a Service is written.
//!
//! What is taken follows from the stored Services alone: the caches' task reports each change here, at
//! start for every Service. So a crash loses nothing and leaks nothing. The ranges are the
//! [`crate::ServiceAllocator`]'s.
//!
//! ```text
//! free -> Reserved -> Written -> Stored -> free
//!            |   (known)  (seen)    (deleted or changed)
//!            +-> free  (the write did not take place)
//! ```
//!
//! A Service's `spec.healthCheckNodePort` is a node port like any other, of the Services that need one.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::admission::Hold;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::object::{Object, key};
use crate::registry::Kind;
use crate::{ApiError, value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// The write of this reservation is under way, or its outcome is not known yet.
    Reserved(ReservationId),
    /// The write took place at this revision, and the caches have not shown it yet.
    Written(u64),
    /// A stored Service.
    Stored,
}

/// Tells reservations apart, so that none gives back what another one has taken since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ReservationId(u64);

impl ReservationId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Who holds what. One owner each is what every write sees to; where a store has two all the same (one of an earlier
/// version, or written past the API), what one of them gives back stays the other's.
#[derive(Debug)]
struct Holders<K>(HashMap<K, Vec<(String, Held)>>);

impl<K> Default for Holders<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Holders<K> {
    fn is_taken(&self, key: K) -> bool {
        self.0.contains_key(&key)
    }

    fn reserve(&mut self, key: K, owner: &str, id: ReservationId) {
        let holder = (owner.to_owned(), Held::Reserved(id));
        self.0.entry(key).or_default().push(holder);
    }

    /// The stored Service `owner` has it, by whatever it had it before.
    fn store(&mut self, key: K, owner: &str) {
        let holders = self.0.entry(key).or_default();
        holders.retain(|(holder, _)| holder != owner);
        holders.push((owner.to_owned(), Held::Stored));
    }

    fn release(&mut self, key: K, owner: &str) {
        self.keep_of(key, |holder, _| holder != owner);
    }

    /// Turns what is still held as `own` into `held`, or gives it back.
    fn settle(&mut self, key: K, own: Held, held: Option<Held>) {
        match held {
            None => self.keep_of(key, |_, found| found != own),
            Some(held) => {
                for (_, found) in self.0.get_mut(&key).into_iter().flatten() {
                    if *found == own {
                        *found = held;
                    }
                }
            }
        }
    }

    fn keep_of(&mut self, key: K, stays: impl Fn(&str, Held) -> bool) {
        if let Some(holders) = self.0.get_mut(&key) {
            holders.retain(|(holder, held)| stays(holder, *held));
            if holders.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    fn retain(&mut self, stays: impl Fn(Held) -> bool) {
        self.0.retain(|_, holders| {
            holders.retain(|(_, held)| stays(*held));
            !holders.is_empty()
        });
    }
}

#[derive(Debug, Default)]
struct Taken {
    addresses: Holders<IpAddr>,
    ports: Holders<u16>,
}

/// The addresses and ports of all Services.
#[derive(Debug, Default)]
pub(crate) struct Allocations(Arc<Mutex<Taken>>);

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    // Nothing panics between two related changes, so a poisoned lock still holds a whole state.
    taken.lock().unwrap_or_else(|e| e.into_inner())
}

/// Addresses and ports that a write has taken; given back unless it is kept. It has to live for as long as the write may
/// still take place, whatever becomes of the caller: see `verbs/commit.rs`.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    id: ReservationId,
    taken: Option<Arc<Mutex<Taken>>>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Reservation {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// True where there is nothing to give back.
    pub(crate) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.ports.is_empty()
    }

    /// Turns what is still this reservation's into `held`, or gives it back.
    fn settle(&mut self, held: Option<Held>) {
        let Some(taken) = self.taken.take() else {
            return;
        };
        let own = Held::Reserved(self.id);
        let mut taken = lock(&taken);
        for address in &self.addresses {
            taken.addresses.settle(*address, own, held);
        }
        for port in &self.ports {
            taken.ports.settle(*port, own, held);
        }
    }
}

impl Hold for Reservation {
    /// The stored Service has them now.
    fn keep(mut self: Box<Self>, revision: u64) {
        self.settle(Some(Held::Written(revision)));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.settle(None);
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

fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports = node_ports_of(service);
    ports.extend(Some(health_port_of(service)).filter(|p| *p != 0));
    ports
}

impl Allocations {
    /// Starts anew from every stored object of a kind as of `revision`; what writes under way have reserved, and
    /// what was written later, stays taken.
    pub(crate) fn reset(&self, kind: &Kind, objects: &[Object], revision: u64) {
        if kind.plural != "services" {
            return;
        }
        {
            let mut taken = lock(&self.0);
            let stays = |held: Held| match held {
                Held::Reserved(_) => true,
                Held::Written(at) => at > revision,
                Held::Stored => false,
            };
            taken.addresses.retain(stays);
            taken.ports.retain(stays);
        }
        for object in objects {
            self.observe(kind, None, Some(object));
        }
    }

    /// Follows one change of a stored object.
    pub(crate) fn observe(&self, kind: &Kind, previous: Option<&Object>, current: Option<&Object>) {
        if kind.plural != "services" {
            return;
        }
        let before = previous.map(Object::value).unwrap_or_default();
        let after = current.map(Object::value).unwrap_or_default();
        let Some(owner) = current.or(previous).map(|o| o.meta.key()) else {
            return;
        };
        let mut taken = lock(&self.0);
        let (addresses, ports) = (addresses_of(&after), ports_of(&after));
        for address in addresses_of(&before) {
            if !addresses.contains(&address) {
                taken.addresses.release(address, &owner);
            }
        }
        for port in ports_of(&before) {
            if !ports.contains(&port) {
                taken.ports.release(port, &owner);
            }
        }
        for address in addresses {
            taken.addresses.store(address, &owner);
        }
        for port in ports {
            taken.ports.store(port, &owner);
        }
    }
}

impl Core {
    /// Gives a Service the addresses and ports that it needs and does not name, and claims those it names.
    pub(crate) async fn allocate(
        &self,
        kind: &Kind,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, ApiError> {
        if kind.plural != "services" || !kind.group.is_empty() {
            return Ok(Reservation::none());
        }
        // What was acknowledged has to be known before anything is given out.
        self.fresh().await?;
        let owner = key(
            value::text(service, "metadata.namespace"),
            value::text(service, "metadata.name"),
        );
        let mut claim = Claim {
            core: self,
            owner,
            old_addresses: old.map(addresses_of).unwrap_or_default(),
            old_node_ports: old.map(node_ports_of).unwrap_or_default(),
            old_health_port: old.map(health_port_of).unwrap_or_default(),
            errors: FieldErrors::default(),
            reservation: Reservation {
                id: ReservationId::next(),
                taken: Some(Arc::clone(&self.allocations.0)),
                addresses: Vec::new(),
                ports: Vec::new(),
            },
        };
        claim.cluster_ips(service)?;
        claim.node_ports(service)?;
        claim.health_port(service)?;
        if claim.errors.is_empty() {
            return Ok(claim.reservation);
        }
        let name = value::text(service, "metadata.name");
        Err(ApiError::invalid("", &kind.kind, name, &claim.errors))
    }
}

struct Claim<'a> {
    core: &'a Core,
    owner: String,
    old_addresses: Vec<IpAddr>,
    old_node_ports: Vec<u16>,
    /// 0 where it has none.
    old_health_port: u16,
    errors: FieldErrors,
    reservation: Reservation,
}

impl Claim<'_> {
    fn cluster_ips(&mut self, service: &mut Value) -> Result<(), ApiError> {
        if value::text(service, "spec.type") == "ExternalName"
            || value::text(service, "spec.clusterIP") == "None"
        {
            return Ok(());
        }
        let ranges = &self.core.config.services;
        let named = addresses_of(service);
        let shown = value::at(service, "spec.clusterIPs").cloned();
        let id = self.reservation.id;
        let mut taken = lock(&self.core.allocations.0);
        if named.is_empty() {
            let free = ranges
                .next_cluster_ip(&|ip| taken.addresses.is_taken(ip))
                .ok_or_else(|| {
                    ApiError::internal("failed to allocate a serviceIP: range is full")
                })?;
            taken.addresses.reserve(free, &self.owner, id);
            self.reservation.addresses.push(free);
            value::set(service, "spec.clusterIP", free.to_string());
            value::set(service, "spec.clusterIPs", json!([free.to_string()]));
            return Ok(());
        }
        for address in named {
            if self.old_addresses.contains(&address) {
                continue;
            }
            let refusal = match ranges.check_cluster_ip(address) {
                Err(message) => message,
                Ok(()) if taken.addresses.is_taken(address) => {
                    format!("failed to allocate IP {address}: provided IP is already allocated")
                }
                Ok(()) => {
                    taken.addresses.reserve(address, &self.owner, id);
                    self.reservation.addresses.push(address);
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
                if self.old_node_ports.contains(&named) || self.reservation.ports.contains(&named) {
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
        if named != self.old_health_port
            && let Err(refusal) = self.claim_port(named)
        {
            self.errors.invalid(FIELD, named, &refusal);
        }
        Ok(())
    }

    /// Takes the port that the client names, or says why it cannot be had.
    fn claim_port(&mut self, port: u16) -> Result<(), String> {
        self.core.config.services.check_node_port(port)?;
        let mut taken = lock(&self.core.allocations.0);
        if taken.ports.is_taken(port) {
            return Err("provided port is already allocated".to_owned());
        }
        taken.ports.reserve(port, &self.owner, self.reservation.id);
        self.reservation.ports.push(port);
        Ok(())
    }

    /// Takes any free port; `None` when there is none.
    fn free_port(&mut self) -> Option<u16> {
        let mut taken = lock(&self.core.allocations.0);
        let ranges = &self.core.config.services;
        let free = ranges.next_node_port(&|p| taken.ports.is_taken(p))?;
        taken.ports.reserve(free, &self.owner, self.reservation.id);
        self.reservation.ports.push(free);
        Some(free)
    }
}

#[cfg(test)]
mod tests;
