// SPDX-License-Identifier: Apache-2.0
//! What a container looks like when it starts: program, environment, user, mounts, limits.
//!
//! Not here: rootfs and OCI document (`knarr-runtime`). Called by the agent's `apply` right before each start, so that a
//! restarted container sees changed ConfigMaps as in Kubernetes.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SecurityContext};
use knarr_pod::{
    Access, ContainerSpec, Escalation, ImageConfig, ImageGroups, LastWords, Privilege, RootUser,
    Seccomp, Shutdown, User,
};

use crate::env::{EnvError, Surroundings, environment, expand};
use crate::pod::stop_signal;
use crate::volumes::{VolumeError, mounts};
use crate::{resources, signal};

/// The search path of an image that sets none.
pub const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a container leaves its last words, unless it says otherwise (core/v1).
pub const TERMINATION_MESSAGE_PATH_DEFAULT: &str = "/dev/termination-log";

/// Why a container cannot be described. The text is the waiting message of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Its environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// Its volumes.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Neither the pod nor the image names a program.
    #[error("no command specified: neither the container nor its image has a command or args")]
    NoCommand,
    /// runAsNonRoot with user 0.
    #[error(
        "container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})"
    )]
    Root {
        /// Pod name and namespace.
        pod: String,
        /// Container name.
        container: String,
    },
    /// runAsNonRoot with a user name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UnknownUser {
        /// The image's user.
        user: String,
        /// Pod name and namespace.
        pod: String,
        /// Container name.
        container: String,
    },
}

/// What a container is described from.
pub struct ContainerInputs<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// Counted from 0; the restart count.
    pub attempt: u32,
    /// What its image says.
    pub image: &'a ImageConfig,
    /// What fields and references of its environment are read from.
    pub around: &'a Surroundings,
    /// The pod's host name.
    pub hostname: &'a str,
    /// Memory of the node, in bytes, for OOM scores.
    pub node_memory_bytes: i64,
    /// Where a volume of the pod is on the node.
    pub volume_root: &'a dyn Fn(&str) -> PathBuf,
}

/// Describes one container.
pub fn container_spec(inputs: &ContainerInputs<'_>) -> Result<ContainerSpec, ConfigError> {
    let ContainerInputs {
        pod,
        container,
        attempt,
        image,
        around,
        hostname,
        node_memory_bytes,
        volume_root,
    } = *inputs;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let vars = environment(pod, container, around)?;
    let mounts = mounts(pod, container, &vars, volume_root)?;
    let args = command(container, image, &vars)?;
    let pod_sc = spec.security_context.clone().unwrap_or_default();
    let sc = container.security_context.clone().unwrap_or_default();
    let user = user(pod, container, &pod_sc, &sc, image)?;
    let cwd = container
        .working_dir
        .clone()
        .filter(|d| !d.is_empty())
        .unwrap_or_else(|| image.working_dir.clone());
    let capabilities = sc.capabilities.unwrap_or_default();
    let names = |list: Option<Vec<String>>| -> Vec<String> {
        let upper = list.into_iter().flatten().map(|c| c.to_uppercase());
        upper
            .map(|c| c.trim_start_matches("CAP_").to_owned())
            .collect()
    };
    let message_path = container
        .termination_message_path
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| TERMINATION_MESSAGE_PATH_DEFAULT.to_owned());
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        args,
        env: env_list(image, hostname, &vars),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user,
        mounts,
        resources: resources::container_values(container, None),
        oom_score_adj: resources::oom_score_adj(spec, container, node_memory_bytes),
        rootfs: match sc.read_only_root_filesystem {
            Some(true) => Access::ReadOnly,
            _ => Access::ReadWrite,
        },
        privilege: match sc.privileged {
            Some(true) => Privilege::Privileged,
            _ => Privilege::Confined,
        },
        escalation: match sc.allow_privilege_escalation {
            Some(false) => Escalation::Forbidden,
            _ => Escalation::Allowed,
        },
        capabilities_add: names(capabilities.add),
        capabilities_drop: names(capabilities.drop),
        // A pod that asks for another profile is refused by `support`.
        seccomp: Seccomp::Unconfined,
        termination_message_path: Some(message_path),
        last_words: match container.termination_message_policy.as_deref() {
            Some("FallbackToLogsOnError") => LastWords::FileOrLog,
            _ => LastWords::File,
        },
        shutdown: shutdown(spec, container, image),
    })
}

