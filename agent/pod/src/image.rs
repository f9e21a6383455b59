// SPDX-License-Identifier: Apache-2.0
//! What an image says about the process to run. The runtime reads it, the plan builds a container on it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The configuration of an image (OCI image spec v1, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, `NAME=VALUE`.
    pub env: Vec<String>,
    /// `WorkingDir`; empty: `/`.
    pub working_dir: String,
    /// `User`, `USER[:GROUP]`; empty: root.
    pub user: String,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
    /// `ExposedPorts`, e.g. `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// `Volumes`.
    pub volumes: Vec<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
}
