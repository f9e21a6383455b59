// SPDX-License-Identifier: Apache-2.0
//! Fields of a pod that this agent cannot carry out. A pod that asks for one of them is held with
//! `CreateContainerConfigError` and the path of the field, never run as if it had not asked.
//!
//! Not here: validation of the object (the API server). Called by the planner before each start.

use k8s_openapi::api::core::v1::{
    Container, LifecycleHandler, PodSpec, SELinuxOptions, SecurityContext, Volume,
};

use crate::probe::probe_specs;

/// A field that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {what}")]
pub struct Unsupported {
    /// From the pod's root, e.g. `spec.containers[0].livenessProbe.exec`.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

const WHAT: &str = "is not supported by this agent";

/// Whether the node's kernel labels processes and files for SELinux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeLinux {
    /// It does not: labels that a pod asks for mean nothing, as with kubelet.
    #[default]
    Off,
    /// It does, and this agent sets no labels.
    On,
}

/// Refuses the first field of the pod or of this container that cannot be carried out.
pub fn check(spec: &PodSpec, container: &Container, se_linux: SeLinux) -> Result<(), Unsupported> {
    check_pod(spec, se_linux)?;
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        check_volume(volume, &format!("spec.volumes[{i}]"))?;
    }
    let network = if crate::spec::host_network(spec) {
        PodNetwork::Host
    } else {
        PodNetwork::Own
    };
    let path = container_path(spec, container);
    if let Some(sc) = &container.security_context {
        let path = format!("{path}.securityContext.seLinuxOptions");
        check_labels(sc.se_linux_options.as_ref(), se_linux, path)?;
    }
    check_container(container, network, &path)
}

/// `spec.containers[N]` or `spec.initContainers[N]`.
pub fn container_path(spec: &PodSpec, container: &Container) -> String {
    let find = |list: &[Container]| list.iter().position(|c| c.name == container.name);
    if let Some(n) = find(&spec.containers) {
        return format!("spec.containers[{n}]");
    }
    let n = spec.init_containers.as_deref().and_then(find).unwrap_or(0);
    format!("spec.initContainers[{n}]")
}

fn refuse_if(present: Presence, path: String) -> Result<(), Unsupported> {
    match present {
        Presence::Absent => Ok(()),
        Presence::Present => Err(Unsupported {
            path,
            what: WHAT.to_owned(),
        }),
    }
}

/// Whose network namespace a pod lives in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PodNetwork {
    Host,
    Own,
}

/// Whether a field says anything.
#[derive(Clone, Copy)]
enum Presence {
    Present,
    Absent,
}

fn some<T>(value: &Option<T>) -> Presence {
    match value {
        Some(_) => Presence::Present,
        None => Presence::Absent,
    }
}

fn on(value: Option<bool>) -> Presence {
    match value {
        Some(true) => Presence::Present,
        _ => Presence::Absent,
    }
}

fn filled<T>(value: &Option<Vec<T>>) -> Presence {
    match value {
        Some(list) if !list.is_empty() => Presence::Present,
        _ => Presence::Absent,
    }
}

/// A label that the kernel would enforce and that this agent does not set is refused.
fn check_labels(
    asked: Option<&SELinuxOptions>,
    se_linux: SeLinux,
    path: String,
) -> Result<(), Unsupported> {
    let asked = asked.is_some_and(|options| *options != SELinuxOptions::default());
    match (asked, se_linux) {
        (true, SeLinux::On) => Err(Unsupported {
            path,
            what: format!("{WHAT} on a node whose kernel has SELinux on: it sets no labels"),
        }),
        _ => Ok(()),
    }
}

fn check_pod(spec: &PodSpec, se_linux: SeLinux) -> Result<(), Unsupported> {
    let sc = spec.security_context.as_ref();
    let host_users = match spec.host_users {
        Some(false) => Presence::Present,
        _ => Presence::Absent,
    };
    for (present, field) in [
        (on(spec.set_hostname_as_fqdn), "setHostnameAsFQDN"),
        (host_users, "hostUsers"),
        (filled(&spec.ephemeral_containers), "ephemeralContainers"),
        (filled(&spec.resource_claims), "resourceClaims"),
        (some(&spec.resources), "resources"),
        (some(&spec.runtime_class_name), "runtimeClassName"),
    ] {
        refuse_if(present, format!("spec.{field}"))?;
    }
    if let Some(sc) = sc {
        let path = "spec.securityContext.seLinuxOptions".to_owned();
        check_labels(sc.se_linux_options.as_ref(), se_linux, path)?;
        let windows = some(&sc.windows_options);
        refuse_if(windows, "spec.securityContext.windowsOptions".to_owned())?;
        let groups = sc.supplemental_groups_policy.as_deref();
        one_of(
            groups,
            &["Merge", "Strict"],
            "spec.securityContext.supplementalGroupsPolicy",
        )?;
        // Both are kept without doing anything for them: every volume that belongs to a group is of the pod alone, and
        // gets its owner when it is made (kubelet v1.37 ignores the policy for secret, configMap and emptyDir).
        let change = sc.fs_group_change_policy.as_deref();
        one_of(
            change,
            &["Always", "OnRootMismatch"],
            "spec.securityContext.fsGroupChangePolicy",
        )?;
        let profile = sc.seccomp_profile.as_ref().map(|p| p.type_.as_str());
        check_profile(profile, "spec.securityContext.seccompProfile")?;
        let profile = sc.app_armor_profile.as_ref().map(|p| p.type_.as_str());
        check_profile(profile, "spec.securityContext.appArmorProfile")?;
    }
    Ok(())
}

