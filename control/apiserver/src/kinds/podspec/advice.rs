// SPDX-License-Identifier: Apache-2.0
//! What Kubernetes itself warns of in pod specs: deprecated labels, annotations and volumes, and what a list says twice.
//!
//! Follows `warningsForPodSpecAndMeta` of `pkg/api/pod/warnings.go` and `pkg/api/node/util.go` (v1.37); clients compare
//! the texts. Not here: what only this version does not carry out (`warnings.rs`).

use std::collections::{BTreeMap, BTreeSet};

use knarr_api::names::validate_label_value;
use knarr_api::quantity::Quantity;
use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::value;

const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
    ),
    (
        "beta.kubernetes.io/os",
        r#"deprecated since v1.14; use "kubernetes.io/os" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        r#"use "node-role.kubernetes.io/control-plane" instead"#,
    ),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];
const VOLUMES: [(&str, &str); 9] = [
    (
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    (
        "gitRepo",
        "deprecated in v1.11, and disabled by default in v1.33+",
    ),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const SECCOMP: &str = r#"non-functional in v1.27+; use the "seccompProfile" field instead"#;
const APPARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";
const APPARMOR: &str = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
/// Resources that are bytes, so a fraction of one is nothing.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

/// The warnings about `pod`, an object with `metadata` and `spec` that stands at `root`: empty for a Pod, or a template's
/// path with a dot behind it.
pub(in crate::kinds) fn advice(pod: &Value, root: &str) -> Vec<String> {
    let spec = value::at(pod, "spec").unwrap_or(&Value::Null);
    let annotations = value::at(pod, "metadata.annotations").unwrap_or(&Value::Null);
    let mut found = Found {
        root: format!("{root}spec"),
        meta: format!("{root}metadata.annotations"),
        texts: Vec::new(),
    };
    found.node_labels(spec);
    for (index, constraint) in value::items(spec, "topologySpreadConstraints")
        .iter()
        .enumerate()
    {
        let key = value::text(constraint, "topologyKey");
        let at = format!("topologySpreadConstraints[{index}]");
        if let Some(message) = node_label(key) {
            found.add(&format!("{at}.topologyKey"), &format!("{key} is {message}"));
        }
        if value::at(constraint, "labelSelector").is_none() {
            found.add(&format!("{at}.labelSelector"), NO_SELECTOR);
        }
    }
    for (key, message) in ANNOTATIONS {
        if annotations.get(key).is_some() {
            found.add_annotation(key, message);
        }
    }
    found.volumes(spec);
    found.lists(spec);
    found.fractions("", spec, "overhead");
    if annotations.get(SECCOMP_POD).is_some()
        && value::at(spec, "securityContext.seccompProfile").is_none()
    {
        found.add_annotation(SECCOMP_POD, SECCOMP);
    }
    for (at, container) in containers(spec) {
        found.container(spec, container, &at, annotations);
    }
    found.ports(spec);
    if value::int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        let message = "must be >= 0; negative values are invalid and will be treated as 1";
        found.add("terminationGracePeriodSeconds", message);
    }
    found.pod_affinity(spec);
    found.texts
}

fn node_label(key: &str) -> Option<&'static str> {
    let known = NODE_LABELS.iter().find(|(label, _)| *label == key);
    known.map(|(_, message)| *message)
}

/// Every container with its place in the spec, in the order in which Kubernetes visits them.
fn containers(spec: &Value) -> impl Iterator<Item = (String, &Value)> {
    CONTAINER_LISTS.into_iter().flat_map(move |list| {
        let items = value::items(spec, list).iter().enumerate();
        items.map(move |(index, container)| (format!("{list}[{index}]"), container))
    })
}

struct Found {
    root: String,
    meta: String,
    texts: Vec<String>,
}

impl Found {
    /// About a field below the spec.
    fn add(&mut self, field: &str, message: &str) {
        self.texts.push(format!("{}.{field}: {message}", self.root));
    }

    fn add_annotation(&mut self, key: &str, message: &str) {
        self.texts.push(format!("{}[{key}]: {message}", self.meta));
    }

