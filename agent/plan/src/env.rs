// SPDX-License-Identifier: Apache-2.0
//! The environment of a container: Service variables, envFrom, env with its sources, `$(VAR)`.
//!
//! Not here: the image's own variables (`container` puts them underneath). Follows kubelet v1.37
//! `makeEnvironmentVariables` and core/v1 EnvVar.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVar, ObjectFieldSelector, Pod, ResourceFieldSelector, Secret,
};
use knarr_api::quantity::Quantity;

use crate::resources;

/// The ConfigMaps and Secrets of the pod's namespace that this node has, by name.
#[derive(Clone, Default, PartialEq)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

impl fmt::Debug for Objects {
    /// By name: contents may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Objects {
            config_maps,
            secrets,
        } = self;
        f.debug_struct("Objects")
            .field("config_maps", &config_maps.keys())
            .field("secrets", &secrets.keys())
            .finish()
    }
}

/// A Service that pods find in their environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceVars {
    /// Service name.
    pub name: String,
    /// First cluster IP.
    pub cluster_ip: String,
    /// Port name (may be empty), protocol in lower case, port.
    pub ports: Vec<(String, &'static str, u16)>,
}

/// What a node knows about the surroundings of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Node name.
    pub node_name: String,
    /// Node addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// Pod addresses, the primary one first.
    pub pod_ips: Vec<String>,
    /// Allocatable CPU of the node, in thousandths.
    pub node_cpu_milli: i64,
    /// Allocatable memory of the node, in bytes.
    pub node_memory_bytes: i64,
    /// Objects of the pod's namespace.
    pub objects: Objects,
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: Vec<ServiceVars>,
}

/// Why an environment cannot be made. The text is the waiting message of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap that is not optional is missing.
    #[error("configmap \"{0}\" not found")]
    ConfigMapNotFound(String),
    /// A Secret that is not optional is missing.
    #[error("secret \"{0}\" not found")]
    SecretNotFound(String),
    /// The object has no such key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    KeyNotFound {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// Namespace of the object.
        namespace: String,
        /// Name of the object.
        name: String,
    },
    /// A Secret value that is no text cannot be an environment variable.
    #[error("the value of key {key} in Secret {name} is not valid UTF-8")]
    NotText {
        /// The key.
        key: String,
        /// Name of the Secret.
        name: String,
    },
    /// A field path that means nothing.
    #[error("unsupported fieldPath: {0}")]
    FieldPath(String),
    /// A resource that means nothing.
    #[error("unsupported container resource: {0}")]
    Resource(String),
    /// A resourceFieldRef that names no container.
    #[error("container {0} not found")]
    NoSuchContainer(String),
    /// A source that this agent does not know.
    #[error("env[{0}].valueFrom: is not supported by this agent")]
    Source(String),
}

/// Replaces `$(NAME)` by the value of a known variable, `$$` by `$`; everything else stays.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|t| t.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// The variables of a container, later ones of the same name in the place of earlier ones.
pub fn environment(
    pod: &Pod,
    container: &Container,
    around: &Surroundings,
) -> Result<Vec<(String, String)>, EnvError> {
    let links = pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true);
    let mut vars = Vars::default();
    for service in &around.services {
        if links || service.name == "kubernetes" {
            service_vars(service, &mut vars);
        }
    }
    env_from(container, around, &mut vars)?;
    for var in container.env.iter().flatten() {
        if let Some(value) = env_value(pod, container, around, var, &vars)? {
            vars.set(&var.name, value);
        }
    }
    Ok(vars.list)
}

/// An ordered map that stays small.
#[derive(Default)]
struct Vars {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Vars {
    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(at) => self.list[*at].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.list.len());
                self.list.push((name.to_owned(), value));
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.index.get(name).map(|at| self.list[*at].1.clone())
    }
}

fn service_vars(service: &ServiceVars, vars: &mut Vars) {
    let name = service.name.to_uppercase().replace('-', "_");
    let ip = &service.cluster_ip;
    let Some((_, _, first)) = service.ports.first() else {
        return;
    };
    vars.set(&format!("{name}_SERVICE_HOST"), ip.clone());
    vars.set(&format!("{name}_SERVICE_PORT"), first.to_string());
    for (port_name, _, port) in &service.ports {
        if !port_name.is_empty() {
            let port_name = port_name.to_uppercase().replace('-', "_");
            vars.set(
                &format!("{name}_SERVICE_PORT_{port_name}"),
                port.to_string(),
            );
        }
    }
    let host = if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.clone()
    };
    for (n, (_, protocol, port)) in service.ports.iter().enumerate() {
        let url = format!("{protocol}://{host}:{port}");
        if n == 0 {
            vars.set(&format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{port}_{}", protocol.to_uppercase());
        vars.set(&prefix, url);
        vars.set(&format!("{prefix}_PROTO"), (*protocol).to_owned());
        vars.set(&format!("{prefix}_PORT"), port.to_string());
        vars.set(&format!("{prefix}_ADDR"), ip.clone());
    }
}

fn env_from(container: &Container, around: &Surroundings, vars: &mut Vars) -> Result<(), EnvError> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(source) = &from.config_map_ref {
            match around.objects.config_maps.get(&source.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        vars.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::ConfigMapNotFound(source.name.clone())),
            }
        }
        if let Some(source) = &from.secret_ref {
            match around.objects.secrets.get(&source.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let text = secret_text(&value.0, key, &source.name)?;
                        vars.set(&format!("{prefix}{key}"), text);
                    }
                }
                None if source.optional == Some(true) => {}
                None => return Err(EnvError::SecretNotFound(source.name.clone())),
            }
        }
    }
    Ok(())
}

