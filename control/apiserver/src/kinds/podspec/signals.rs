// SPDX-License-Identifier: Apache-2.0
//! The operating system that a pod names, and the signals that end its containers there.
//!
//! Called by the validation of pod specs. Which signal a container gets in the end is the agent's to say.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::field::FieldErrors;

const SYSTEMS: [&str; 2] = ["linux", "windows"];

/// The signals of Linux by name, as `core/v1` lists them (Kubernetes v1.37); `SIGCLD`, `SIGIOT` and `SIGPOLL` are
/// second names.
#[rustfmt::skip]
const ON_LINUX: [&str; 65] = [
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT",
    "SIGIO", "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT",
    "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2",
    "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
    "SIGRTMIN", "SIGRTMIN+1", "SIGRTMIN+2", "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7",
    "SIGRTMIN+8", "SIGRTMIN+9", "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14", "SIGRTMAX-13", "SIGRTMAX-12", "SIGRTMAX-11", "SIGRTMAX-10", "SIGRTMAX-9", "SIGRTMAX-8",
    "SIGRTMAX-7", "SIGRTMAX-6", "SIGRTMAX-5", "SIGRTMAX-4", "SIGRTMAX-3", "SIGRTMAX-2", "SIGRTMAX-1", "SIGRTMAX",
];
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
    let known: &[&str] = match os {
        "" => {
            errors.forbidden(
                &field,
                "may not be set for containers with empty `spec.os.name`",
            );
            return;
        }
        "linux" => &ON_LINUX,
        "windows" => &ON_WINDOWS,
        // Refused by `operating_system`.
        _ => return,
    };
    if !known.contains(&signal) {
        errors.not_supported(&field, signal, known);
    }
}