/// A word that is none of these asks for something else.
fn one_of(word: Option<&str>, known: &[&str], path: &str) -> Result<(), Unsupported> {
    match word {
        Some(word) if !known.contains(&word) => Err(Unsupported {
            path: path.to_owned(),
            what: format!("{word:?} {WHAT}, only {}", known.join(" and ")),
        }),
        _ => Ok(()),
    }
}

/// A profile that would confine is refused; saying that there is none is what happens anyway.
fn check_profile(profile: Option<&str>, path: &str) -> Result<(), Unsupported> {
    match profile {
        None | Some("Unconfined") => Ok(()),
        Some(_) => Err(Unsupported {
            path: path.to_owned(),
            what: format!("{WHAT}; only type Unconfined is"),
        }),
    }
}

fn check_volume(volume: &Volume, path: &str) -> Result<(), Unsupported> {
    if let Some(empty_dir) = &volume.empty_dir {
        let medium = empty_dir.medium.as_deref().filter(|m| !m.is_empty());
        one_of(medium, &["Memory"], &format!("{path}.emptyDir.medium"))?;
    }
    let known = volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some();
    if let Some(projected) = &volume.projected {
        for (n, source) in projected.sources.iter().flatten().enumerate() {
            let path = format!("{path}.projected.sources[{n}]");
            refuse_if(
                some(&source.service_account_token),
                format!("{path}.serviceAccountToken"),
            )?;
            refuse_if(
                some(&source.cluster_trust_bundle),
                format!("{path}.clusterTrustBundle"),
            )?;
            refuse_if(
                some(&source.pod_certificate),
                format!("{path}.podCertificate"),
            )?;
        }
        return Ok(());
    }
    if known {
        return Ok(());
    }
    let kind = serde_json::to_value(volume)
        .ok()
        .and_then(|v| v.as_object()?.keys().find(|k| *k != "name").cloned());
    Err(Unsupported {
        path: kind.map_or_else(|| path.to_owned(), |k| format!("{path}.{k}")),
        what: format!(
            "{WHAT}; emptyDir, hostPath, configMap, secret, downwardAPI and projected volumes are"
        ),
    })
}

fn check_container(
    container: &Container,
    network: PodNetwork,
    path: &str,
) -> Result<(), Unsupported> {
    for (present, field) in [
        (filled(&container.volume_devices), "volumeDevices"),
        (on(container.tty), "tty"),
        (on(container.stdin), "stdin"),
    ] {
        refuse_if(present, format!("{path}.{field}"))?;
    }
    if let Some(claims) = container.resources.as_ref().map(|r| &r.claims) {
        refuse_if(filled(claims), format!("{path}.resources.claims"))?;
    }
    for (n, port) in container.ports.iter().flatten().enumerate() {
        if port.host_port.is_some_and(|p| p != 0) && network == PodNetwork::Own {
            return Err(Unsupported {
                path: format!("{path}.ports[{n}].hostPort"),
                what: format!("{WHAT} without hostNetwork"),
            });
        }
    }
    for (n, mount) in container.volume_mounts.iter().flatten().enumerate() {
        refuse_if(
            some(&mount.recursive_read_only),
            format!("{path}.volumeMounts[{n}].recursiveReadOnly"),
        )?;
        // The API server refuses it as well; a pod that was stored before it did must not mount on the node.
        let privileged = container
            .security_context
            .as_ref()
            .and_then(|sc| sc.privileged);
        if mount.mount_propagation.as_deref() == Some("Bidirectional") && privileged != Some(true) {
            return Err(Unsupported {
                path: format!("{path}.volumeMounts[{n}].mountPropagation"),
                what: "Bidirectional mount propagation is available only to privileged containers"
                    .to_owned(),
            });
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        refuse_if(
            some(&lifecycle.post_start),
            format!("{path}.lifecycle.postStart"),
        )?;
        if let Some(pre_stop) = &lifecycle.pre_stop {
            check_pre_stop(pre_stop, &format!("{path}.lifecycle.preStop"))?;
        }
    }
    if let Some(sc) = &container.security_context {
        check_security(sc, &format!("{path}.securityContext"))?;
    }
    probe_specs(container).map_err(|e| Unsupported {
        path: format!("{path}.{}", e.field),
        what: e.what,
    })?;
    Ok(())
}

fn check_pre_stop(handler: &LifecycleHandler, path: &str) -> Result<(), Unsupported> {
    refuse_if(some(&handler.exec), format!("{path}.exec"))?;
    refuse_if(some(&handler.http_get), format!("{path}.httpGet"))?;
    refuse_if(some(&handler.tcp_socket), format!("{path}.tcpSocket"))
}

fn check_security(sc: &SecurityContext, path: &str) -> Result<(), Unsupported> {
    let unmasked = match sc.proc_mount.as_deref() {
        None | Some("Default") => Presence::Absent,
        Some(_) => Presence::Present,
    };
    for (present, field) in [
        (unmasked, "procMount"),
        (some(&sc.windows_options), "windowsOptions"),
    ] {
        refuse_if(present, format!("{path}.{field}"))?;
    }
    let profile = sc.seccomp_profile.as_ref().map(|p| p.type_.as_str());
    check_profile(profile, &format!("{path}.seccompProfile"))?;
    let profile = sc.app_armor_profile.as_ref().map(|p| p.type_.as_str());
    check_profile(profile, &format!("{path}.appArmorProfile"))
}

#[cfg(test)]
mod tests;
