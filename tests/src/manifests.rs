// SPDX-License-Identifier: Apache-2.0
//! Objects that several tests use, as JSON.

use serde_json::{Value, json};

/// The echo server's image.
pub const ECHO: &str = "localhost/knarr-echo:dev";
/// The image with busybox.
pub const SHELL: &str = "localhost/knarr-shell:dev";

/// A Deployment of echo servers with the label `app: NAME`, which are soon gone when deleted.
pub fn echo_deployment(name: &str, replicas: usize) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "echo",
                        "image": ECHO,
                        "ports": [
                            {"name": "http", "containerPort": 8080},
                            {"name": "tcp", "containerPort": 8081},
                            {"name": "udp", "containerPort": 8082, "protocol": "UDP"},
                        ],
                        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
                    }],
                },
            },
        },
    })
}

/// The same with a readiness probe: a pod that runs and does not listen yet gets no calls.
pub fn probed_echo_deployment(name: &str, replicas: usize) -> Value {
    let mut deployment = echo_deployment(name, replicas);
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = json!({
        "httpGet": {"path": "/", "port": "http"},
        "periodSeconds": 1,
        "timeoutSeconds": 5,
        // A busy machine makes no pod unready.
        "failureThreshold": 10,
    });
    deployment
}

/// The same as [`echo_deployment`] on one node only.
pub fn echo_deployment_on(name: &str, replicas: usize, node: &str) -> Value {
    let mut deployment = echo_deployment(name, replicas);
    deployment["spec"]["template"]["spec"]["nodeSelector"] =
        json!({"kubernetes.io/hostname": node});
    deployment
}

/// A NodePort Service for [`echo_deployment`]: 80 for HTTP, 81 for TCP, 82 for UDP.
pub fn echo_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "type": "NodePort",
            "selector": {"app": name},
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http"},
                {"name": "tcp", "port": 81, "targetPort": "tcp"},
                {"name": "udp", "port": 82, "targetPort": "udp", "protocol": "UDP"},
            ],
        },
    })
}

/// The same with affinity by client for this long.
pub fn sticky_service(name: &str, seconds: u32) -> Value {
    let mut service = echo_service(name);
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    service
}

/// A pod on one node that runs a shell script and is not started again.
pub fn script_pod(name: &str, node: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"run": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{"name": "main", "image": SHELL, "command": ["sh", "-c", script]}],
        },
    })
}

/// A pod on one node that calls a Service for a time.
pub fn load_pod(name: &str, node: &str, target: &str, seconds: u32) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "nodeSelector": {"kubernetes.io/hostname": node},
            "containers": [{
                "name": "main",
                "image": ECHO,
                "args": ["client", "load", target, "--rate", "50", "--seconds", seconds.to_string()],
            }],
        },
    })
}

/// Several objects as one.
pub fn list(objects: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": objects})
}

/// Where a Service can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The ClusterIP.
    pub cluster_ip: String,
    node_ports: Vec<(u64, u64)>,
}

impl Addresses {
    /// Reads them from the Service.
    ///
    /// # Panics
    /// When it has no address.
    pub fn of(service: &Value) -> Self {
        let cluster_ip = service["spec"]["clusterIP"]
            .as_str()
            .expect("a Service has an address")
            .to_owned();
        let ports = service["spec"]["ports"]
            .as_array()
            .expect("a Service has ports");
        let node_ports = ports
            .iter()
            .filter_map(|port| Some((port["port"].as_u64()?, port["nodePort"].as_u64()?)))
            .collect();
        Self {
            cluster_ip,
            node_ports,
        }
    }

    /// `ADDR:PORT` inside the cluster.
    pub fn cluster(&self, port: u64) -> String {
        format!("{}:{port}", self.cluster_ip)
    }

    /// `ADDR:PORT` on a node.
    ///
    /// # Panics
    /// When the port has no NodePort.
    pub fn node(&self, node: &str, port: u64) -> String {
        let (_, node_port) = self
            .node_ports
            .iter()
            .find(|(found, _)| *found == port)
            .expect("the port has a NodePort");
        format!("{}:{node_port}", crate::hosts::address(node))
    }
}
