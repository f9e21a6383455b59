// SPDX-License-Identifier: Apache-2.0
//! The volumes of a pod as things to make, and the mounts of a container as paths below them.
//!
//! Not here: directories, mounts and files themselves (the agent's `volumes`). Rules: core/v1 Volume,
//! VolumeMount; messages as kubelet v1.37.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, Pod, Volume,
};
use knarr_api::quantity::Quantity;
use knarr_pod::{Access, Mount, MountSource, Propagation};

use crate::env::{EnvError, Surroundings, expand, field_value, resource_value};
use crate::secret::Size;

/// The mode of a file where the pod says nothing.
pub const FILE_MODE_DEFAULT: u32 = 0o644;

/// One volume to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Volume name.
    pub name: String,
    /// What it is made of.
    pub source: VolumeSource,
}

/// What a volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory of the pod, on the node's disk.
    Directory {
        /// The pod is to be ended when it uses more.
        size_bytes: Option<i64>,
    },
    /// A tmpfs of the pod.
    Memory {
        /// Its size; absent: the kernel's default of half the memory.
        size_bytes: Option<i64>,
    },
    /// A path of the node.
    HostPath {
        /// Absolute path.
        path: String,
        /// HostPathVolumeSource.type; empty: no check.
        kind: String,
    },
    /// Files made from objects, swapped as a whole when they change.
    Files(Vec<VolumeFile>),
}

/// A file of a [`VolumeSource::Files`].
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Relative to the volume's root; no `..`, checked here.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub data: Vec<u8>,
}

impl fmt::Debug for VolumeFile {
    /// Without the contents, which may come from a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VolumeFile { path, mode, data } = self;
        f.debug_struct("VolumeFile")
            .field("path", path)
            .field("mode", mode)
            .field("data", &Size(data.len()))
            .finish()
    }
}

/// Why a volume cannot be made. The text is for the waiting message and the `FailedMount` event: it is whole, in
/// kubelet's words, so that no variant has a source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// A source object or key is missing, or a field is unknown.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {cause}")]
    Source {
        /// Volume name.
        volume: String,
        /// What is missing.
        cause: EnvError,
    },
    /// A key that is asked for is not in the object.
    #[error(
        "MountVolume.SetUp failed for volume \"{volume}\" : references non-existent {kind} key: {key}"
    )]
    Key {
        /// Volume name.
        volume: String,
        /// `config` or `secret`.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// A path that leaves the volume.
    #[error("volume \"{volume}\": path {path:?} must be relative and must not contain '..'")]
    Path {
        /// Volume name.
        volume: String,
        /// The path.
        path: String,
    },
    /// A kind of volume that `support` refuses.
    #[error("volume \"{volume}\" is of a kind that this agent does not support")]
    Kind {
        /// Volume name.
        volume: String,
    },
    /// A mount that names no volume.
    #[error("volume \"{volume}\" of mount {path} is not defined")]
    NoSuchVolume {
        /// Volume name.
        volume: String,
        /// mountPath.
        path: String,
    },
}

/// All volumes of a pod.
pub fn volume_plans(pod: &Pod, around: &Surroundings) -> Result<Vec<VolumePlan>, VolumeError> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .map(|v| {
            Ok(VolumePlan {
                name: v.name.clone(),
                source: volume_source(pod, v, around)?,
            })
        })
        .collect()
}

fn volume_source(
    pod: &Pod,
    volume: &Volume,
    around: &Surroundings,
) -> Result<VolumeSource, VolumeError> {
    if let Some(empty_dir) = &volume.empty_dir {
        return Ok(empty_dir_source(empty_dir));
    }
    if let Some(host_path) = &volume.host_path {
        return Ok(VolumeSource::HostPath {
            path: host_path.path.clone(),
            kind: host_path.type_.clone().unwrap_or_default(),
        });
    }
    let mut files = Files {
        volume: &volume.name,
        around,
        pod,
        mode: FILE_MODE_DEFAULT,
        files: BTreeMap::new(),
    };
    if let Some(source) = &volume.config_map {
        files.set_mode(source.default_mode);
        files.config_map(&source.name, source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.secret {
        files.set_mode(source.default_mode);
        let name = source.secret_name.as_deref().unwrap_or("");
        files.secret(name, source.items.as_deref(), source.optional)?;
    } else if let Some(source) = &volume.downward_api {
        files.set_mode(source.default_mode);
        files.downward(source.items.as_deref().unwrap_or(&[]))?;
    } else if let Some(source) = &volume.projected {
        files.set_mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                files.config_map(&map.name, map.items.as_deref(), map.optional)?;
            }
            if let Some(secret) = &part.secret {
                files.secret(&secret.name, secret.items.as_deref(), secret.optional)?;
            }
            if let Some(downward) = &part.downward_api {
                files.downward(downward.items.as_deref().unwrap_or(&[]))?;
            }
        }
    } else {
        return Err(VolumeError::Kind {
            volume: volume.name.clone(),
        });
    }
    Ok(VolumeSource::Files(files.files.into_values().collect()))
}

