// SPDX-License-Identifier: Apache-2.0
//! The Kubernetes API over a revisioned store: once over HTTP, once as calls inside the process.
//!
//! [`ApiServer::open`] fills the watch cache from a store; [`ApiServer::router`] is what
//! `kubectl` talks to, [`ApiServer::client`] what controllers, the scheduler and the node feed use.
//! Both take the same way through defaults, admission, validation and conflicts. A built-in kind is one
//! file below `kinds`; everything else is generic over the registry of kinds.
//!
//! What it is not: it decides nothing that a controller decides, and it knows no node. What it needs
//! of the rest of the control plane comes in as the traits of [`ApiConfig`].
#![forbid(unsafe_code)]

mod admission;
mod allocations;
mod cache;
mod client;
mod clock;
mod codec;
mod config;
mod core;
mod failure;
mod field;
mod http;
mod identity;
mod kinds;
mod metrics;
mod object;
mod page;
mod patch;
mod registry;
mod schema;
pub mod serve;
mod server;
mod status;
mod streams;
mod table;
mod value;
mod verbs;

pub use admission::{Admission, Admit, DryRun, Effects, Hold, Operation, Part};
pub use cache::{Cache, CacheEvent, CacheEventKind, EventStream, Expired, Lagged, Snapshot};
pub use client::{
    Client, DeleteParams, ListParams, Namespaced, ResourceChanges, StoredResource, StoredResources,
};
pub use config::{ApiConfig, Authenticator, ServiceAllocator};
pub use core::KindError;
pub use failure::{OpenError, PartDied};
pub use identity::{Caller, PeerIdentity};
pub use kinds::{CustomKind, CustomScope, CustomStatus};
pub use knarr_schema::CustomSchema;
pub use object::{Meta, Object, Owner};
pub use patch::Patch;
pub use registry::{GroupVersionResource, KindId, RegistryError};
pub use server::ApiServer;
pub use status::{ApiError, Reason};
pub use streams::{
    LogOptions, NodeStream, NodeStreams, StreamRequest, StreamTarget, Terminal, refusal,
};
pub use verbs::Propagation;
