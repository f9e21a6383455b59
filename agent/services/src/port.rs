// SPDX-License-Identifier: Apache-2.0
//! What the maps hold of one Service port, and the steps from there to what is wanted.
//!
//! A set's number is not used again after the set was given up, and the numbers of its generations only grow: what is
//! retired can be swept later without a look at what is live.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use knarr_ebpf_common::ops::Named;
use knarr_ebpf_common::table::{self, Member};
use knarr_ebpf_common::{
    Address, BACKEND_ACTIVE, BACKEND_DRAINED, BACKEND_LOCAL, BACKEND_TERMINATING, BackendEntry,
    MapOp, ServiceEntry, ServiceKey,
};

use super::desired::{NeedsTable, SetKind, Wanted};
use super::ids::Ids;
use super::output::Output;
use super::small::SmallMap;
use super::{PortKey, Retired};

/// One set of backends (all, or those of this node) as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetState {
    pub(super) set: u32,
    pub(super) generation: u32,
    pub(super) slots: Vec<u32>,
    pub(super) count: u32,
    pub(super) table_len: u32,
    /// Highest generation that was seen of this set; an interrupted run may have left newer ones.
    pub(super) generation_high: u32,
    pub(super) whole: Whole,
}

/// Whether a generation that was found in the maps is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    No,
}

/// A backend as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackendState {
    pub(super) id: u32,
    pub(super) entry: BackendEntry,
}

/// What became of a retired backend when its time came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// It is wanted again, or was retired again later.
    Keep,
    /// It goes.
    Remove,
}

/// Ports that want an address which another port has. The owner keeps it until it gives it up.
pub(super) type Waiting = BTreeMap<ServiceKey, BTreeSet<PortKey>>;

/// What [`PortState::update`] needs of the table.
pub(super) struct Context<'a> {
    pub(super) owners: &'a mut HashMap<ServiceKey, PortKey>,
    pub(super) waiting: &'a mut Waiting,
    pub(super) service_ids: &'a mut Ids,
    pub(super) backend_ids: &'a mut Ids,
    pub(super) now: Duration,
}

/// Whether the names of a port's ids were given out in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Announced {
    Yes,
    No,
}

/// What the maps hold of one Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortState {
    pub(super) id: u32,
    announced: Announced,
    pub(super) affinity_seconds: u32,
    pub(super) keys: SmallMap<ServiceKey, ServiceEntry>,
    pub(super) backends: SmallMap<(Address, u16), BackendState>,
    retired: SmallMap<(Address, u16), (u32, Duration)>,
    pub(super) cluster: Option<SetState>,
    pub(super) local: Option<SetState>,
}

impl PortState {
    pub(super) fn new(id: u32) -> Self {
        Self {
            id,
            announced: Announced::No,
            affinity_seconds: 0,
            keys: SmallMap::default(),
            backends: SmallMap::default(),
            retired: SmallMap::default(),
            cluster: None,
            local: None,
        }
    }

    pub(super) fn update(
        &mut self,
        key: &PortKey,
        wanted: &Wanted,
        mut context: Context<'_>,
        out: &mut Output,
    ) {
        let announced = self.announce(key, out);
        let degraded = self.update_backends(key, wanted, announced, &mut context, out);
        self.update_set(SetKind::Cluster, wanted, &mut context, out);
        self.update_set(SetKind::Local, wanted, &mut context, out);
        self.update_keys(key, wanted, &mut context, out);
        out.degraded.extend(degraded);
        if self.affinity_seconds > 0 && wanted.affinity_seconds == 0 {
            out.purge_affinity.push(self.id);
        }
        self.affinity_seconds = wanted.affinity_seconds;
    }

    /// Everything goes: addresses at once, the rest after the grace time.
    pub(super) fn remove(
        self,
        key: &PortKey,
        owners: &mut HashMap<ServiceKey, PortKey>,
        waiting: &mut Waiting,
        out: &mut Output,
    ) {
        for service_key in self.keys.keys() {
            release(service_key, key, owners, waiting, out);
        }
        for state in self.cluster.into_iter().chain(self.local) {
            out.retired.push(retired_generation(&state));
        }
        for backend in self.backends.values() {
            out.degraded.push(drained(backend));
            out.retired.push(Retired::OrphanBackend { id: backend.id });
        }
        for (id, _) in self.retired.values() {
            out.retired.push(Retired::OrphanBackend { id: *id });
        }
        out.retired.push(Retired::Service { id: self.id });
    }

