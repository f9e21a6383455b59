// SPDX-License-Identifier: Apache-2.0
//! What a pod's sandbox is made from: namespaces, limits, host name, files of /etc.
//!
//! Not here: the sandbox itself (`knarr-runtime`), reading the node's own files. Called by the agent's `apply`.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use knarr_pod::{IpcMode, NetworkMode, PidMode, SandboxSpec};

use crate::identity::{hosts_file, resolv_conf};
use crate::resources::{pod_values, qos};
use crate::spec::host_network;
use crate::sysctls::sysctls;

/// What a sandbox is described from.
pub struct SandboxInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its UID.
    pub uid: &'a str,
    /// Counted from 0.
    pub attempt: u32,
    /// Its host name.
    pub hostname: String,
    /// The cluster's DNS domain.
    pub cluster_domain: &'a str,
    /// Its addresses.
    pub pod_ips: &'a [String],
    /// The node's /etc/hosts.
    pub node_hosts: &'a str,
    /// The node's /etc/resolv.conf.
    pub node_resolv_conf: &'a str,
    /// Limit of processes and threads of the whole pod.
    pub pids: Option<i64>,
}

/// Describes a sandbox.
pub fn sandbox_spec(inputs: SandboxInputs<'_>) -> SandboxSpec {
    let SandboxInputs {
        pod,
        uid,
        attempt,
        hostname,
        cluster_domain,
        pod_ips,
        node_hosts,
        node_resolv_conf,
        pids,
    } = inputs;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    SandboxSpec {
        uid: uid.to_owned(),
        namespace: text(&pod.metadata.namespace),
        name: text(&pod.metadata.name),
        attempt,
        qos: qos(spec),
        resources: pod_values(spec, pids),
        network: if host_network(spec) {
            NetworkMode::Host
        } else {
            NetworkMode::Pod
        },
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => PidMode::Host,
            (_, Some(true)) => PidMode::Pod,
            _ => PidMode::Container,
        },
        ipc: match spec.host_ipc {
            Some(true) => IpcMode::Host,
            _ => IpcMode::Pod,
        },
        hosts: hosts_file(pod, &hostname, cluster_domain, pod_ips, node_hosts),
        resolv_conf: resolv_conf(pod, node_resolv_conf),
        sysctls: sysctls(spec).collect(),
        hostname,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec_of(spec: serde_json::Value) -> SandboxSpec {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
        .expect("pod");
        sandbox_spec(SandboxInputs {
            pod: &pod,
            uid: "u",
            attempt: 3,
            hostname: "p".to_owned(),
            cluster_domain: "cluster.local",
            pod_ips: &["10.244.0.7".to_owned()],
            node_hosts: "",
            node_resolv_conf: "",
            pids: Some(100),
        })
    }

    #[test]
    fn a_pod_shares_with_the_node_what_it_asks_for_and_nothing_else() {
        let own = spec_of(json!({"containers": []}));
        assert_eq!(
            (own.network, own.pid, own.ipc),
            (NetworkMode::Pod, PidMode::Container, IpcMode::Pod)
        );
        assert_eq!((own.attempt, own.resources.pids), (3, Some(100)));
        assert!(own.hosts.contains("10.244.0.7\tp"), "{}", own.hosts);
        let host = spec_of(
            json!({"containers": [], "hostNetwork": true, "hostPID": true,
            "hostIPC": true, "shareProcessNamespace": true}),
        );
        assert_eq!(
            (host.network, host.pid, host.ipc),
            (NetworkMode::Host, PidMode::Host, IpcMode::Host)
        );
        let shared = spec_of(json!({"containers": [], "shareProcessNamespace": true}));
        assert_eq!(shared.pid, PidMode::Pod);
    }
}
