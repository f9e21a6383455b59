// SPDX-License-Identifier: Apache-2.0
//! What of a pod spec is taken and not carried out.
//!
//! Where the node holds such a pod back, its status says so as well (`knarr-agent-plan`, `support`); here it is said at
//! once, and about templates too.

use serde_json::Value;

use super::CONTAINER_LISTS;
use crate::kinds::ignored::{self, Ignored, WAITS, When, ignored};
use crate::value;

const NO_TOKENS: &str =
    "has no effect in this version: no token of the service account is mounted into pods";
const NO_PULLS: &str = "has no effect in this version: nodes pull images from no registry";
const NO_SPREAD: &str = "has no effect in this version: the scheduler does not look at it";
const NO_OWNER: &str = "has no effect in this version: files belong to root, and to `fsGroup`";
const UNSCHEDULABLE: &str =
    "is not supported by this version's scheduler: the pod stays Pending as Unschedulable";
const PROFILES: &[&str] = &["Unconfined"];
/// Sources of volumes that nodes make.
const VOLUMES: [&str; 6] = [
    "configMap",
    "downwardAPI",
    "emptyDir",
    "hostPath",
    "projected",
    "secret",
];

/// Below `spec`.
const OF_POD: &[Ignored] = &[
    ignored(
        "affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        NO_SPREAD,
    ),
    ignored(
        "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        UNSCHEDULABLE,
    ),
    ignored(
        "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        NO_SPREAD,
    ),
    ignored(
        "affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution",
        UNSCHEDULABLE,
    ),
    ignored("automountServiceAccountToken", NO_TOKENS),
    ignored(
        "evictionResponders",
        "has no effect in this version: nobody asks them before an eviction",
    ),
    Ignored {
        path: "hostUsers",
        when: When::False,
        what: WAITS,
    },
    ignored("imagePullSecrets", NO_PULLS),
    ignored("resourceClaims", WAITS),
    ignored("resources", WAITS),
    ignored("runtimeClassName", WAITS),
    ignored(
        "schedulingGroup",
        "has no effect in this version: the pod is scheduled by itself",
    ),
    ignored(
        "securityContext.seLinuxChangePolicy",
        "has no effect in this version: nodes set no labels of SELinux",
    ),
    ignored("securityContext.windowsOptions", WAITS),
    Ignored {
        path: "securityContext.appArmorProfile.type",
        when: When::NotIn(PROFILES),
        what: WAITS,
    },
    Ignored {
        path: "securityContext.seccompProfile.type",
        when: When::NotIn(PROFILES),
        what: WAITS,
    },
    ignored("setHostnameAsFQDN", WAITS),
    Ignored {
        path: "topologySpreadConstraints[].whenUnsatisfiable",
        when: When::NotIn(&["DoNotSchedule"]),
        what: NO_SPREAD,
    },
    Ignored {
        path: "topologySpreadConstraints[].whenUnsatisfiable",
        when: When::NotIn(&["ScheduleAnyway"]),
        what: UNSCHEDULABLE,
    },
    ignored("volumes[].configMap.defaultUser", NO_OWNER),
    ignored("volumes[].configMap.items[].user", NO_OWNER),
    ignored("volumes[].downwardAPI.defaultUser", NO_OWNER),
    ignored("volumes[].downwardAPI.items[].user", NO_OWNER),
    ignored(
        "volumes[].emptyDir.mode",
        "has no effect in this version: everybody may write into the volume",
    ),
    Ignored {
        path: "volumes[].emptyDir.medium",
        when: When::NotIn(&["Memory"]),
        what: WAITS,
    },
    ignored("volumes[].projected.defaultUser", NO_OWNER),
    ignored("volumes[].projected.sources[].clusterTrustBundle", WAITS),
    ignored(
        "volumes[].projected.sources[].configMap.items[].user",
        NO_OWNER,
    ),
    ignored(
        "volumes[].projected.sources[].downwardAPI.items[].user",
        NO_OWNER,
    ),
    ignored("volumes[].projected.sources[].podCertificate", WAITS),
    ignored(
        "volumes[].projected.sources[].secret.items[].user",
        NO_OWNER,
    ),
    ignored("volumes[].projected.sources[].serviceAccountToken", WAITS),
    ignored("volumes[].secret.defaultUser", NO_OWNER),
    ignored("volumes[].secret.items[].user", NO_OWNER),
];

