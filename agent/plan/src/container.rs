// SPDX-License-Identifier: Apache-2.0
//! What a container looks like when it starts: program, environment, user, mounts, limits.
//!
//! Not here: rootfs, OCI document, paths on the node (`knarr-runtime`, the agent's `apply`). Called right
//! before each start, so that a restarted container sees changed ConfigMaps as in Kubernetes.

use crate::env::{EnvError, Surroundings, environment, expand};
use crate::resources::{self, CgroupValues};
use crate::secret::EnvNames;
use crate::volumes::{MountPlan, VolumeError, mount_plans};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SecurityContext};
use std::fmt;

/// The search path of an image that sets none.
pub const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where a container leaves its last words, unless it says otherwise (core/v1).
pub const TERMINATION_MESSAGE_PATH_DEFAULT: &str = "/dev/termination-log";

/// The parts of an image's configuration that a container builds on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// Entrypoint.
    pub entrypoint: Vec<String>,
    /// Cmd.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Working directory; empty: `/`.
    pub working_dir: String,
    /// `USER[:GROUP]`, names or numbers; empty: root.
    pub user: String,
}

/// Who the process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPlan {
    /// `USER[:GROUP]` for the runtime to look up in the image; numbers where the pod says them.
    pub user: String,
    /// fsGroup and supplementalGroups.
    pub additional_gids: Vec<u32>,
    /// Whether the groups that the image lists the user in count as well.
    pub image_groups: ImageGroups,
}

/// core/v1 SupplementalGroupsPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageGroups {
    /// `Merge`: they do.
    #[default]
    Merged,
    /// `Strict`: only what the pod says.
    Ignored,
}

/// Capabilities beside the default set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityPlan {
    /// Without `CAP_`; may hold `ALL`.
    pub add: Vec<String>,
    /// Without `CAP_`; may hold `ALL`.
    pub drop: Vec<String>,
}

/// How much of the node a container may touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Privilege {
    /// The default capability set, no devices.
    #[default]
    Confined,
    /// Everything.
    Privileged,
}

/// Whether exec may add privileges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escalation {
    /// set-user-ID programs work.
    #[default]
    Allowed,
    /// no_new_privs.
    Forbidden,
}

/// The container's root file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootAccess {
    /// Written to an upper layer that ends with the attempt.
    #[default]
    ReadWrite,
    /// Read only.
    ReadOnly,
}

/// Everything the runtime has to know beside image and paths.
#[derive(Clone, PartialEq, Eq)]
pub struct ContainerPlan {
    /// Program and arguments, never empty.
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// Who it runs as.
    pub user: UserPlan,
    /// Volume mounts.
    pub mounts: Vec<MountPlan>,
    /// Limits.
    pub cgroup: CgroupValues,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// Root file system.
    pub root: RootAccess,
    /// Privileged or not.
    pub privilege: Privilege,
    /// no_new_privs or not.
    pub escalation: Escalation,
    /// Capabilities.
    pub capabilities: CapabilityPlan,
    /// File for the termination message.
    pub termination_message_path: String,
    /// Whether the end of the log stands in for an empty message after an error.
    pub message_policy: MessagePolicy,
}

impl fmt::Debug for ContainerPlan {
    /// Without the values of the environment, which may come from Secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ContainerPlan {
            args,
            env,
            cwd,
            user,
            mounts,
            cgroup,
            oom_score_adj,
            root,
            privilege,
            escalation,
            capabilities,
            termination_message_path,
            message_policy,
        } = self;
        f.debug_struct("ContainerPlan")
            .field("args", args)
            .field("env", &EnvNames(env))
            .field("cwd", cwd)
            .field("user", user)
            .field("mounts", mounts)
            .field("cgroup", cgroup)
            .field("oom_score_adj", oom_score_adj)
            .field("root", root)
            .field("privilege", privilege)
            .field("escalation", escalation)
            .field("capabilities", capabilities)
            .field("termination_message_path", termination_message_path)
            .field("message_policy", message_policy)
            .finish()
    }
}

