// SPDX-License-Identifier: Apache-2.0
//! What a pod may set of its node's kernel: sysctls, and mounts that reach the node.
//!
//! Not here: which sysctls a node allows, which is each node's to say. Words: `validateSysctls` and
//! `validateMountPropagation` of Kubernetes v1.37.

use knarr_api::sysctl::{self, NAME_BYTES_MAX, NAME_RULE, Namespace};
use serde_json::Value;

use crate::field::FieldErrors;
use crate::value;

const PROPAGATIONS: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];

/// `securityContext.sysctls` of a pod spec.
pub(super) fn sysctls(spec: &Value, field: &str, errors: &mut FieldErrors) {
    let mut names: Vec<&str> = Vec::new();
    let all = value::items(spec, "securityContext.sysctls").iter();
    for (index, sysctl) in all.enumerate() {
        let field = format!("{field}.securityContext.sysctls[{index}].name");
        let name = value::text(sysctl, "name");
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
        let shared = match Namespace::of(name) {
            Some(Namespace::Net) => "hostNetwork",
            Some(Namespace::Ipc) => "hostIPC",
            None => continue,
        };
        if value::is_true(spec, shared) {
            errors.invalid(
                &field,
                name,
                &format!("may not be specified when '{shared}' is true"),
            );
        }
    }
}

/// `mountPropagation` of one of a container's mounts.
pub(super) fn propagation(container: &Value, mount: &Value, field: &str, errors: &mut FieldErrors) {
    if value::at(mount, "mountPropagation").is_none() {
        return;
    }
    let field = format!("{field}.mountPropagation");
    let asked = value::text(mount, "mountPropagation");
    if !PROPAGATIONS.contains(&asked) {
        errors.not_supported(&field, asked, &PROPAGATIONS);
    }
    if asked == "Bidirectional" && !value::is_true(container, "securityContext.privileged") {
        errors.forbidden(
            &field,
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
}
