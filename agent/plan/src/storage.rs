// SPDX-License-Identifier: Apache-2.0
//! Limits of what a pod keeps on the node's disk: `limits.ephemeral-storage` of its containers and the
//! size limits of its emptyDir volumes. A pod that outgrows one is evicted.
//!
//! Not here: measuring (the agent's `pods/sizes`). Rules and messages: kubelet v1.37 eviction manager,
//! `localStorageEviction`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use knarr_api::quantity::Quantity;

use crate::Millis;
use crate::reason::{FailureReason, PodFailure};
use crate::resources::{limit, together};
use crate::spec::containers;
use crate::volumes::{VolumePlan, VolumeSource};

const RESOURCE: &str = "ephemeral-storage";

/// How long a pod that outgrew a limit has to end, in milliseconds, however long its own grace period is: it goes on filling the disk
/// meanwhile (kubelet's `immediateEvictionGracePeriodSeconds`).
pub const EVICTION_GRACE_MS: Millis = 1_000;

/// What a pod uses on the node's disk, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Writable layer and logs, by container name.
    pub containers: BTreeMap<String, i64>,
    /// By volume name; emptyDir volumes on disk only.
    pub volumes: BTreeMap<String, i64>,
    /// Everything else that the pod writes to: /etc/hosts and its like, logs of containers that have ended.
    pub pod: i64,
}

/// Whether there is anything to measure for.
pub fn is_limited(spec: &PodSpec, volumes: &[VolumePlan]) -> bool {
    let sized = |plan: &VolumePlan| {
        matches!(
            plan.source,
            VolumeSource::Directory {
                size_bytes: Some(_)
            }
        )
    };
    volumes.iter().any(sized) || containers(spec).any(|(c, _)| limit(c, RESOURCE).is_some())
}

/// The first limit that is exceeded, as the pod's failure.
pub fn exceeded(spec: &PodSpec, volumes: &[VolumePlan], usage: &DiskUsage) -> Option<PodFailure> {
    for plan in volumes {
        let used = usage.volumes.get(&plan.name).copied().unwrap_or(0);
        if let VolumeSource::Directory {
            size_bytes: Some(limit),
        } = plan.source
            && used > limit
        {
            let (name, limit) = (&plan.name, Quantity::from_bytes(limit));
            return evicted(format!(
                "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
            ));
        }
    }
    let limit_of = |container: &Container| limit(container, RESOURCE).map(|q| q.value());
    for (container, _) in containers(spec) {
        let name = &container.name;
        let used = usage.containers.get(name).copied().unwrap_or(0);
        if let Some(limit) = limit_of(container).filter(|limit| used > *limit) {
            let limit = Quantity::from_bytes(limit);
            return evicted(format!(
                "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
            ));
        }
    }
    let parts = usage.containers.values().chain(usage.volumes.values());
    let used = parts.fold(usage.pod, |sum, n| sum.saturating_add(*n));
    // One limit makes the whole pod limited, as in kubelet: what has none counts and adds nothing.
    let limited = containers(spec).any(|(c, _)| limit_of(c).is_some());
    let total = together(spec, |c| limit_of(c).unwrap_or(0));
    let limit = Some(total).filter(|total| limited && used > *total)?;
    let limit = Quantity::from_bytes(limit);
    evicted(format!(
        "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
    ))
}

fn evicted(message: String) -> Option<PodFailure> {
    Some(PodFailure {
        reason: FailureReason::Evicted,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(limits: [Option<&str>; 2]) -> PodSpec {
        let container = |name: &str, limit: Option<&str>| match limit {
            Some(limit) => json!({"name": name, "resources": {"limits": {RESOURCE: limit}}}),
            None => json!({"name": name}),
        };
        let [a, b] = limits;
        serde_json::from_value(json!({"containers": [container("a", a), container("b", b)]}))
            .expect("spec")
    }

    fn volume(size_bytes: Option<i64>) -> [VolumePlan; 1] {
        [VolumePlan {
            name: "v".into(),
            source: VolumeSource::Directory { size_bytes },
        }]
    }

    fn used(a: i64, b: i64, v: i64) -> DiskUsage {
        DiskUsage {
            containers: BTreeMap::from([("a".into(), a), ("b".into(), b)]),
            volumes: BTreeMap::from([("v".into(), v)]),
            pod: 0,
        }
    }

    #[test]
    fn a_pod_that_outgrows_a_limit_is_evicted_with_the_limit() {
        let of = |spec: &PodSpec, volumes: &[VolumePlan], usage| {
            exceeded(spec, volumes, &usage).map(|f| f.message)
        };
        let both = spec([Some("1Ki"), Some("2Ki")]);
        assert_eq!(of(&both, &volume(None), used(1024, 2048, 0)), None);
        assert_eq!(
            of(&both, &volume(None), used(1025, 0, 0)).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Ki\". ")
        );
        assert_eq!(
            of(&both, &volume(None), used(1000, 2000, 500)).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 3Ki. ")
        );
        let one = spec([Some("1Ki"), None]);
        assert_eq!(
            of(&one, &volume(None), used(1000, 9000, 9000)).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ")
        );
        assert_eq!(
            of(&one, &volume(Some(4096)), used(0, 0, 4097)).as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"4Ki\". ")
        );
    }

    #[test]
    fn what_belongs_to_no_container_counts_for_the_pod() {
        let one = spec([Some("1Ki"), None]);
        let mut usage = used(1000, 0, 0);
        usage.pod = 24;
        assert_eq!(exceeded(&one, &[], &usage), None);
        usage.pod = 25;
        let message = exceeded(&one, &[], &usage).map(|f| f.message);
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ";
        assert_eq!(message.as_deref(), Some(text));
    }

    #[test]
    fn an_init_container_s_limit_is_not_added_to_those_that_run_after_it() {
        let mut spec = spec([Some("1Ki"), Some("2Ki")]);
        for (limit, total) in [("2Ki", "3Ki"), ("4Ki", "4Ki")] {
            let init = json!([{"name": "i", "resources": {"limits": {RESOURCE: limit}}}]);
            spec.init_containers = serde_json::from_value(init).expect("container");
            let over = |volume| exceeded(&spec, &[], &used(1024, 2048, volume)).map(|f| f.message);
            let message = format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
            );
            assert_eq!(over(1025), Some(message));
        }
        assert_eq!(exceeded(&spec, &[], &used(1024, 2048, 1024)), None);
    }

    #[test]
    fn nothing_is_measured_for_a_pod_without_limits() {
        assert!(!is_limited(&spec([None, None]), &volume(None)));
        assert!(is_limited(&spec([None, None]), &volume(Some(1))));
        assert!(is_limited(&spec([None, Some("1")]), &[]));
    }
}
