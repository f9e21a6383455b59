// SPDX-License-Identifier: Apache-2.0
//! The built-in kinds, one file each, and what several of them share.
//!
//! A kind's file gives names, scope, subresources, defaults, validation, the split between spec and status, and the
//! columns of `kubectl get`. [`all`] is the one list of them.

use std::sync::Arc;

use knarr_schema::Schemas;

use crate::admission::Admit;
use crate::registry::{Kind, Registry};

mod binding;
mod configmap;
mod custom;
mod deployment;
mod endpoints;
mod endpointslice;
mod event;
mod ignored;
mod lease;
mod namespace;
mod node;
mod pod;
mod podspec;
mod replicaset;
mod review;
mod scale;
mod secret;
mod service;
mod serviceaccount;

pub use custom::{CustomKind, CustomScope, CustomStatus};
pub(crate) use namespace::NAMESPACES;
pub(crate) use pod::container_names;

/// What this program serves by itself.
pub(crate) fn registry() -> Registry {
    Registry::new(all(), Schemas::builtin())
        .expect("the built-in kinds have names of their own, which a test shows")
}

/// Every built-in kind, in the order of discovery.
pub(crate) fn all() -> Vec<Arc<Kind>> {
    let event = Arc::new(event::kind());
    let event_view = event::view(Arc::clone(&event));
    let pod = Arc::new(pod::kind());
    let mut all = vec![
        binding::kind(Arc::clone(&pod)).into(),
        configmap::kind().into(),
        endpoints::kind().into(),
        event,
        namespace::kind().into(),
        node::kind().into(),
        pod,
        secret::kind().into(),
        serviceaccount::kind().into(),
        service::kind().into(),
        deployment::kind().into(),
        replicaset::kind().into(),
        lease::kind().into(),
        endpointslice::kind().into(),
        event_view.into(),
    ];
    all.extend(review::kinds().map(Arc::new));
    all
}

/// The admission links of these kinds, in the order of kube-apiserver's plug-ins (v1.37).
pub(crate) fn admission() -> Vec<Arc<dyn Admit>> {
    vec![
        Arc::new(namespace::lifecycle::NamespaceLifecycle),
        Arc::new(pod::admission::ServiceAccount),
        Arc::new(pod::admission::Priority),
        Arc::new(pod::admission::DefaultTolerationSeconds),
    ]
}
