// SPDX-License-Identifier: Apache-2.0
//! `service trace`: says in words, step by step, what happens to a `connect()` or a packet for a Service,
//! and why. Reads the same maps as the programs and calls the same functions of `knarr-ebpf-common`, so
//! it cannot tell another story than theirs.

use std::net::{Ipv4Addr, SocketAddrV4};

use knarr_ebpf_common::{
    Config, FlowKey, SCOPE_CLUSTER_IP, SCOPE_NODE_PORT_EXTERNAL, SCOPE_NODE_PORT_INTERNAL,
    SERVICE_DROP_WHEN_EMPTY, SERVICE_LOCAL_ONLY, ServiceEntry, ServiceKey, choose, hash, mapped,
};

use crate::error::DatapathError;
use crate::inspect::Inspector;
use crate::view::{BackendView, PortView, v4};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of this node, outside of pods.
    Node,
    /// A process in the pod with this address.
    Pod(Ipv4Addr),
    /// A host outside the cluster; the source port where it is known.
    Outside(Ipv4Addr, Option<u16>),
}

/// What happens, one sentence or two each.
pub fn trace(
    inspector: &Inspector,
    port: &PortView,
    caller: Caller,
    now_ns: u64,
) -> Result<Vec<String>, DatapathError> {
    let mut story = Story {
        inspector,
        port,
        config: inspector.config()?,
        now_ns,
        steps: Vec::new(),
    };
    match caller {
        Caller::Node => story.socket("a process of this node", None)?,
        Caller::Pod(ip) => {
            let known = inspector.pods()?.contains(&mapped(ip.octets()));
            story.socket(&format!("a process in pod {ip}"), known.then_some(ip))?;
            if !known {
                story.say(format!(
                    "Note: {ip} is no pod whose sockets this node knows, so affinity would take it for the node itself."
                ));
            }
        }
        Caller::Outside(ip, source_port) => story.packet(ip, source_port)?,
    }
    story.missing_entries()?;
    story.counters()?;
    Ok(story.steps)
}

struct Story<'a> {
    inspector: &'a Inspector,
    port: &'a PortView,
    config: Config,
    now_ns: u64,
    steps: Vec<String>,
}

