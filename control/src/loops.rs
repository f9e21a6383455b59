// SPDX-License-Identifier: Apache-2.0
//! The reconcile loops: one file each, around the plan of the same name in `knarr-control-plan`.
//!
//! Every loop is fed by informers over the watch cache, takes keys from a queue, plans, applies through the
//! API's in-process client, and writes status and events. None of them polls. Started by `lib.rs`.

use knarr_api::k8s_openapi::api::core::v1::ObjectReference;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_apiserver::Client;
use tokio_util::sync::CancellationToken;

use crate::recorder::Recorder;

mod deployment;
mod endpoint_mirror;
mod endpoint_slice;
mod endpoints;
mod replica_set;
mod scheduler;

/// What every loop needs.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The API.
    pub(crate) client: Client,
    /// Ends the loop.
    pub(crate) shutdown: CancellationToken,
    /// Events, spoken as the loop.
    pub(crate) recorder: Recorder,
}

/// How an event names the object that it is about.
pub(crate) fn reference(api_version: &str, kind: &str, meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}
