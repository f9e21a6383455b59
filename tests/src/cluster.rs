// SPDX-License-Identifier: Apache-2.0
//! The cluster under test: each test has a namespace of its own in it. Which cluster that is, `lab` says.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::lab::up_dir;
use crate::manifests::{self, Addresses};

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A namespace in the running cluster. It is deleted at the end of the test.
pub struct Cluster {
    /// kubectl with this namespace as default.
    pub kubectl: Kubectl,
    /// The namespace's name.
    pub namespace: String,
}

impl Cluster {
    /// A fresh namespace, named after the test.
    ///
    /// # Panics
    /// When no cluster is up: such a test has not run, so it must not pass.
    pub fn namespace(topic: &str) -> Self {
        assert!(
            up_dir().join("kubeconfig").is_file(),
            "no cluster is up: run `cargo xtask test cluster kubectl`"
        );
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("{topic}-{}-{number}", std::process::id());
        Kubectl::new("default").ok(&["create", "namespace", &namespace]);
        Self {
            kubectl: Kubectl::new(&namespace),
            namespace,
        }
    }

    /// Applies a Deployment and the Service of the same name, waits until all pods are there, and gives where the
    /// Service can be called.
    ///
    /// # Panics
    /// When one is refused or the pods do not come.
    pub fn serve(&self, deployment: &Value, service: &Value) -> Addresses {
        let name = service["metadata"]["name"]
            .as_str()
            .expect("a Service has a name");
        self.kubectl
            .apply(&manifests::list(vec![deployment.clone(), service.clone()]));
        self.kubectl.rolled_out(name);
        Addresses::of(&self.kubectl.json(&["get", "service", name]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failure the objects stay as evidence until the cluster ends.
        if !std::thread::panicking() {
            Kubectl::new("default").run(&["delete", "namespace", &self.namespace, "--wait=false"]);
        }
    }
}
