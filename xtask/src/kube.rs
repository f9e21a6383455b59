// SPDX-License-Identifier: Apache-2.0
//! The real kubectl against the running cluster. Used by `up`, `demo` and the benches.

use std::process::Command;

use crate::{paths, run};

/// kubectl with the cluster's admin kubeconfig.
pub fn kubectl() -> Command {
    let mut kubectl = Command::new(paths::up_bin().join("kubectl"));
    kubectl.arg("--kubeconfig").arg(paths::kubeconfig());
    kubectl.env("KUBECACHEDIR", paths::up().join("kube-cache"));
    kubectl
}

/// Runs kubectl and returns what it printed.
pub fn get(args: &[&str]) -> anyhow::Result<String> {
    run::stdout(kubectl().args(args))
}

/// Applies objects written as YAML or JSON.
pub fn apply(manifest: &str) -> anyhow::Result<String> {
    run::stdout_with_input(
        kubectl().args(["apply", "--filename", "-"]),
        manifest.as_bytes(),
    )
}
