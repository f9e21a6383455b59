// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What to do to the maps, as values: made by the planner (`agent/plan`), carried out in order by
//! `knarr-datapath`. Not the place for decisions.

use crate::types::{BackendEntry, ServiceEntry, ServiceKey};

/// One step. A list of them is in safe order: whatever an entry names exists before the entry does, and
/// outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Writes a backend.
    SetBackend {
        /// Backend id.
        id: u32,
        /// Its entry.
        entry: BackendEntry,
    },
    /// Writes all slots of one generation, from slot 0.
    SetSlots {
        /// Set id.
        set: u32,
        /// Generation, not in use yet.
        generation: u32,
        /// Backend ids: active ones first, then terminating ones.
        backends: Vec<u32>,
    },
    /// Writes the consistent hash table of one generation.
    SetTable {
        /// Set id.
        set: u32,
        /// Generation, not in use yet.
        generation: u32,
        /// Backend ids; the length is a power of two and a multiple of `TABLE_CHUNK`.
        backends: Vec<u32>,
    },
    /// Points an address at a generation: the one update that flips.
    SetService {
        /// Address, port, protocol, scope.
        key: ServiceKey,
        /// What answers.
        entry: ServiceEntry,
    },
    /// Takes an address away.
    RemoveService {
        /// Address, port, protocol, scope.
        key: ServiceKey,
    },
    /// Deletes the slots `0..count` of a generation that nothing points at any more.
    RemoveSlots {
        /// Set id.
        set: u32,
        /// Generation.
        generation: u32,
        /// Number of slots.
        count: u32,
    },
    /// Deletes the table of a generation that nothing points at any more.
    RemoveTable {
        /// Set id.
        set: u32,
        /// Generation.
        generation: u32,
        /// Number of entries (not chunks).
        len: u32,
    },
    /// Deletes a backend that no slot names any more.
    RemoveBackend {
        /// Backend id.
        id: u32,
    },
    /// Deletes affinity entries and flows that lead to these backends, which are gone.
    PurgeBackends {
        /// Backend ids.
        ids: Vec<u32>,
    },
    /// Deletes affinity entries and counters of Service ports that are gone, or affinity alone where it
    /// was switched off.
    PurgeServices {
        /// Service ids whose affinity entries go.
        affinity: Vec<u32>,
        /// Service ids whose counters go.
        counters: Vec<u32>,
    },
}

/// What the maps hold, for a planner that starts again and has to continue with the same ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapContents {
    /// `SERVICES`.
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    /// `SLOTS`, as (set, generation, slot, backend).
    pub slots: Vec<(u32, u32, u32, u32)>,
    /// Chunks of `TABLES`, as (set, generation, chunk).
    pub tables: Vec<(u32, u32, u32)>,
    /// `BACKENDS`.
    pub backends: Vec<(u32, BackendEntry)>,
    /// Highest id that was ever given to a set or Service.
    pub service_id_high: u32,
    /// Highest id that was ever given to a backend.
    pub backend_id_high: u32,
}

/// What an id stands for, for people. Kept in the agent's names file, never needed to carry traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A Service port got an id.
    Service {
        /// Service id.
        id: u32,
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// Name of its port, may be empty.
        port_name: String,
    },
    /// A backend got an id.
    Backend {
        /// Backend id.
        id: u32,
        /// "namespace/name" of the pod, empty where there is none.
        pod: String,
        /// Node that it runs on, empty where unknown.
        node: String,
    },
    /// A Service id is gone.
    ServiceGone {
        /// Service id.
        id: u32,
    },
    /// A backend id is gone.
    BackendGone {
        /// Backend id.
        id: u32,
    },
}
