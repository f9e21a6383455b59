// SPDX-License-Identifier: Apache-2.0
//! The vocabulary that the control plane and the nodes share.
//!
//! Kubernetes' types (re-exported), names, labels and selectors, quantities and the node feed protocol.
//! It holds no behaviour of either side and does no IO; every other crate may use it.
#![forbid(unsafe_code)]

pub use k8s_openapi;
pub use knarr_base::quantity;

pub mod fields;
pub mod labels;
pub mod names;
mod redacted;
pub mod stream;
pub mod sysctl;

/// The node feed protocol, generated from `proto/feed.proto`; the comments are there.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod feed {
    tonic::include_proto!("knarr.feed.v1");
}