    /// The grace time of a backend that was retired at `at` is over. It stays when it was wanted again
    /// since, or retired again later.
    pub(super) fn forget_retired(
        &mut self,
        address: &Address,
        port_be: u16,
        id: u32,
        at: Duration,
    ) -> Forgotten {
        let identity = (*address, port_be);
        if self.retired.get(&identity) != Some(&(id, at)) {
            return Forgotten::Keep;
        }
        self.retired.remove(&identity);
        Forgotten::Remove
    }

    fn announce(&mut self, key: &PortKey, out: &mut Output) -> Announced {
        let before = std::mem::replace(&mut self.announced, Announced::Yes);
        if before == Announced::No {
            out.names.push(Named::Service {
                id: self.id,
                namespace: key.service().namespace.clone(),
                name: key.service().name.clone(),
                port_name: key.port_name().to_owned(),
            });
        }
        before
    }

    /// Writes new and better backends; gives back the steps that make others worse, for after the flip.
    fn update_backends(
        &mut self,
        key: &PortKey,
        wanted: &Wanted,
        announced: Announced,
        context: &mut Context<'_>,
        out: &mut Output,
    ) -> Vec<MapOp> {
        let mut degraded = Vec::new();
        for (identity, backend) in &wanted.backends {
            let entry = BackendEntry {
                address: identity.0,
                port_be: identity.1,
                state: backend.state,
                flags: backend.flags,
                service: self.id,
            };
            let known = self.backends.get(identity);
            let id = match known {
                Some(known) => known.id,
                None => self
                    .retired
                    .remove(identity)
                    .map_or_else(|| context.backend_ids.next(), |(id, _)| id),
            };
            if known.is_none() || announced == Announced::No {
                out.names.push(Named::Backend {
                    id,
                    pod: backend.pod.to_string(),
                    node: backend.node.to_string(),
                });
            }
            match known {
                Some(known) if known.entry == entry => continue,
                // States are ordered from best to worst.
                Some(known) if known.entry.state < entry.state => {
                    degraded.push(MapOp::SetBackend { id, entry });
                }
                _ => out.backends.push(MapOp::SetBackend { id, entry }),
            }
            self.backends.insert(*identity, BackendState { id, entry });
        }
        let gone: Vec<(Address, u16)> = self
            .backends
            .keys()
            .filter(|identity| !wanted.backends.contains_key(*identity))
            .copied()
            .collect();
        for identity in gone {
            let Some(backend) = self.backends.remove(&identity) else {
                continue;
            };
            degraded.push(drained(&backend));
            self.retired.insert(identity, (backend.id, context.now));
            out.retired.push(Retired::Backend {
                port: key.clone(),
                service: self.id,
                address: identity.0,
                port_be: identity.1,
                id: backend.id,
            });
        }
        degraded
    }

    fn update_set(
        &mut self,
        kind: SetKind,
        wanted: &Wanted,
        context: &mut Context<'_>,
        out: &mut Output,
    ) {
        let used = wanted.keys.iter().any(|(_, set, _)| *set == kind);
        let current = match kind {
            SetKind::Cluster => self.cluster.take(),
            SetKind::Local => self.local.take(),
        };
        let next = if used {
            Some(self.next_set(kind, wanted, current, context, out))
        } else {
            out.retired.extend(current.as_ref().map(retired_generation));
            None
        };
        match kind {
            SetKind::Cluster => self.cluster = next,
            SetKind::Local => self.local = next,
        }
    }

