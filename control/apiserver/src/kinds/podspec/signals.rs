// SPDX-License-Identifier: Apache-2.0
//! The operating system that a pod names, and the signals that end its containers there.
//!
//! Called by the validation of pod specs. Which signal a container gets in the end is the agent's to say.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use knarr_base::stop_signal::names_of_pods;

use crate::field::FieldErrors;

const SYSTEMS: [&str; 2] = ["linux", "windows"];

const ON_WINDOWS: [&str; 2] = ["SIGKILL", "SIGTERM"];

/// `os` of a pod spec.
pub(super) fn operating_system(spec: &PodSpec, field: &str, errors: &mut FieldErrors) {
    let Some(os) = &spec.os else {
        return;
    };
    match os.name.as_str() {
        "" => errors.required(&format!("{field}.os.name"), "cannot be empty"),
        name if SYSTEMS.contains(&name) => {}
        name => errors.not_supported(&format!("{field}.os"), name, &SYSTEMS),
    }
}

/// `lifecycle.stopSignal` of a container in a pod for the system `os`; empty when the pod names none.
pub(super) fn stop_signal(container: &Container, os: &str, field: &str, errors: &mut FieldErrors) {
    let lifecycle = container.lifecycle.as_ref();
    let Some(signal) = lifecycle.and_then(|l| l.stop_signal.as_deref()) else {
        return;
    };
    let field = format!("{field}.lifecycle.stopSignal");
    let on_linux = names_of_pods();
    let on_linux: Vec<&str> = on_linux.iter().map(String::as_str).collect();
    let known: &[&str] = match os {
        "" => {
            errors.forbidden(
                &field,
                "may not be set for containers with empty `spec.os.name`",
            );
            return;
        }
        "linux" => &on_linux,
        "windows" => &ON_WINDOWS,
        // Refused by `operating_system`.
        _ => return,
    };
    if !known.contains(&signal) {
        errors.not_supported(&field, signal, known);
    }
}
