// SPDX-License-Identifier: Apache-2.0
//! From the plan's answers to what the runtime is asked for. Field by field, nothing decided.

use crate::pods::Context;
use crate::pods::volumes::path_of;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use knarr_agent_plan::container::{self as plan, ContainerPlan, ImageDefaults};
use knarr_agent_plan::env::Surroundings;
use knarr_agent_plan::pod::host_network;
use knarr_agent_plan::resources::{self, CgroupValues, Qos};
use knarr_agent_plan::volumes::{MountAccess, MountPlan, VolumePlan};
use knarr_agent_plan::{identity, pod, sysctls};
use knarr_runtime::{
    Access, ContainerSpec, Escalation, Image, ImageGroups, IpcMode, LastWords, Mount, MountSource,
    NetworkMode, PidMode, Privilege, Propagation, QosClass, Resources, RootUser, SandboxSpec,
    Seccomp, User,
};
use std::path::PathBuf;

/// What a container's surroundings are, with these pod addresses.
pub fn surroundings(context: &Context, pod: &Pod, pod_ips: Vec<String>) -> Surroundings {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("");
    let machine = &context.machine;
    let allocatable = machine.allocatable(context.max_pods);
    Surroundings {
        node_name: machine.node_name.clone(),
        host_ips: vec![machine.node_ip.to_string()],
        pod_ips,
        node_cpu_milli: allocatable.cpu_milli,
        node_memory_bytes: allocatable.memory_bytes,
        objects: context.desired.objects(namespace),
        services: context.desired.service_vars(namespace),
    }
}

/// The cluster's DNS domain where the control plane has not said one.
const CLUSTER_DOMAIN_DEFAULT: &str = "cluster.local";

/// The sandbox of a pod. Blocking: it reads the node's own files.
pub fn sandbox(
    context: &Context,
    uid: &str,
    pod: &Pod,
    attempt: u32,
    pod_ips: &[String],
) -> SandboxSpec {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let hostname = identity::hostname(pod, &context.machine.hostname);
    let domain = context.desired.welcome().map(|w| w.cluster_domain);
    let domain = domain
        .filter(|d| !d.is_empty())
        .unwrap_or_else(|| CLUSTER_DOMAIN_DEFAULT.to_owned());
    let node_file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    SandboxSpec {
        uid: uid.to_owned(),
        namespace: text(&pod.metadata.namespace),
        name: text(&pod.metadata.name),
        attempt,
        qos: match resources::qos(spec) {
            Qos::Guaranteed => QosClass::Guaranteed,
            Qos::Burstable => QosClass::Burstable,
            Qos::BestEffort => QosClass::BestEffort,
        },
        resources: limits(resources::pod_values(spec, context.pod_pids)),
        network: match host_network(spec) {
            true => NetworkMode::Host,
            false => NetworkMode::Pod,
        },
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => PidMode::Host,
            (_, Some(true)) => PidMode::Pod,
            _ => PidMode::Container,
        },
        ipc: match spec.host_ipc {
            Some(true) => IpcMode::Host,
            _ => IpcMode::Pod,
        },
        hosts: identity::hosts_file(pod, &hostname, &domain, pod_ips, &node_file("/etc/hosts")),
        resolv_conf: identity::resolv_conf(pod, &node_file("/etc/resolv.conf")),
        sysctls: sysctls::sysctls(spec).collect(),
        hostname,
    }
}

fn limits(values: CgroupValues) -> Resources {
    Resources {
        cpu_shares: Some(values.cpu_shares),
        cpu_quota_us: values.cpu_quota_us,
        memory_bytes: values.memory_bytes,
        pids: values.pids,
    }
}

/// The parts of an image that the plan builds on.
pub fn image_defaults(image: &Image) -> ImageDefaults {
    ImageDefaults {
        entrypoint: image.config.entrypoint.clone(),
        cmd: image.config.cmd.clone(),
        env: image.config.env.clone(),
        working_dir: image.config.working_dir.clone(),
        user: image.config.user.clone(),
    }
}

/// A container of a pod.
pub fn container(
    context: &Context,
    uid: &str,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    plan: ContainerPlan,
    volumes: &[VolumePlan],
) -> ContainerSpec {
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
    } = plan;
    let pod_sc = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let non_root = container
        .security_context
        .as_ref()
        .and_then(|sc| sc.run_as_non_root)
        .or(pod_sc.and_then(|sc| sc.run_as_non_root));
    ContainerSpec {
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        args,
        env,
        cwd,
        user: User {
            user: user.user,
            additional_gids: user.additional_gids,
            image_groups: match user.image_groups {
                plan::ImageGroups::Merged => ImageGroups::Merged,
                plan::ImageGroups::Ignored => ImageGroups::Ignored,
            },
            root: match non_root {
                Some(true) => RootUser::Refused,
                _ => RootUser::Allowed,
            },
        },
        mounts: mounts
            .iter()
            .map(|m| mount(context, uid, container, m, volumes))
            .collect(),
        resources: limits(cgroup),
        oom_score_adj,
        rootfs: match root {
            plan::RootAccess::ReadOnly => Access::ReadOnly,
            plan::RootAccess::ReadWrite => Access::ReadWrite,
        },
        privilege: match privilege {
            plan::Privilege::Privileged => Privilege::Privileged,
            plan::Privilege::Confined => Privilege::Confined,
        },
        escalation: match escalation {
            plan::Escalation::Allowed => Escalation::Allowed,
            plan::Escalation::Forbidden => Escalation::Forbidden,
        },
        capabilities_add: capabilities.add,
        capabilities_drop: capabilities.drop,
        seccomp: Seccomp::Unconfined,
        termination_message_path: Some(termination_message_path),
        last_words: match message_policy {
            plan::MessagePolicy::File => LastWords::File,
            plan::MessagePolicy::FallbackToLogsOnError => LastWords::FileOrLog,
        },
    }
}

fn mount(
    context: &Context,
    uid: &str,
    container: &Container,
    mount: &MountPlan,
    volumes: &[VolumePlan],
) -> Mount {
    let volume = volumes.iter().find(|v| v.name == mount.volume);
    let root = volume.map_or_else(PathBuf::new, |v| {
        path_of(v, |plugin, name| {
            context.runtime.volume_dir(uid, plugin, name)
        })
    });
    let asked = container
        .volume_mounts
        .iter()
        .flatten()
        .find(|m| m.mount_path.trim_start_matches('/') == mount.target.trim_start_matches('/'));
    Mount {
        source: match mount.sub_path.is_empty() {
            true => MountSource::Bind(root),
            false => MountSource::BindWithin {
                root,
                sub_path: PathBuf::from(&mount.sub_path),
            },
        },
        target: PathBuf::from(&mount.target),
        access: match mount.access {
            MountAccess::ReadOnly => Access::ReadOnly,
            MountAccess::ReadWrite => Access::ReadWrite,
        },
        propagation: match asked.and_then(|m| m.mount_propagation.as_deref()) {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    }
}

/// The container of a pod with this name.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    pod::containers(spec)
        .map(|(c, _)| c)
        .find(|c| c.name == name)
}
