// SPDX-License-Identifier: Apache-2.0
//! What a pod may set of its node's kernel: sysctls, and mounts that reach the node.
//!
//! Not here: which sysctls a node allows, which is each node's to say. Words: `validateSysctls` and
//! `validateMountPropagation` of Kubernetes v1.37.

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};
use knarr_api::sysctl::{self, NAME_BYTES_MAX, NAME_RULE, Namespace};

use crate::field::FieldErrors;
use crate::registry::rules::items;

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];

/// `securityContext.sysctls` of a pod spec.
pub(super) fn sysctls(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    let mut names: Vec<&str> = Vec::new();
    let Some(context) = &spec.security_context else {
        return;
    };
    for (index, sysctl) in items(&context.sysctls).iter().enumerate() {
        let field = format!("{field}.securityContext.sysctls[{index}].name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            errors.required(&field, "");
        } else if !sysctl::is_name(name) {
            errors.invalid(
                &field,
                name,
                &format!(
                    "must have at most {NAME_BYTES_MAX} characters and match regex {NAME_RULE}"
                ),
            );
        } else if names.contains(&name) {
            errors.duplicate(&field, name);
        }
        names.push(name);
        let (shared, is_shared) = match Namespace::of(name) {
            Some(Namespace::Net) => ("hostNetwork", spec.host_network),
            Some(Namespace::Ipc) => ("hostIPC", spec.host_ipc),
            None => continue,
        };
        if is_shared == Some(true) {
            errors.invalid(
                &field,
                name,
                &format!("may not be specified when '{shared}' is true"),
            );
        }
    }
}

/// `mountPropagation` of one of a container's mounts.
pub(super) fn propagation(
    container: &Container,
    mount: &VolumeMount,
    field: &str,
    errors: &mut FieldErrors,
) {
    let Some(asked) = mount.mount_propagation.as_deref() else {
        return;
    };
    let field = format!("{field}.mountPropagation");
    if !PROPAGATIONS.contains(&asked) {
        errors.not_supported(&field, asked, &PROPAGATIONS);
    }
    let context = container.security_context.as_ref();
    let is_privileged = context.and_then(|c| c.privileged) == Some(true);
    if asked == "Bidirectional" && !is_privileged {
        errors.forbidden(
            &field,
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
}