impl Story<'_> {
    fn say(&mut self, step: String) {
        self.steps.push(step);
    }

    fn socket(&mut self, who: &str, pod: Option<Ipv4Addr>) -> Result<(), DatapathError> {
        let found = self
            .port
            .entry(SCOPE_CLUSTER_IP)
            .or_else(|| self.port.entry(SCOPE_NODE_PORT_INTERNAL));
        let Some((key, entry)) = found else {
            self.say("No address of this port can be connected to from this node.".to_owned());
            return Ok(());
        };
        let (key, entry) = (*key, *entry);
        let called = if key.scope == SCOPE_CLUSTER_IP {
            SocketAddrV4::new(v4(&key.vip), u16::from_be(key.port_be))
        } else {
            SocketAddrV4::new(v4(&self.config.node_ip), u16::from_be(key.port_be))
        };
        self.say(format!(
            "{who} calls connect() to {called} ({}). The program knarr_connect4 on the node's cgroup sees the call before any packet exists.",
            self.port.protocol()
        ));
        self.lookup(&key, &entry);
        if choose::usable_slots(&entry).1 == 0 {
            self.say(
                "There is no backend: connect() fails at once with ECONNREFUSED (connection refused). No packet is sent."
                    .to_owned(),
            );
            return Ok(());
        }
        let chosen = if entry.affinity_seconds > 0 {
            let client = pod.unwrap_or_else(|| v4(&self.config.node_ip));
            self.affinity(&entry, client)?
        } else {
            self.in_turn(&entry)?;
            None
        };
        let to = match &chosen {
            Some(backend) => backend.describe(),
            None if entry.affinity_seconds > 0 => "the backend that is chosen so".to_owned(),
            None => "the backend whose turn it is".to_owned(),
        };
        self.say(format!(
            "The socket is connected to {to}; its packets go there directly and nothing is translated on the way. \
             getpeername() keeps answering {called}."
        ));
        if let Some(backend) = &chosen {
            self.way(backend);
        }
        Ok(())
    }

    fn packet(&mut self, client: Ipv4Addr, source_port: Option<u16>) -> Result<(), DatapathError> {
        let inside = self.is_pod_address(client);
        let scope = if inside {
            SCOPE_NODE_PORT_INTERNAL
        } else {
            SCOPE_NODE_PORT_EXTERNAL
        };
        let Some((key, entry)) = self.port.entry(scope) else {
            self.say(
                "This port has no NodePort, so nothing from outside the cluster can reach it: \
                 a packet for a ClusterIP that arrives on the uplink meets an unreachable route."
                    .to_owned(),
            );
            return Ok(());
        };
        let (key, entry) = (*key, *entry);
        let node_port = u16::from_be(key.port_be);
        self.say(format!(
            "{client} sends a packet to {}:{node_port} ({}) or to another address of this node. \
             It arrives on the uplink, where the program knarr_ingress sees it first.",
            v4(&self.config.node_ip),
            self.port.protocol()
        ));
        if inside {
            self.say(format!(
                "{client} is a pod's address: it counts as inside, so externalTrafficPolicy does not apply to it."
            ));
        }
        self.known_flows(client, source_port, node_port)?;
        self.lookup(&key, &entry);
        if choose::usable_slots(&entry).1 == 0 {
            self.refusal(&entry);
            return Ok(());
        }
        let flow = FlowKey {
            source: mapped(client.octets()),
            destination: self.config.node_ip,
            source_port_be: source_port.unwrap_or_default().to_be(),
            destination_port_be: key.port_be,
            protocol: key.protocol,
            reserved: [0; 3],
        };
        let chosen = if entry.affinity_seconds > 0 {
            self.affinity(&entry, client)?
        } else if let Some(source_port) = source_port {
            self.by_flow(&entry, hash::flow(&flow), client, source_port)?
        } else {
            self.say(format!(
                "A new flow chooses by a hash of the client's address, its source port and the NodePort, in a table of {} places \
                 that is the same on every node; which backend it is depends on the source port (give it as {client}:PORT). Shares:",
                entry.table_len
            ));
            self.shares(&entry)?;
            None
        };
        match chosen {
            Some(backend) => self.translation(client, node_port, &backend),
            None => self.say(
                "A backend on this node gets the packet with the client's own address; one on another node gets it \
                 from this node's address, so that replies come back through here. Replies leave with the address that was called."
                    .to_owned(),
            ),
        }
        Ok(())
    }

    fn is_pod_address(&self, address: Ipv4Addr) -> bool {
        choose::is_in_cluster(&self.config, address.octets())
    }

    fn known_flows(
        &mut self,
        client: Ipv4Addr,
        source_port: Option<u16>,
        node_port: u16,
    ) -> Result<(), DatapathError> {
        let flows: Vec<_> = self
            .inspector
            .flows()?
            .into_iter()
            .filter(|flow| {
                flow.service == self.port.id
                    && v4(&flow.client) == client
                    && u16::from_be(flow.called_port_be) == node_port
                    && source_port.is_none_or(|port| u16::from_be(flow.client_port_be) == port)
            })
            .collect();
        for flow in flows.iter().take(5) {
            let idle = self.now_ns.saturating_sub(flow.last_seen_ns) / NANOS_PER_SECOND;
            let state = if choose::is_closed(flow.flags) {
                "closed"
            } else {
                "open"
            };
            self.say(format!(
                "FLOWS has a {state} flow from {client}:{} to backend {} at {}:{}, last packet {idle} s ago: \
                 its packets keep going there{}.",
                u16::from_be(flow.client_port_be),
                flow.backend_id,
                v4(&flow.backend),
                u16::from_be(flow.backend_port_be),
                if choose::is_closed(flow.flags) {
                    ", until a new SYN from the same port chooses again or goes to the backend directly"
                } else {
                    ""
                }
            ));
        }
        if flows.len() > 5 {
            self.say(format!(
                "... and {} more flows of this client.",
                flows.len() - 5
            ));
        }
        Ok(())
    }

    fn lookup(&mut self, key: &ServiceKey, entry: &ServiceEntry) {
        let address = match key.scope {
            SCOPE_CLUSTER_IP => format!("{}:{}", v4(&key.vip), u16::from_be(key.port_be)),
            SCOPE_NODE_PORT_INTERNAL => {
                format!("NodePort {} from inside", u16::from_be(key.port_be))
            }
            _ => format!("NodePort {} from outside", u16::from_be(key.port_be)),
        };
        let mut text = format!(
            "SERVICES[{address}, {}] is {} (id {}): set {}, generation {}, {} ready and {} terminating backends",
            self.port.protocol(),
            self.port.service(),
            entry.service,
            entry.set,
            entry.generation,
            entry.count,
            entry.terminating
        );
        if entry.flags & SERVICE_LOCAL_ONLY != 0 {
            text.push_str(", traffic policy Local: only backends of this node");
        }
        if entry.affinity_seconds > 0 {
            text.push_str(&format!(
                ", sessionAffinity ClientIP for {} s",
                entry.affinity_seconds
            ));
        }
        if entry.count == 0 && entry.terminating > 0 {
            text.push_str(
                "; only terminating backends are left, so they still get new connections",
            );
        }
        text.push('.');
        self.say(text);
    }

    fn affinity(
        &mut self,
        entry: &ServiceEntry,
        client: Ipv4Addr,
    ) -> Result<Option<BackendView>, DatapathError> {
        let address = mapped(client.octets());
        let remembered = self.inspector.affinity(entry.service, &address)?;
        let before = match remembered {
            None => format!(
                "AFFINITY[service {}, client {client}] has no entry",
                entry.service
            ),
            Some(remembered) => {
                let used = self.now_ns.saturating_sub(remembered.last_used_ns) / NANOS_PER_SECOND;
                let name = format!(
                    "AFFINITY[service {}, client {client}] remembers backend {}, last used {used} s ago",
                    entry.service, remembered.backend
                );
                let backend = self.port.backend(remembered.backend).cloned();
                if !choose::affinity_holds(entry, &remembered, self.now_ns) {
                    let (_, usable) = choose::usable_slots(entry);
                    self.say(format!(
                        "{name}: its {} s are over and the choice is free again. It is random, by slot, and another backend than before \
                         where there is one ({usable} in all). It is remembered.",
                        entry.affinity_seconds
                    ));
                    return Ok(None);
                } else {
                    match backend {
                        Some(backend) if choose::affinity_backend_fits(entry, &backend.entry) => {
                            let left = u64::from(entry.affinity_seconds).saturating_sub(used);
                            self.say(format!(
                                "{name} and good for {left} s more (each use begins them anew): the client keeps {}.",
                                backend.describe()
                            ));
                            return Ok(Some(backend));
                        }
                        Some(_) => format!("{name}, which takes no new connections here"),
                        None => format!("{name}, which is gone"),
                    }
                }
            }
        };
        let hash = hash::client(&address);
        let (how, id) = if entry.table_len > 0 {
            (
                format!(
                    "place {} of the {} places of the table",
                    hash & (entry.table_len - 1),
                    entry.table_len
                ),
                self.inspector.by_table(entry, hash)?,
            )
        } else {
            let (first, usable) = choose::usable_slots(entry);
            let slot = first + hash % usable.max(1);
            (format!("slot {slot}"), self.inspector.slot(entry, slot)?)
        };
        let backend = id.and_then(|id| self.port.backend(id)).cloned();
        let to = match (&backend, id) {
            (Some(backend), _) => backend.describe(),
            (None, Some(id)) => format!("backend {id}, which is missing from BACKENDS"),
            (None, None) => "nothing: the place is missing".to_owned(),
        };
        self.say(format!(
            "{before}; the hash of the client's address alone, the same on every node and every path, leads to {how}: {to}. It is remembered."
        ));
        Ok(backend)
    }

    fn by_flow(
        &mut self,
        entry: &ServiceEntry,
        hash: u32,
        client: Ipv4Addr,
        source_port: u16,
    ) -> Result<Option<BackendView>, DatapathError> {
        let id = self.inspector.by_table(entry, hash)?;
        let backend = id.and_then(|id| self.port.backend(id)).cloned();
        let place = hash & entry.table_len.wrapping_sub(1);
        match &backend {
            Some(backend) => self.say(format!(
                "A new flow from {client}:{source_port} hashes to place {place} of the {} places of the table, on every node: {}.",
                entry.table_len,
                backend.describe()
            )),
            None => self.say(format!(
                "Place {place} of the table names {id:?}, which is missing: the packet is refused and counted."
            )),
        }
        Ok(backend)
    }

    fn in_turn(&mut self, entry: &ServiceEntry) -> Result<(), DatapathError> {
        let (first, usable) = choose::usable_slots(entry);
        self.say(format!(
            "No affinity: each CPU takes the slots {first} to {} of generation {} in turn:",
            first + usable - 1,
            entry.generation
        ));
        for slot in first..first + usable {
            let id = self.inspector.slot(entry, slot)?;
            let to = match id.and_then(|id| self.port.backend(id)) {
                Some(backend) => backend.describe(),
                None => format!("{id:?}, which is missing"),
            };
            self.say(format!("  slot {slot}: {to}"));
        }
        Ok(())
    }

    fn shares(&mut self, entry: &ServiceEntry) -> Result<(), DatapathError> {
        let mut shares: Vec<(u32, u32)> = Vec::new();
        for place in 0..entry.table_len {
            let Some(id) = self.inspector.by_table(entry, place)? else {
                continue;
            };
            match shares.iter_mut().find(|(known, _)| *known == id) {
                Some((_, share)) => *share += 1,
                None => shares.push((id, 1)),
            }
        }
        for (id, share) in shares {
            let to = self.port.backend(id).map_or_else(
                || format!("backend {id}, which is missing"),
                BackendView::describe,
            );
            let percent = f64::from(share) * 100.0 / f64::from(entry.table_len);
            self.say(format!("  {percent:.1} % {to}"));
        }
        Ok(())
    }

    fn refusal(&mut self, entry: &ServiceEntry) {
        self.say(if entry.flags & SERVICE_DROP_WHEN_EMPTY != 0 {
            "No backend is on this node, but others exist: with externalTrafficPolicy Local the packet is dropped, \
             so that a load balancer in front chooses another node."
                .to_owned()
        } else if self.port.protocol() == "TCP" {
            "There is no backend: the program answers a SYN with a reset, so the client gets \"connection refused\" at once."
                .to_owned()
        } else {
            "There is no backend: the node's own stack answers with ICMP port unreachable.".to_owned()
        });
    }

    fn translation(&mut self, client: Ipv4Addr, node_port: u16, backend: &BackendView) {
        if backend.entry.flags & knarr_ebpf_common::BACKEND_LOCAL != 0 {
            self.say(format!(
                "The destination becomes {} and the kernel routes the packet to the pod, which sees {client} itself. \
                 knarr_egress on the uplink gives replies the source that was called, port {node_port}.",
                backend.address()
            ));
        } else {
            self.say(format!(
                "The destination becomes {} and the source {} with a free port of {} to {}, so replies come back through this node; \
                 the packet leaves by the uplink at once. knarr_ingress sends replies on to {client} from the address that was called.",
                backend.address(),
                v4(&self.config.node_ip),
                self.config.snat_port_first,
                self.config.snat_port_last
            ));
        }
    }

    fn way(&mut self, backend: &BackendView) {
        self.say(
            if backend.entry.flags & knarr_ebpf_common::BACKEND_LOCAL != 0 {
                format!(
                    "{} is on this node: the packets go through its veth.",
                    backend.address()
                )
            } else {
                format!(
                    "{} is on another node: the packets take the route to that node's pods.",
                    backend.address()
                )
            },
        );
    }

    /// What the maps miss of this port, for every caller.
    fn missing_entries(&mut self) -> Result<(), DatapathError> {
        for missing_entry in self.inspector.check()?.missing_entries {
            if missing_entry.service == self.port.id {
                self.say(format!(
                    "MISSING: {missing_entry}. A connection that meets it is refused; the agent repairs it when it is started again."
                ));
            }
        }
        Ok(())
    }

    fn counters(&mut self) -> Result<(), DatapathError> {
        let counters = self.port.counters(self.inspector)?;
        self.say(format!(
            "So far: {} connects and {} refused; {} flows from outside ({} packets in, {} out) and {} refused; {} choices by affinity.",
            counters.connects,
            counters.refused,
            counters.flows,
            counters.packets_in,
            counters.packets_out,
            counters.flows_refused,
            counters.affinity_hits
        ));
        Ok(())
    }
}

/// CLOCK_MONOTONIC now, what the programs' times are in.
pub fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|time| time.tv_sec().unsigned_abs() * NANOS_PER_SECOND + time.tv_nsec().unsigned_abs())
        .unwrap_or_default()
}
