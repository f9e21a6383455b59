// SPDX-License-Identifier: Apache-2.0
//! The steps of a plan, collected by phase, so that the operations of many ports can be written in batches and stay in
//! safe order. Filled by `port` and `restored`.

use std::collections::HashSet;

use knarr_ebpf_common::ops::Named;
use knarr_ebpf_common::{MapOp, ServiceKey};

use super::{Plan, PortKey, Retired};

/// Steps by phase.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) backends: Vec<MapOp>,
    pub(super) slots: Vec<MapOp>,
    pub(super) tables: Vec<MapOp>,
    pub(super) flips: Vec<MapOp>,
    pub(super) removed_services: Vec<MapOp>,
    pub(super) degraded: Vec<MapOp>,
    removed_slots: Vec<MapOp>,
    removed_tables: Vec<MapOp>,
    removed_backends: Vec<u32>,
    pub(super) purge_affinity: Vec<u32>,
    purge_counters: Vec<u32>,
    pub(super) names: Vec<Named>,
    pub(super) retired: Vec<Retired>,
    /// Ports to be planned again, for an address that they want is free.
    pub(super) again: Vec<PortKey>,
}

impl Output {
    pub(super) fn remove_generation(&mut self, set: u32, generation: u32, slots: u32, len: u32) {
        if slots > 0 {
            self.removed_slots.push(MapOp::RemoveSlots {
                set,
                generation,
                count: slots,
            });
        }
        if len > 0 {
            self.removed_tables.push(MapOp::RemoveTable {
                set,
                generation,
                len,
            });
        }
    }

    pub(super) fn remove_backend(&mut self, id: u32) {
        self.removed_backends.push(id);
        self.names.push(Named::BackendGone { id });
    }

    pub(super) fn remove_service_id(&mut self, id: u32) {
        self.purge_affinity.push(id);
        self.purge_counters.push(id);
        self.names.push(Named::ServiceGone { id });
    }

    pub(super) fn into_plan(self) -> Plan {
        let mut ops = self.backends;
        ops.extend(self.slots);
        ops.extend(self.tables);
        // An address that moves from one Service to another is one flip, not a flip and a removal.
        let set: HashSet<ServiceKey> = self.flips.iter().filter_map(service_key).collect();
        ops.extend(self.flips);
        ops.extend(
            self.removed_services
                .into_iter()
                .filter(|op| service_key(op).is_none_or(|key| !set.contains(&key))),
        );
        ops.extend(self.degraded);
        ops.extend(self.removed_slots);
        ops.extend(self.removed_tables);
        ops.extend(
            self.removed_backends
                .iter()
                .map(|id| MapOp::RemoveBackend { id: *id }),
        );
        if !self.removed_backends.is_empty() {
            ops.push(MapOp::PurgeBackends {
                ids: self.removed_backends,
            });
        }
        if !self.purge_affinity.is_empty() || !self.purge_counters.is_empty() {
            ops.push(MapOp::PurgeServices {
                affinity: self.purge_affinity,
                counters: self.purge_counters,
            });
        }
        Plan {
            ops,
            names: self.names,
            refusals: Vec::new(),
        }
    }
}

fn service_key(op: &MapOp) -> Option<ServiceKey> {
    match op {
        MapOp::SetService { key, .. } | MapOp::RemoveService { key } => Some(*key),
        _ => None,
    }
}