/// core/v1 TerminationMessagePolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessagePolicy {
    /// The file only.
    #[default]
    File,
    /// The end of the log where the file is empty and the container failed.
    FallbackToLogsOnError,
}

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
    /// Not in the pod.
    #[error("container {0} is not in the pod")]
    NoSuchContainer(String),
}

/// What the node adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeLimits {
    /// Memory of the node, in bytes, for OOM scores.
    pub memory_bytes: i64,
}

/// Describes one container.
pub fn container_plan(
    pod: &Pod,
    container: &Container,
    image: &ImageDefaults,
    around: &Surroundings,
    hostname: &str,
    limits: &NodeLimits,
) -> Result<ContainerPlan, ConfigError> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let vars = environment(pod, container, around)?;
    let mounts = mount_plans(pod, container, &vars)?;
    let args = command(container, image, &vars)?;
    let pod_sc = spec.security_context.clone().unwrap_or_default();
    let sc = container.security_context.clone().unwrap_or_default();
    let user = user(pod, container, &pod_sc, &sc, image)?;
    let cwd = container
        .working_dir
        .clone()
        .filter(|d| !d.is_empty())
        .unwrap_or_else(|| image.working_dir.clone());
    let privilege = match sc.privileged {
        Some(true) => Privilege::Privileged,
        _ => Privilege::Confined,
    };
    let capabilities = sc.capabilities.unwrap_or_default();
    let names = |list: Option<Vec<String>>| -> Vec<String> {
        let upper = list.into_iter().flatten().map(|c| c.to_uppercase());
        upper
            .map(|c| c.trim_start_matches("CAP_").to_owned())
            .collect()
    };
    Ok(ContainerPlan {
        args,
        env: env_list(image, hostname, &vars),
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user,
        mounts,
        cgroup: resources::container_values(container, None),
        oom_score_adj: resources::oom_score_adj(spec, container, limits.memory_bytes),
        root: match sc.read_only_root_filesystem {
            Some(true) => RootAccess::ReadOnly,
            _ => RootAccess::ReadWrite,
        },
        privilege,
        escalation: match sc.allow_privilege_escalation {
            Some(false) => Escalation::Forbidden,
            _ => Escalation::Allowed,
        },
        capabilities: CapabilityPlan {
            add: names(capabilities.add),
            drop: names(capabilities.drop),
        },
        termination_message_path: container
            .termination_message_path
            .clone()
            .filter(|p| !p.is_empty())
            .unwrap_or_else(|| TERMINATION_MESSAGE_PATH_DEFAULT.to_owned()),
        message_policy: match container.termination_message_policy.as_deref() {
            Some("FallbackToLogsOnError") => MessagePolicy::FallbackToLogsOnError,
            _ => MessagePolicy::File,
        },
    })
}

/// core/v1: `command` replaces entrypoint and cmd; `args` alone replaces cmd.
fn command(
    container: &Container,
    image: &ImageDefaults,
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
    match all.is_empty() {
        true => Err(ConfigError::NoCommand),
        false => Ok(all),
    }
}

fn env_list(image: &ImageDefaults, hostname: &str, vars: &[(String, String)]) -> Vec<String> {
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
    image: &ImageDefaults,
) -> Result<UserPlan, ConfigError> {
    let uid = sc.run_as_user.or(pod_sc.run_as_user);
    let gid = sc.run_as_group.or(pod_sc.run_as_group);
    let image_user = image.user.split(':').next().unwrap_or("");
    if sc.run_as_non_root.or(pod_sc.run_as_non_root) == Some(true) {
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
    Ok(UserPlan {
        user,
        additional_gids,
        image_groups: match pod_sc.supplemental_groups_policy.as_deref() {
            Some("Strict") => ImageGroups::Ignored,
            _ => ImageGroups::Merged,
        },
    })
}

#[cfg(test)]
mod tests;