    fn next_set(
        &self,
        kind: SetKind,
        wanted: &Wanted,
        current: Option<SetState>,
        context: &mut Context<'_>,
        out: &mut Output,
    ) -> SetState {
        let of = |state: u8| {
            self.backends.values().filter(move |backend| {
                backend.entry.state == state
                    && (kind == SetKind::Cluster || backend.entry.flags & BACKEND_LOCAL != 0)
            })
        };
        let mut slots: Vec<u32> = of(BACKEND_ACTIVE).map(|backend| backend.id).collect();
        let count = slots.len() as u32;
        slots.extend(of(BACKEND_TERMINATING).map(|backend| backend.id));
        let usable = if count > 0 {
            BACKEND_ACTIVE
        } else {
            BACKEND_TERMINATING
        };
        let members: Vec<Member> = match wanted.needs_table {
            NeedsTable::No => Vec::new(),
            NeedsTable::Yes => of(usable)
                .map(|backend| Member {
                    address: backend.entry.address,
                    port_be: backend.entry.port_be,
                    backend: backend.id,
                })
                .collect(),
        };
        let table_len = table::len_for(members.len()) as u32;
        let (set, generation) = match current {
            Some(current)
                if current.whole == Whole::Yes
                    && current.slots == slots
                    && current.count == count
                    && current.table_len == table_len =>
            {
                return current;
            }
            Some(current) => {
                out.retired.push(retired_generation(&current));
                (current.set, current.generation_high.wrapping_add(1))
            }
            None => (context.service_ids.next(), 1),
        };
        if !slots.is_empty() {
            out.slots.push(MapOp::SetSlots {
                set,
                generation,
                backends: slots.clone(),
            });
        }
        if table_len > 0 {
            out.tables.push(MapOp::SetTable {
                set,
                generation,
                backends: table::build(&members),
            });
        }
        SetState {
            set,
            generation,
            slots,
            count,
            table_len,
            generation_high: generation,
            whole: Whole::Yes,
        }
    }

    fn update_keys(
        &mut self,
        key: &PortKey,
        wanted: &Wanted,
        context: &mut Context<'_>,
        out: &mut Output,
    ) {
        let mut keys = SmallMap::default();
        for (service_key, kind, flags) in &wanted.keys {
            let state = match kind {
                SetKind::Cluster => self.cluster.as_ref(),
                SetKind::Local => self.local.as_ref(),
            };
            let Some(state) = state else { continue };
            let entry = ServiceEntry {
                set: state.set,
                service: self.id,
                generation: state.generation,
                count: state.count,
                terminating: state.slots.len() as u32 - state.count,
                affinity_seconds: wanted.affinity_seconds,
                table_len: state.table_len,
                flags: *flags,
                reserved: 0,
            };
            match context.owners.get(service_key) {
                Some(owner) if owner != key => {
                    let waiting = context.waiting.entry(*service_key).or_default();
                    waiting.insert(key.clone());
                    continue;
                }
                Some(_) => {}
                None => {
                    context.owners.insert(*service_key, key.clone());
                }
            }
            if self.keys.get(service_key) != Some(&entry) {
                out.flips.push(MapOp::SetService {
                    key: *service_key,
                    entry,
                });
            }
            keys.insert(*service_key, entry);
        }
        for service_key in self.keys.keys().filter(|old| keys.get(old).is_none()) {
            release(service_key, key, context.owners, context.waiting, out);
        }
        self.keys = keys;
    }
}

/// Takes an address out of the maps, unless it is another port's, and wakes those that want it.
fn release(
    service_key: &ServiceKey,
    key: &PortKey,
    owners: &mut HashMap<ServiceKey, PortKey>,
    waiting: &mut Waiting,
    out: &mut Output,
) {
    // What an earlier run left has no owner yet.
    if owners.get(service_key).is_some_and(|owner| owner != key) {
        return;
    }
    owners.remove(service_key);
    out.removed_services
        .push(MapOp::RemoveService { key: *service_key });
    out.again
        .extend(waiting.remove(service_key).into_iter().flatten());
}

fn retired_generation(state: &SetState) -> Retired {
    Retired::Generation {
        set: state.set,
        generation: state.generation,
        slots: state.slots.len() as u32,
        table_len: state.table_len,
    }
}

fn drained(backend: &BackendState) -> MapOp {
    MapOp::SetBackend {
        id: backend.id,
        entry: BackendEntry {
            state: BACKEND_DRAINED,
            ..backend.entry
        },
    }
}
