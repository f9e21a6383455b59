// SPDX-License-Identifier: Apache-2.0
//! Gathers what the plans of sandboxes and containers are made from: this machine, the desired state, files of the node.
//!
//! Not here: what follows from it (`knarr_agent_plan::sandbox`, `knarr_agent_plan::container`).

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use knarr_agent_plan::env::Surroundings;
use knarr_agent_plan::identity;
use knarr_agent_plan::sandbox::{SandboxInputs, sandbox_spec};
use knarr_agent_plan::spec::containers;
use knarr_agent_plan::volumes::VolumePlan;
use knarr_pod::SandboxSpec;

use crate::pods::Context;
use crate::volumes::path_of;

/// What a container's surroundings are, with these pod addresses.
pub fn surroundings(context: &Context, pod: &Pod, pod_ips: Vec<String>) -> Surroundings {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let machine = &context.machine;
    let allocatable = machine.allocatable(context.max_pods);
    Surroundings {
        node_name: machine.node_name.clone(),
        host_ips: vec![machine.node_ip.to_string()],
        pod_ips,
        node_cpu_milli: allocatable.cpu_milli,
        node_memory_bytes: allocatable.memory_bytes,
        objects: context.desired.objects(namespace),
        services: context.desired.service_vars(namespace),
    }
}

/// The cluster's DNS domain where the control plane has not said one.
const CLUSTER_DOMAIN_DEFAULT: &str = "cluster.local";

/// The sandbox of a pod. Blocking: it reads the node's own files.
pub fn sandbox(
    context: &Context,
    uid: &str,
    pod: &Pod,
    attempt: u32,
    pod_ips: &[String],
) -> SandboxSpec {
    let domain = context.desired.welcome().map(|w| w.cluster_domain);
    let domain = domain
        .filter(|d| !d.is_empty())
        .unwrap_or_else(|| CLUSTER_DOMAIN_DEFAULT.to_owned());
    let node_file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    sandbox_spec(SandboxInputs {
        pod,
        uid,
        attempt,
        hostname: identity::hostname(pod, &context.machine.hostname),
        cluster_domain: &domain,
        pod_ips,
        node_hosts: &node_file("/etc/hosts"),
        node_resolv_conf: &node_file("/etc/resolv.conf"),
        pids: context.pod_pids,
    })
}

/// Where a volume is on the node; an empty path where it was not made.
pub fn volume_root(context: &Context, uid: &str, volumes: &[VolumePlan], name: &str) -> PathBuf {
    let volume = volumes.iter().find(|v| v.name == name);
    volume.map_or_else(PathBuf::new, |volume| {
        path_of(volume, |plugin, name| {
            context.edges.volumes.dir(uid, plugin, name)
        })
    })
}

/// The container of a pod with this name.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    containers(spec).map(|(c, _)| c).find(|c| c.name == name)
}
