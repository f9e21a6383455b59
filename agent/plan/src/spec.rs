// SPDX-License-Identifier: Apache-2.0
//! What a pod's spec says of its containers and its network, for every plan that reads it.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// What a container is in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next one.
    Init,
    /// An init container with restartPolicy Always.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// All containers of a pod in starting order, each with its role.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (&Container, Role)> {
    let init = spec.init_containers.iter().flatten().map(|c| {
        let role = match c.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        };
        (c, role)
    });
    init.chain(spec.containers.iter().map(|c| (c, Role::Main)))
}

/// The pod lives in the node's own network namespace.
pub fn host_network(spec: &PodSpec) -> bool {
    spec.host_network.unwrap_or(false)
}