fn secret_text(bytes: &[u8], key: &str, name: &str) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText {
        key: key.to_owned(),
        name: name.to_owned(),
    })
}

/// None: an optional source is missing, so the variable is not set.
fn env_value(
    pod: &Pod,
    container: &Container,
    around: &Surroundings,
    var: &EnvVar,
    vars: &Vars,
) -> Result<Option<String>, EnvError> {
    let namespace = || pod.metadata.namespace.clone().unwrap_or_default();
    let Some(source) = &var.value_from else {
        let value = var.value.as_deref().unwrap_or("");
        return Ok(Some(expand(value, |name| vars.lookup(name))));
    };
    if let Some(field) = &source.field_ref {
        return field_value(pod, around, field).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_value(pod, Some(container), around, resource).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = around.objects.config_maps.get(&key.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(EnvError::ConfigMapNotFound(key.name.clone()))
            };
        };
        return match map.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(EnvError::KeyNotFound {
                key: key.key.clone(),
                kind: "ConfigMap",
                namespace: namespace(),
                name: key.name.clone(),
            }),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = around.objects.secrets.get(&key.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(EnvError::SecretNotFound(key.name.clone()))
            };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&key.key)) {
            Some(value) => secret_text(&value.0, &key.key, &key.name).map(Some),
            None if optional => Ok(None),
            None => Err(EnvError::KeyNotFound {
                key: key.key.clone(),
                kind: "Secret",
                namespace: namespace(),
                name: key.name.clone(),
            }),
        };
    }
    Err(EnvError::Source(var.name.clone()))
}

/// The value of a fieldRef.
pub fn field_value(
    pod: &Pod,
    around: &Surroundings,
    field: &ObjectFieldSelector,
) -> Result<String, EnvError> {
    let meta = &pod.metadata;
    let path = field.field_path.as_str();
    let unknown = || EnvError::FieldPath(path.to_owned());
    let subscript = |prefix: &str| {
        path.strip_prefix(prefix)?
            .strip_prefix("['")?
            .strip_suffix("']")
    };
    if let Some(key) = subscript("metadata.labels") {
        let labels = meta.labels.as_ref();
        return Ok(labels.and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript("metadata.annotations") {
        let annotations = meta.annotations.as_ref();
        return Ok(annotations
            .and_then(|a| a.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        let line = |(k, v): (&String, &String)| format!("{k}={v:?}");
        map.into_iter()
            .flatten()
            .map(line)
            .collect::<Vec<_>>()
            .join("\n")
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => around.node_name.clone(),
        "spec.serviceAccountName" => pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" => around.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => around.host_ips.join(","),
        "status.podIP" => around.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => around.pod_ips.join(","),
        _ => return Err(unknown()),
    })
}

/// The value of a resourceFieldRef; a missing limit is the node's allocatable amount.
pub fn resource_value(
    pod: &Pod,
    own: Option<&Container>,
    around: &Surroundings,
    field: &ResourceFieldSelector,
) -> Result<String, EnvError> {
    let spec = pod.spec.as_ref();
    let container = match field.container_name.as_deref().filter(|n| !n.is_empty()) {
        None => own,
        Some(name) => spec
            .and_then(|s| {
                let init = s.init_containers.iter().flatten();
                init.chain(&s.containers).find(|c| c.name == name)
            })
            .or(own.filter(|c| c.name == name)),
    };
    let container = container.ok_or_else(|| {
        EnvError::NoSuchContainer(field.container_name.clone().unwrap_or_default())
    })?;
    let unknown = || EnvError::Resource(field.resource.clone());
    let (kind, name) = field.resource.split_once('.').ok_or_else(unknown)?;
    let quantity = match kind {
        "limits" => resources::limit(container, name).filter(|q| !q.is_zero()),
        "requests" => resources::request(container, name),
        _ => return Err(unknown()),
    };
    let nanos = match (quantity, kind, name) {
        (Some(q), _, _) => q.nanos(),
        (None, "limits", "cpu") => i128::from(around.node_cpu_milli) * 1_000_000,
        (None, "limits", "memory") => i128::from(around.node_memory_bytes) * 1_000_000_000,
        (None, _, "cpu" | "memory" | "ephemeral-storage") => 0,
        _ if name.starts_with("hugepages-") => 0,
        _ => return Err(unknown()),
    };
    let divisor: Quantity = match &field.divisor {
        Some(q) => q.0.parse().map_err(|_| unknown())?,
        None => Quantity::from_units(1),
    };
    let divisor = match divisor.nanos() {
        0 => Quantity::from_units(1).nanos(),
        n => n,
    };
    Ok((nanos / divisor + i128::from(nanos % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests;
