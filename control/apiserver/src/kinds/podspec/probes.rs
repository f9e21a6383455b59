// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the probes and hooks of a container.
//!
//! Called by the validation of containers.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::ports::{validate_port_name, validate_port_number};
use crate::field::FieldErrors;
use crate::registry::rules::{items, text};

const HTTP_SCHEMES: [&str; 2] = ["HTTP", "HTTPS"];
/// What Kubernetes says of a text that is no header's name.
const HTTP_HEADER_NAME: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// All probes and hooks of a container.
pub(super) fn of_container(container: &Container, field: &str, errors: &mut FieldErrors) {
    for (kind, probe) in [
        (ProbeKind::Liveness, &container.liveness_probe),
        (ProbeKind::Readiness, &container.readiness_probe),
        (ProbeKind::Startup, &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            let field = format!("{field}.{}", kind.name());
            handler(&actions_of_probe(probe), &field, errors);
            probe_numbers(probe, kind, &field, errors);
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        for (name, hook) in [
            ("postStart", &lifecycle.post_start),
            ("preStop", &lifecycle.pre_stop),
        ] {
            if let Some(hook) = hook {
                let field = format!("{field}.lifecycle.{name}");
                handler(&actions_of_hook(hook), &field, errors);
            }
        }
    }
}

/// What a probe or a hook may do.
enum Action<'a> {
    Exec(&'a ExecAction),
    HttpGet(&'a HTTPGetAction),
    TcpSocket(&'a TCPSocketAction),
    Grpc(&'a GRPCAction),
    Sleep,
}

impl Action<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::HttpGet(_) => "httpGet",
            Self::TcpSocket(_) => "tcpSocket",
            Self::Grpc(_) => "grpc",
            Self::Sleep => "sleep",
        }
    }
}

fn actions_of_probe(probe: &Probe) -> [Option<Action<'_>>; 4] {
    [
        probe.exec.as_ref().map(Action::Exec),
        probe.http_get.as_ref().map(Action::HttpGet),
        probe.tcp_socket.as_ref().map(Action::TcpSocket),
        probe.grpc.as_ref().map(Action::Grpc),
    ]
}

fn actions_of_hook(hook: &LifecycleHandler) -> [Option<Action<'_>>; 4] {
    [
        hook.exec.as_ref().map(Action::Exec),
        hook.http_get.as_ref().map(Action::HttpGet),
        hook.tcp_socket.as_ref().map(Action::TcpSocket),
        hook.sleep.as_ref().map(|_| Action::Sleep),
    ]
}

fn handler(actions: &[Option<Action<'_>>], field: &str, errors: &mut FieldErrors) {
    let mut actions = actions.iter().flatten();
    let Some(first) = actions.next() else {
        errors.required(field, "must specify a handler type");
        return;
    };
    let port = |number: &IntOrString, errors: &mut FieldErrors| {
        let field = format!("{field}.{}.port", first.name());
        match number {
            IntOrString::Int(number) => validate_port_number(*number, &field, errors),
            IntOrString::String(name) => validate_port_name(name, &field, errors),
        }
    };
    match first {
        Action::Exec(exec) => {
            if items(&exec.command).is_empty() {
                errors.required(&format!("{field}.exec.command"), "");
            }
        }
        Action::HttpGet(get) => {
            http_get(get, &format!("{field}.httpGet"), errors);
            port(&get.port, errors);
        }
        Action::TcpSocket(socket) => port(&socket.port, errors),
        Action::Grpc(grpc) => port(&IntOrString::Int(grpc.port), errors),
        Action::Sleep => {}
    }
    for more in actions {
        errors.forbidden(
            &format!("{field}.{}", more.name()),
            "may not specify more than 1 handler type",
        );
    }
}

/// What upstream's `validateHTTPGetAction` looks at beside the port.
fn http_get(get: &HTTPGetAction, field: &str, errors: &mut FieldErrors) {
    let scheme = text(&get.scheme);
    if !HTTP_SCHEMES.contains(&scheme) {
        errors.not_supported(&format!("{field}.scheme"), scheme, &HTTP_SCHEMES);
    }
    for header in items(&get.http_headers) {
        let name = header.name.as_str();
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(is_of_name) {
            errors.invalid(&format!("{field}.httpHeaders"), name, HTTP_HEADER_NAME);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    fn name(self) -> &'static str {
        match self {
            Self::Liveness => "livenessProbe",
            Self::Readiness => "readinessProbe",
            Self::Startup => "startupProbe",
        }
    }
}

fn probe_numbers(probe: &Probe, kind: ProbeKind, field: &str, errors: &mut FieldErrors) {
    for (name, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(number) = number
            && number < 0
        {
            errors.invalid(
                &format!("{field}.{name}"),
                number,
                "must be greater than or equal to 0",
            );
        }
    }
    if kind != ProbeKind::Readiness
        && let Some(number) = probe.success_threshold
        && number != 1
    {
        errors.invalid(&format!("{field}.successThreshold"), number, "must be 1");
    }
}
