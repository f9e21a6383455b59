// SPDX-License-Identifier: Apache-2.0
//! The JSON documents of images: OCI index, manifest and configuration, docker's manifest.json.
//!
//! Parsing only. Sources: OCI image spec v1.1, Docker image spec v1.2.

use std::collections::BTreeMap;

use knarr_pod::ImageConfig;
use serde::Deserialize;

/// OCI descriptor.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub platform: Option<Platform>,
}

/// OCI platform.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Platform {
    pub architecture: String,
    pub os: String,
}

/// Names that tools leave in `index.json`: containerd's in full, and the OCI one.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

impl Descriptor {
    /// The name that the descriptor is given, if any.
    pub fn name(&self) -> Option<&str> {
        NAME_ANNOTATIONS
            .iter()
            .find_map(|key| self.annotations.get(*key))
            .map(String::as_str)
    }

    /// Whether it is for this machine; unknown counts as yes.
    pub fn fits(&self) -> bool {
        self.platform
            .as_ref()
            .is_none_or(|p| p.os == "linux" && p.architecture == architecture())
    }
}

/// Index and manifest in one: which one it is shows in what it has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    /// Of an index.
    pub manifests: Option<Vec<Descriptor>>,
    /// Of a manifest.
    pub config: Option<Descriptor>,
    /// Of a manifest.
    pub layers: Option<Vec<Descriptor>>,
}

/// One image of docker's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    pub config: String,
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

/// The image configuration of both worlds.
#[derive(Debug, Deserialize)]
pub(super) struct Configuration {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub config: Option<Process>,
    pub rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Process {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, String>>,
}

impl Configuration {
    /// What matters to a runtime.
    pub fn process(&self) -> ImageConfig {
        let Some(p) = &self.config else {
            return ImageConfig::default();
        };
        let keys = |map: &Option<BTreeMap<String, serde_json::Value>>| {
            map.iter().flat_map(|m| m.keys().cloned()).collect()
        };
        ImageConfig {
            entrypoint: p.entrypoint.clone().unwrap_or_default(),
            cmd: p.cmd.clone().unwrap_or_default(),
            env: p.env.clone().unwrap_or_default(),
            working_dir: p.working_dir.clone().unwrap_or_default(),
            user: p.user.clone().unwrap_or_default(),
            stop_signal: p.stop_signal.clone().filter(|s| !s.is_empty()),
            exposed_ports: keys(&p.exposed_ports),
            volumes: keys(&p.volumes),
            labels: p.labels.clone().unwrap_or_default(),
        }
    }

    /// Why it cannot run here, if so.
    pub fn misfit(&self) -> Option<String> {
        let os_fits = self.os.is_empty() || self.os == "linux";
        let architecture_fits = self.architecture.is_empty() || self.architecture == architecture();
        (!os_fits || !architecture_fits).then(|| {
            format!(
                "the image is for {}/{}, this node is linux/{}",
                self.os,
                self.architecture,
                architecture()
            )
        })
    }
}

/// This machine in the words of image specifications (Go's GOARCH).
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