/// What a planned stop of the container would do, but for `preStop`: the shim stops it when the machine goes down.
fn shutdown(spec: &PodSpec, container: &Container, image: &ImageConfig) -> Shutdown {
    let asked = stop_signal(container);
    // An unknown signal is reported when the agent itself stops the container.
    let (signal, _) = signal::stop_signal(asked.as_deref(), image.stop_signal.as_deref());
    let grace = spec.termination_grace_period_seconds;
    let grace_seconds = grace.map(|seconds| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX));
    Shutdown {
        signal,
        grace_seconds: grace_seconds.unwrap_or(Shutdown::default().grace_seconds),
    }
}

/// core/v1: `command` replaces entrypoint and cmd; `args` alone replaces cmd.
fn command(
    container: &Container,
    image: &ImageConfig,
    vars: &[(String, String)],
) -> Result<Vec<String>, ConfigError> {
    let lookup = |name: &str| {
        let var = vars.iter().find(|(k, _)| k == name);
        var.map(|(_, v)| v.clone())
    };
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|a| expand(a, lookup)).collect()
    };
    let own_command = expanded(&container.command);
    let own_args = expanded(&container.args);
    let mut all = match (own_command.is_empty(), own_args.is_empty()) {
        (false, _) => own_command,
        (true, _) => image.entrypoint.clone(),
    };
    if !own_args.is_empty() {
        all.extend(own_args);
    } else if container.command.as_ref().is_none_or(Vec::is_empty) {
        all.extend(image.cmd.iter().cloned());
    }
    if all.is_empty() {
        Err(ConfigError::NoCommand)
    } else {
        Ok(all)
    }
}

fn env_list(image: &ImageConfig, hostname: &str, vars: &[(String, String)]) -> Vec<String> {
    let name_of = |var: &str| var.split_once('=').map_or(var, |(name, _)| name).to_owned();
    let mut list: Vec<String> = Vec::with_capacity(image.env.len() + vars.len() + 2);
    if !image.env.iter().any(|v| name_of(v) == "PATH") {
        list.push(PATH_DEFAULT.to_owned());
    }
    list.push(format!("HOSTNAME={hostname}"));
    list.extend(image.env.iter().cloned());
    list.retain(|old| !vars.iter().any(|(name, _)| *name == name_of(old)));
    list.extend(vars.iter().map(|(name, value)| format!("{name}={value}")));
    list
}

fn user(
    pod: &Pod,
    container: &Container,
    pod_sc: &PodSecurityContext,
    sc: &SecurityContext,
    image: &ImageConfig,
) -> Result<User, ConfigError> {
    let non_root = sc.run_as_non_root.or(pod_sc.run_as_non_root);
    let uid = sc.run_as_user.or(pod_sc.run_as_user);
    let gid = sc.run_as_group.or(pod_sc.run_as_group);
    let image_user = image.user.split(':').next().unwrap_or("");
    if non_root == Some(true) {
        let pod_name = || {
            let text = |s: &Option<String>| s.clone().unwrap_or_default();
            format!(
                "{}_{}({})",
                text(&pod.metadata.name),
                text(&pod.metadata.namespace),
                text(&pod.metadata.uid)
            )
        };
        let root = || ConfigError::Root {
            pod: pod_name(),
            container: container.name.clone(),
        };
        match (uid, image_user) {
            (Some(0), _) | (None, "" | "0") => return Err(root()),
            (None, name) if name.parse::<u32>().is_err() => {
                return Err(ConfigError::UnknownUser {
                    user: name.to_owned(),
                    pod: pod_name(),
                    container: container.name.clone(),
                });
            }
            _ => {}
        }
    }
    let user = match (uid, gid) {
        (None, None) => image.user.clone(),
        (Some(uid), None) => uid.to_string(),
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (None, Some(gid)) if image_user.is_empty() => format!("0:{gid}"),
        (None, Some(gid)) => format!("{image_user}:{gid}"),
    };
    let gids = pod_sc.supplemental_groups.iter().flatten();
    let mut additional_gids: Vec<u32> = gids
        .chain(&pod_sc.fs_group)
        .filter_map(|g| u32::try_from(*g).ok())
        .collect();
    additional_gids.sort_unstable();
    additional_gids.dedup();
    Ok(User {
        user,
        additional_gids,
        image_groups: match pod_sc.supplemental_groups_policy.as_deref() {
            Some("Strict") => ImageGroups::Ignored,
            _ => ImageGroups::Merged,
        },
        root: match non_root {
            Some(true) => RootUser::Refused,
            _ => RootUser::Allowed,
        },
    })
}

#[cfg(test)]
mod tests;