/// Below each container.
const OF_CONTAINER: &[Ignored] = &[
    ignored(
        "env[].valueFrom.fileKeyRef",
        "has no effect in this version: the variable is not set",
    ),
    ignored("lifecycle.postStart", WAITS),
    ignored("lifecycle.preStop.exec", WAITS),
    ignored("lifecycle.preStop.httpGet", WAITS),
    ignored("lifecycle.preStop.tcpSocket", WAITS),
    ignored("livenessProbe.exec", WAITS),
    ignored("livenessProbe.grpc", WAITS),
    ignored("livenessProbe.httpGet.protocol", HTTP_ONLY),
    ignored("readinessProbe.exec", WAITS),
    ignored("readinessProbe.grpc", WAITS),
    ignored("readinessProbe.httpGet.protocol", HTTP_ONLY),
    ignored(
        "resizePolicy",
        "has no effect in this version: resources of a running container cannot be changed",
    ),
    ignored("resources.claims", WAITS),
    Ignored {
        path: "securityContext.appArmorProfile.type",
        when: When::NotIn(PROFILES),
        what: WAITS,
    },
    Ignored {
        path: "securityContext.procMount",
        when: When::NotIn(&["Default"]),
        what: WAITS,
    },
    Ignored {
        path: "securityContext.seccompProfile.type",
        when: When::NotIn(PROFILES),
        what: WAITS,
    },
    ignored("securityContext.windowsOptions", WAITS),
    ignored("startupProbe.exec", WAITS),
    ignored("startupProbe.grpc", WAITS),
    ignored("startupProbe.httpGet.protocol", HTTP_ONLY),
    ignored("stdin", WAITS),
    ignored(
        "stdinOnce",
        "has no effect in this version: containers have no standard input",
    ),
    ignored("tty", WAITS),
    ignored("volumeDevices", WAITS),
    ignored(
        "volumeMounts[].bindMountOptions",
        "has no effect in this version",
    ),
    ignored("volumeMounts[].recursiveReadOnly", WAITS),
];
const HTTP_ONLY: &str = "has no effect in this version: probes speak HTTP/1.1";

/// The warnings about a pod spec.
pub(in crate::kinds) fn warnings(spec: &Value, field: &str) -> Vec<String> {
    let mut found = ignored::warnings(OF_POD, spec, field);
    for (index, volume) in value::items(spec, "volumes").iter().enumerate() {
        let sources = volume.as_object().into_iter().flatten();
        let others = sources.filter(|(name, source)| {
            *name != "name" && !source.is_null() && !VOLUMES.contains(&name.as_str())
        });
        found.extend(others.map(|(name, _)| format!("{field}.volumes[{index}].{name}: {WAITS}")));
    }
    let is_bound = !value::text(spec, "nodeName").is_empty();
    for list in CONTAINER_LISTS {
        for (index, container) in value::items(spec, list).iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            found.extend(ignored::warnings(OF_CONTAINER, container, &field));
            if !value::is_true(spec, "hostNetwork") {
                host_ports(container, &field, &mut found);
            }
            if is_bound {
                extended_resources(container, &field, &mut found);
            }
        }
    }
    found
}

fn host_ports(container: &Value, field: &str, found: &mut Vec<String>) {
    for (index, port) in value::items(container, "ports").iter().enumerate() {
        if value::int(port, "hostPort").unwrap_or(0) != 0 {
            found.push(format!("{field}.ports[{index}].hostPort: {WAITS}"));
        }
    }
}

/// The scheduler refuses a pod whose resources no node has. One that is bound already runs without them, as kubelet has
/// it.
fn extended_resources(container: &Value, field: &str, found: &mut Vec<String>) {
    for part in ["limits", "requests"] {
        let path = format!("resources.{part}");
        for (name, _) in value::members(container, &path).filter(|(name, _)| name.contains('/')) {
            found.push(format!(
                "{field}.{path}[{name}]: has no effect with `nodeName`: nodes of this version give out no such \
                 resource, and the scheduler is not asked"
            ));
        }
    }
}
