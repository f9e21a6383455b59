// SPDX-License-Identifier: Apache-2.0
//! The cluster under test: the one that `cargo xtask up` keeps under `target/up/`, shared by the tests of a tier.
//! Each test has a namespace of its own in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::kubectl::Kubectl;
use crate::manifests::{self, Addresses};

static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// A namespace in the running cluster. It is deleted at the end of the test.
pub struct Cluster {
    /// kubectl with this namespace as default.
    pub kubectl: Kubectl,
    /// The namespace's name.
    pub namespace: String,
}

/// Where the running cluster's files are.
pub fn up_dir() -> PathBuf {
    let dir = std::env::var_os("KNARR_UP").map_or_else(
        || {
            let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
            PathBuf::from(package).join("../target/up")
        },
        PathBuf::from,
    );
    dir.canonicalize().unwrap_or(dir)
}

/// The xtask program that runs the lab.
pub fn xtask() -> PathBuf {
    let path = std::env::var_os("KNARR_XTASK")
        .map_or_else(|| up_dir().join("../debug/xtask"), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is missing: these tests are run by `cargo xtask test cluster kubectl`",
        path.display()
    );
    path
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
        // After a failure the objects are evidence for whoever looks, until the cluster goes.
        if !std::thread::panicking() {
            Kubectl::new("default").run(&["delete", "namespace", &self.namespace, "--wait=false"]);
        }
    }
}