    fn node_labels(&mut self, spec: &Value) {
        for (key, _) in value::members(spec, "nodeSelector") {
            if let Some(message) = node_label(key) {
                self.add(&format!("nodeSelector[{key}]"), message);
            }
        }
        const REQUIRED: &str = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        for (index, term) in value::items(spec, REQUIRED).iter().enumerate() {
            self.term(term, &format!("{REQUIRED}[{index}]"));
        }
        const PREFERRED: &str =
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution";
        for (index, weighted) in value::items(spec, PREFERRED).iter().enumerate() {
            let at = format!("{PREFERRED}[{index}].preference");
            let term = value::at(weighted, "preference").unwrap_or(&Value::Null);
            self.term(term, &at);
            self.label_values(term, &at);
        }
    }

    fn term(&mut self, term: &Value, at: &str) {
        for (index, expression) in value::items(term, "matchExpressions").iter().enumerate() {
            let key = value::text(expression, "key");
            if let Some(message) = node_label(key) {
                let at = format!("{at}.matchExpressions[{index}].key");
                self.add(&at, &format!("{key} is {message}"));
            }
        }
    }

    /// Values that no label can have. Required terms refuse them.
    fn label_values(&mut self, term: &Value, at: &str) {
        for (index, expression) in value::items(term, "matchExpressions").iter().enumerate() {
            for (nth, value) in value::items(expression, "values").iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                for message in validate_label_value(value) {
                    let at = format!("{at}.matchExpressions[{index}].values[{nth}]");
                    self.add(&at, &format!("{value} is invalid, {message}"));
                }
            }
        }
    }

    fn volumes(&mut self, spec: &Value) {
        let volumes = value::items(spec, "volumes");
        for (index, volume) in volumes.iter().enumerate() {
            for (source, message) in VOLUMES {
                if value::at(volume, source).is_some() {
                    self.add(&format!("volumes[{index}].{source}"), message);
                }
            }
        }
        let sources = |volume| value::items(volume, "projected.sources");
        let tokens: BTreeSet<&str> = volumes
            .iter()
            .flat_map(sources)
            .filter_map(|s| value::at(s, "serviceAccountToken"))
            .map(|token| value::text(token, "path"))
            .collect();
        for (index, volume) in volumes.iter().enumerate() {
            for source in sources(volume) {
                let lists = [
                    ("configMap.items", "configMap"),
                    ("secret.items", "secrets"),
                    ("downwardAPI.items", "downwardAPI"),
                ];
                for (list, shown) in lists {
                    for (nth, item) in value::items(source, list).iter().enumerate() {
                        let path = value::text(item, "path");
                        if tokens.contains(path) {
                            self.add(
                                &format!("volumes[{index}].projected.sources.{shown}[{nth}]"),
                                &format!("has duplicated path with ServiceAccountToken {path:?}"),
                            );
                        }
                    }
                }
            }
        }
    }

    fn lists(&mut self, spec: &Value) {
        let mut seen = BTreeSet::new();
        for (index, alias) in value::items(spec, "hostAliases").iter().enumerate() {
            let ip = value::text(alias, "ip");
            if !seen.insert(ip) {
                let message = format!("duplicate ip {ip:?}");
                self.add(&format!("hostAliases[{index}].ip"), &message);
            }
        }
        let secrets = value::items(spec, "imagePullSecrets");
        let mut seen = BTreeSet::new();
        for (index, secret) in secrets.iter().enumerate() {
            let name = value::text(secret, "name");
            if !seen.insert(name) {
                let message = format!("duplicate name {name:?}");
                self.add(&format!("imagePullSecrets[{index}].name"), &message);
            }
        }
        for (index, secret) in secrets.iter().enumerate() {
            if value::text(secret, "name").is_empty() {
                let at = format!("imagePullSecrets[{index}].name");
                self.add(&at, "invalid empty name \"\"");
            }
        }
    }

    /// About the quantities at `path` of a tree that stands at `place` of the spec: a path with a dot behind it, or empty.
    fn fractions(&mut self, place: &str, tree: &Value, path: &str) {
        for name in BYTES {
            let quantity = value::at(tree, path).and_then(|all| all.get(name));
            let Some(text) = quantity.and_then(Value::as_str) else {
                continue;
            };
            let is_fraction = |quantity: Quantity| quantity.milli_value() % 1000 != 0;
            if text.parse().is_ok_and(is_fraction) {
                let message =
                    format!("fractional byte value {text:?} is invalid, must be an integer");
                self.add(&format!("{place}{path}[{name}]"), &message);
            }
        }
    }

    fn container_annotations(&mut self, spec: &Value, container: &Value, annotations: &Value) {
        let name = value::text(container, "name");
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if annotations.get(&key).is_some()
            && value::at(container, "securityContext.seccompProfile").is_none()
        {
            self.add_annotation(&key, SECCOMP);
        }
        let key = format!("{APPARMOR_CONTAINER}{name}");
        let profile = "securityContext.appArmorProfile";
        let has_field = [spec, container]
            .into_iter()
            .any(|tree| value::at(tree, profile).is_some());
        if annotations.get(&key).is_some() && !has_field {
            self.add_annotation(&key, APPARMOR);
        }
    }

    fn container(&mut self, spec: &Value, container: &Value, at: &str, annotations: &Value) {
        if annotations.is_object() {
            self.container_annotations(spec, container, annotations);
        }
        let place = format!("{at}.");
        for part in ["resources.limits", "resources.requests"] {
            self.fractions(&place, container, part);
        }
        let mut seen = BTreeSet::new();
        for (index, env) in value::items(container, "env").iter().enumerate() {
            let name = value::text(env, "name");
            if seen.insert(name) {
                continue;
            }
            let own = format!("$({name})");
            let text = value::text(env, "value");
            // A later value that is made of the earlier one is meant.
            let extends = text.contains(&own) && text != own;
            if value::at(env, "valueFrom").is_some() || !extends {
                self.add(
                    &format!("{at}.env[{index}]"),
                    &format!(
                        "hides previous definition of {name:?}, which may be dropped when using apply"
                    ),
                );
            }
        }
    }

    fn ports(&mut self, spec: &Value) {
        let mut all: BTreeMap<(i64, &str), Vec<(String, &Value)>> = BTreeMap::new();
        for (place, container) in containers(spec) {
            for (index, port) in value::items(container, "ports").iter().enumerate() {
                let at = format!("{place}.ports[{index}]");
                let (number, protocol) = (
                    value::int(port, "containerPort").unwrap_or(0),
                    value::text(port, "protocol"),
                );
                let (ip, host) = host_of(port);
                if !ip.is_empty() && host == 0 {
                    let name = value::text(port, "name");
                    self.add(
                        &at,
                        &format!(
                            "hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}"
                        ),
                    );
                }
                let others = all.entry((number, protocol)).or_default();
                for (other_at, other) in others.iter() {
                    let (other_ip, other_host) = host_of(other);
                    let how = if (ip, host) == (other_ip, other_host) {
                        "duplicate"
                    } else if host == 0 || other_host == 0 {
                        "overlapping"
                    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                        "dangerously ambiguous"
                    } else {
                        continue;
                    };
                    let other = format!("{}.{other_at}", self.root);
                    self.add(&at, &format!("{how} port definition with {other}"));
                }
                others.push((at, port));
            }
        }
    }

    fn pod_affinity(&mut self, spec: &Value) {
        for kind in ["podAffinity", "podAntiAffinity"] {
            for (rule, selector) in [
                (
                    "requiredDuringSchedulingIgnoredDuringExecution",
                    "labelSelector",
                ),
                (
                    "preferredDuringSchedulingIgnoredDuringExecution",
                    "podAffinityTerm.labelSelector",
                ),
            ] {
                let list = format!("affinity.{kind}.{rule}");
                for (index, term) in value::items(spec, &list).iter().enumerate() {
                    if value::at(term, selector).is_none() {
                        self.add(&format!("{list}[{index}].{selector}"), NO_SELECTOR);
                    }
                }
            }
        }
    }
}

/// Address and port of the node that a container's port asks for.
fn host_of(port: &Value) -> (&str, i64) {
    (
        value::text(port, "hostIP"),
        value::int(port, "hostPort").unwrap_or(0),
    )
}
