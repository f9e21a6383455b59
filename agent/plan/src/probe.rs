// SPDX-License-Identifier: Apache-2.0
//! Probes: what to ask, how often, and what a row of answers means (core/v1 Probe, kubelet v1.37 `prober`).
//!
//! Not here: the asking (the agent's `probes`). Only httpGet and tcpSocket are known; `support` refuses the
//! others.

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{Millis, ms_of_seconds};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds the other two back until it has passed once; its failure restarts.
    Startup,
    /// Its failure restarts.
    Liveness,
    /// Decides `ready`.
    Readiness,
}

impl ProbeKind {
    /// Kubernetes' word in events.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
        }
    }
}

/// The question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A last answer with a status from 200 to 399 is a pass.
    Http(HttpGet),
    /// A connection is a pass.
    Tcp {
        /// Host to connect to; the pod's address when absent.
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// What is asked over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// Whether the connection is encrypted.
    pub scheme: Scheme,
    /// Host to connect to; the pod's address when absent.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// Path with query.
    pub path: String,
    /// Extra headers.
    pub headers: Vec<(String, String)>,
}

/// core/v1 `URIScheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `HTTP`.
    Http,
    /// `HTTPS`; any certificate will do.
    Https,
}

/// One probe of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSpec {
    /// What it is for.
    pub kind: ProbeKind,
    /// The question.
    pub check: Check,
    /// From the container's start to the first question.
    pub initial_delay_ms: Millis,
    /// Between questions.
    pub period_ms: Millis,
    /// For one answer.
    pub timeout_ms: Millis,
    /// Passes in a row that turn a failure into a pass.
    pub success_threshold: u32,
    /// Failures in a row that turn a pass into a failure.
    pub failure_threshold: u32,
    /// Grace of a stop that this probe causes; absent: the pod's.
    pub grace_ms: Option<Millis>,
}

/// A probe that this agent cannot carry out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct ProbeError {
    /// Path below the container, e.g. `livenessProbe.exec`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
}

/// The probes of a container.
pub fn probe_specs(container: &Container) -> Result<Vec<ProbeSpec>, ProbeError> {
    let all = [
        (ProbeKind::Startup, "startupProbe", &container.startup_probe),
        (
            ProbeKind::Liveness,
            "livenessProbe",
            &container.liveness_probe,
        ),
        (
            ProbeKind::Readiness,
            "readinessProbe",
            &container.readiness_probe,
        ),
    ];
    let mut specs = Vec::new();
    for (kind, field, probe) in all {
        if let Some(probe) = probe {
            specs.push(probe_spec(kind, field, probe, container)?);
        }
    }
    Ok(specs)
}

fn probe_spec(
    kind: ProbeKind,
    field: &str,
    probe: &Probe,
    container: &Container,
) -> Result<ProbeSpec, ProbeError> {
    let fail = |part: &str, what: &str| ProbeError {
        field: format!("{field}{part}"),
        what: what.to_owned(),
    };
    let unsupported = "is not supported by this agent";
    if probe.exec.is_some() {
        return Err(fail(".exec", unsupported));
    }
    if probe.grpc.is_some() {
        return Err(fail(".grpc", unsupported));
    }
    let check = if let Some(http) = &probe.http_get {
        let scheme = match http.scheme.as_deref() {
            None | Some("HTTP") => Scheme::Http,
            Some("HTTPS") => Scheme::Https,
            Some(_) => return Err(fail(".httpGet.scheme", "must be HTTP or HTTPS")),
        };
        let path = http.path.as_deref().unwrap_or("/");
        Check::Http(HttpGet {
            scheme,
            host: http.host.clone().filter(|h| !h.is_empty()),
            port: port(&http.port, container)
                .ok_or_else(|| fail(".httpGet.port", "names no port of the container"))?,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
            headers: http
                .http_headers
                .iter()
                .flatten()
                .map(|h| (h.name.clone(), h.value.clone()))
                .collect(),
        })
    } else if let Some(tcp) = &probe.tcp_socket {
        Check::Tcp {
            host: tcp.host.clone().filter(|h| !h.is_empty()),
            port: port(&tcp.port, container)
                .ok_or_else(|| fail(".tcpSocket.port", "names no port of the container"))?,
        }
    } else {
        return Err(fail("", "must specify a handler type"));
    };
    let seconds =
        |value: Option<i32>, default: i32| ms_of_seconds(i64::from(value.unwrap_or(default)));
    let at_least_one = |value: Option<i32>, default: u32| {
        value
            .and_then(|v| u32::try_from(v).ok())
            .unwrap_or(default)
            .max(1)
    };
    Ok(ProbeSpec {
        kind,
        check,
        initial_delay_ms: seconds(probe.initial_delay_seconds, 0),
        period_ms: seconds(probe.period_seconds, 10).max(1000),
        timeout_ms: seconds(probe.timeout_seconds, 1).max(1000),
        success_threshold: at_least_one(probe.success_threshold, 1),
        failure_threshold: at_least_one(probe.failure_threshold, 3),
        grace_ms: probe.termination_grace_period_seconds.map(ms_of_seconds),
    })
}

fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => match name.parse() {
            Ok(n) => n,
            Err(_) => {
                let ports = container.ports.iter().flatten();
                let named = ports.filter(|p| p.name.as_deref() == Some(name));
                named.map(|p| p.container_port).next()?
            }
        },
    };
    u16::try_from(number).ok().filter(|n| *n != 0)
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As wished.
    Pass,
    /// Refused, wrong or too late.
    Fail,
}

/// A row of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeState {
    /// Passes in a row.
    pub successes: u32,
    /// Failures in a row.
    pub failures: u32,
    /// What holds; none before the first threshold is reached.
    pub verdict: Option<bool>,
}

impl ProbeState {
    /// Takes in an answer.
    pub fn take(&mut self, spec: &ProbeSpec, outcome: Outcome) {
        match outcome {
            Outcome::Pass => {
                self.successes = self.successes.saturating_add(1);
                self.failures = 0;
                if self.successes >= spec.success_threshold {
                    self.verdict = Some(true);
                }
            }
            Outcome::Fail => {
                self.failures = self.failures.saturating_add(1);
                self.successes = 0;
                if self.failures >= spec.failure_threshold {
                    self.verdict = Some(false);
                }
            }
        }
    }
}

/// Why a container has to be restarted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// `liveness` or `startup`.
    pub probe: &'static str,
    /// The probe's own grace period.
    pub grace_ms: Option<Millis>,
}

/// What the probes of one running attempt say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeView {
    /// None: no startup probe.
    pub started: Option<bool>,
    /// None: no readiness probe.
    pub ready: Option<bool>,
    /// It has to be restarted.
    pub failed: Option<ProbeFailure>,
}

/// Reads the states of a container's probes together.
pub fn probe_view(probes: &[(ProbeSpec, ProbeState)]) -> ProbeView {
    let mut view = ProbeView::default();
    for (spec, state) in probes {
        match spec.kind {
            ProbeKind::Startup => view.started = Some(state.verdict == Some(true)),
            ProbeKind::Readiness => view.ready = Some(state.verdict == Some(true)),
            ProbeKind::Liveness => {}
        }
        if spec.kind != ProbeKind::Readiness && state.verdict == Some(false) {
            view.failed = Some(ProbeFailure {
                probe: spec.kind.as_str(),
                grace_ms: spec.grace_ms,
            });
        }
    }
    view
}

#[cfg(test)]
mod tests;
