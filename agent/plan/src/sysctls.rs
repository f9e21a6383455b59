// SPDX-License-Identifier: Apache-2.0
//! Which sysctls a pod may set on this node: those that are safe, and those that the node's operator allows besides.
//!
//! A sysctl is safe where the kernel keeps it for each namespace and its value cannot hurt another pod. Not here: writing
//! them (`knarr-runtime`). Rules and messages: kubelet v1.37 `pkg/kubelet/sysctl`.

use k8s_openapi::api::core::v1::PodSpec;
use knarr_api::sysctl::{self, Namespace};

/// What needs no permission.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// What is wrong with a name or pattern that an operator allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is neither.
    #[error(
        "is no sysctl and no beginning of one with * at its end (letters, digits, - and _ between dots)"
    )]
    Form,
    /// It is not kept for each namespace.
    #[error(
        "is not namespaced: a pod that sets it would set it for the whole node; kernel.sem, kernel.shm*, kernel.msg*, fs.mqueue.* and net.* are"
    )]
    NotNamespaced,
}

/// A name or pattern that an operator cannot allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?}")]
pub struct BadPattern {
    /// As given.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub error: PatternError,
}

/// Why a pod may not set what it asks for, in kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// It is neither safe nor allowed on this node.
    #[error("forbidden sysctl: {name:?} not allowlisted")]
    NotAllowed {
        /// With dots.
        name: String,
    },
    /// It belongs to a namespace that the pod shares with the node.
    #[error("forbidden sysctl: {name:?} not allowed with host {} enabled", namespace.as_str())]
    OfHost {
        /// With dots.
        name: String,
        /// Which one.
        namespace: Namespace,
    },
}

/// The sysctls that pods may set on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSysctls {
    /// Names, and beginnings with `*` at their end, in dots.
    unsafe_patterns: Vec<String>,
}

impl AllowedSysctls {
    /// The safe ones, and these names and patterns.
    pub fn with(patterns: &[String]) -> Result<AllowedSysctls, BadPattern> {
        let read = |pattern: &String| {
            let bad = |error| BadPattern {
                pattern: pattern.clone(),
                error,
            };
            if !sysctl::is_pattern(pattern) {
                return Err(bad(PatternError::Form));
            }
            let dotted = sysctl::dotted(pattern);
            match Namespace::of(dotted.trim_end_matches('*')) {
                Some(_) => Ok(dotted),
                None => Err(bad(PatternError::NotNamespaced)),
            }
        };
        let unsafe_patterns = patterns.iter().map(read).collect::<Result<_, _>>()?;
        Ok(AllowedSysctls { unsafe_patterns })
    }

    fn contains(&self, name: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => pattern == name,
        };
        SAFE.contains(&name) || self.unsafe_patterns.iter().any(matches)
    }

    /// Whether the pod may set what it asks for.
    pub fn check(&self, spec: &PodSpec) -> Result<(), SysctlError> {
        let asked = spec.security_context.iter();
        for asked in asked.flat_map(|sc| sc.sysctls.iter().flatten()) {
            let name = sysctl::dotted(&asked.name);
            let namespace = Namespace::of(&name).filter(|_| self.contains(&name));
            let of_host = match namespace {
                None => return Err(SysctlError::NotAllowed { name }),
                Some(Namespace::Ipc) => spec.host_ipc,
                Some(Namespace::Net) => spec.host_network,
            };
            if let (Some(namespace), Some(true)) = (namespace, of_host) {
                return Err(SysctlError::OfHost { name, namespace });
            }
        }
        Ok(())
    }
}

/// The sysctls of a pod, named with dots, and their values.
pub fn sysctls(spec: &PodSpec) -> impl Iterator<Item = (String, String)> {
    let asked = spec.security_context.iter();
    asked
        .flat_map(|sc| sc.sysctls.iter().flatten())
        .map(|asked| (sysctl::dotted(&asked.name), asked.value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(allowed: &[&str], name: &str, mut spec: serde_json::Value) -> Result<(), String> {
        let patterns: Vec<String> = allowed.iter().map(|p| (*p).to_owned()).collect();
        spec["containers"] = json!([]);
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        let spec: PodSpec = serde_json::from_value(spec).expect("spec");
        AllowedSysctls::with(&patterns)
            .expect("patterns")
            .check(&spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_pod_sets_what_is_safe_or_allowed_and_nothing_of_the_nodes_own() {
        let forbidden = |text: &str| Err(format!("forbidden sysctl: {text}"));
        for safe in SAFE {
            assert_eq!(check(&[], safe, json!({})), Ok(()), "{safe}");
        }
        assert_eq!(check(&[], "net/ipv4/tcp_syncookies", json!({})), Ok(()));
        let somaxconn = "net.core.somaxconn";
        assert_eq!(
            check(&[], somaxconn, json!({})),
            forbidden("\"net.core.somaxconn\" not allowlisted")
        );
        for pattern in [
            "net.core.somaxconn",
            "net/core/somaxconn",
            "net.core.*",
            "net.*",
        ] {
            assert_eq!(check(&[pattern], somaxconn, json!({})), Ok(()), "{pattern}");
        }
        assert!(check(&["net.core.s"], somaxconn, json!({})).is_err());
        assert_eq!(
            check(&["kernel.shm*"], "kernel.shmmax", json!({"hostIPC": true})),
            forbidden("\"kernel.shmmax\" not allowed with host ipc enabled")
        );
        assert_eq!(
            check(&[], "net.ipv4.tcp_syncookies", json!({"hostNetwork": true})),
            forbidden("\"net.ipv4.tcp_syncookies\" not allowed with host net enabled")
        );
        let other = json!({"hostIPC": true});
        assert_eq!(check(&[], "net.ipv4.tcp_syncookies", other), Ok(()));
        assert!(check(&[], "vm.swappiness", json!({})).is_err());
    }

    #[test]
    fn what_is_of_the_whole_machine_cannot_be_allowed() {
        let with = |pattern: &str| AllowedSysctls::with(&[pattern.to_owned()]).map_err(|e| e.error);
        assert_eq!(with("vm.swappiness"), Err(PatternError::NotNamespaced));
        assert_eq!(with("kernel.*"), Err(PatternError::NotNamespaced));
        assert_eq!(with("*"), Err(PatternError::NotNamespaced));
        assert_eq!(with("net.*.x"), Err(PatternError::Form));
        assert!(with("kernel.sem").is_ok());
    }
}