fn empty_dir_source(source: &EmptyDirVolumeSource) -> VolumeSource {
    let size_bytes = source
        .size_limit
        .as_ref()
        .and_then(|q| q.0.parse::<Quantity>().ok())
        .map(|q| q.value())
        .filter(|n| *n > 0);
    match source.medium.as_deref() {
        Some("Memory") => VolumeSource::Memory { size_bytes },
        _ => VolumeSource::Directory { size_bytes },
    }
}

/// Collects the files of one volume; a later source wins a path.
struct Files<'a> {
    volume: &'a str,
    around: &'a Surroundings,
    pod: &'a Pod,
    mode: u32,
    files: BTreeMap<String, VolumeFile>,
}

impl Files<'_> {
    fn set_mode(&mut self, mode: Option<i32>) {
        self.mode = file_mode(mode, FILE_MODE_DEFAULT);
    }

    fn add(&mut self, path: &str, mode: Option<i32>, data: Vec<u8>) -> Result<(), VolumeError> {
        let path = path.trim_end_matches('/');
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|p| p == "..") {
            return Err(VolumeError::Path {
                volume: self.volume.to_owned(),
                path: path.to_owned(),
            });
        }
        let file = VolumeFile {
            path: path.to_owned(),
            mode: file_mode(mode, self.mode),
            data,
        };
        self.files.insert(path.to_owned(), file);
        Ok(())
    }

    fn missing(&self, cause: EnvError) -> VolumeError {
        VolumeError::Source {
            volume: self.volume.to_owned(),
            cause,
        }
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), VolumeError> {
        let Some(map) = self.around.objects.config_maps.get(name) else {
            return match optional {
                Some(true) => Ok(()),
                _ => Err(self.missing(EnvError::ConfigMapNotFound(name.to_owned()))),
            };
        };
        let text = map.data.iter().flatten();
        let binary = map.binary_data.iter().flatten();
        let data = text
            .map(|(k, v)| (k.clone(), v.clone().into_bytes()))
            .chain(binary.map(|(k, v)| (k.clone(), v.0.clone())))
            .collect();
        self.keys("config", data, items, optional)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), VolumeError> {
        let Some(secret) = self.around.objects.secrets.get(name) else {
            return match optional {
                Some(true) => Ok(()),
                _ => Err(self.missing(EnvError::SecretNotFound(name.to_owned()))),
            };
        };
        let data = secret.data.iter().flatten();
        let data = data.map(|(k, v)| (k.clone(), v.0.clone())).collect();
        self.keys("secret", data, items, optional)
    }

    fn keys(
        &mut self,
        kind: &'static str,
        data: BTreeMap<String, Vec<u8>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), VolumeError> {
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, value) in data {
                self.add(&key, None, value)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.add(&item.path, item.mode, value.clone())?,
                None if optional == Some(true) => {}
                None => {
                    return Err(VolumeError::Key {
                        volume: self.volume.to_owned(),
                        kind,
                        key: item.key.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: &[DownwardAPIVolumeFile]) -> Result<(), VolumeError> {
        for item in items {
            let value = if let Some(field) = &item.field_ref {
                field_value(self.pod, self.around, field)
            } else if let Some(resource) = &item.resource_field_ref {
                resource_value(self.pod, None, self.around, resource)
            } else {
                Ok(String::new())
            };
            let value = value.map_err(|e| self.missing(e))?;
            self.add(&item.path, item.mode, value.into_bytes())?;
        }
        Ok(())
    }
}

fn file_mode(mode: Option<i32>, default: u32) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok())
        .map_or(default, |m| m & 0o7777)
}

/// The mounts of a container; `volume_root` says where a volume is on the node. Volumes of files are always read-only, as in Kubernetes.
pub fn mounts(
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    volume_root: &dyn Fn(&str) -> PathBuf,
) -> Result<Vec<Mount>, VolumeError> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let spec = pod.spec.as_ref();
        let mut volumes = spec.into_iter().flat_map(|s| s.volumes.iter().flatten());
        let volume =
            volumes
                .find(|v| v.name == mount.name)
                .ok_or_else(|| VolumeError::NoSuchVolume {
                    volume: mount.name.clone(),
                    path: mount.mount_path.clone(),
                })?;
        let sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(expr)) => {
                let lookup = |name: &str| {
                    let mut env = env.iter();
                    env.find(|(k, _)| k == name).map(|(_, v)| v.clone())
                };
                expand(expr, lookup)
            }
            _ => String::new(),
        };
        if sub_path.starts_with('/') || sub_path.split('/').any(|p| p == "..") {
            return Err(VolumeError::Path {
                volume: mount.name.clone(),
                path: sub_path,
            });
        }
        let files = volume.empty_dir.is_none() && volume.host_path.is_none();
        let target = if mount.mount_path.starts_with('/') {
            mount.mount_path.clone()
        } else {
            format!("/{}", mount.mount_path)
        };
        let root = volume_root(&mount.name);
        mounts.push(Mount {
            source: if sub_path.is_empty() {
                MountSource::Bind(root)
            } else {
                MountSource::BindWithin {
                    root,
                    sub_path: PathBuf::from(sub_path),
                }
            },
            target: PathBuf::from(target),
            access: if files || mount.read_only == Some(true) {
                Access::ReadOnly
            } else {
                Access::ReadWrite
            },
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::HostToContainer,
                Some("Bidirectional") => Propagation::Bidirectional,
                _ => Propagation::Private,
            },
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests;
