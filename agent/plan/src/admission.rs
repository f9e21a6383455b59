// SPDX-License-Identifier: Apache-2.0
//! Whether this node takes on a pod that is new to it. The scheduler has looked before; a pod whose
//! `spec.nodeName` was set by hand comes without that.
//!
//! Not here: pods that the node has taken on before, which are never judged again; node affinity and taints,
//! which need labels and taints of the Node object. Called by the agent's
//! `pods`. Reasons and messages: kubelet v1.37 `lifecycle/predicate.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::pod::{is_terminal, result};
use crate::reason::{FailureReason, PodFailure};
use crate::record::{ContainerRecord, PodRecord};
use crate::resources::{hugepages, requests};
use crate::sysctls::AllowedSysctls;

/// What pods may ask for on this node, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory_bytes: i64,
    /// Pods.
    pub pods: i64,
}

/// What this node takes pods on by.
#[derive(Clone, Debug)]
pub struct NodeTerms {
    /// What there is for pods.
    pub allocatable: Allocatable,
    /// Labels that the node sets itself. Others, which people gave the Node object, are not known here.
    pub labels: BTreeMap<String, String>,
    /// What pods may set.
    pub sysctls: AllowedSysctls,
}

/// Takes the pod on, or says why not. `others` are the pods that hold something of the node
/// ([`holds_resources`]).
pub fn admit<'a>(
    pod: &Pod,
    others: impl IntoIterator<Item = &'a Pod>,
    node: &NodeTerms,
) -> Result<(), PodFailure> {
    let NodeTerms {
        allocatable,
        labels,
        sysctls,
    } = node;
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let text = format!(
            "Failed to admit pod as the OS field doesn't match node OS ({} is not linux)",
            os.name
        );
        return Err(rejected(FailureReason::PodOSNotSupported, &text));
    }
    sysctls
        .check(spec)
        .map_err(|error| rejected(FailureReason::SysctlForbidden, &error.to_string()))?;
    let foreign = spec
        .node_selector
        .iter()
        .flatten()
        .any(|(key, value)| labels.get(key).is_some_and(|own| own != value));
    if foreign {
        let text =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return Err(rejected(FailureReason::NodeAffinity, text));
    }
    let mut used = Allocatable {
        cpu_milli: 0,
        memory_bytes: 0,
        pods: 0,
    };
    for other in others {
        let asked = other.spec.as_ref().map(requests).unwrap_or_default();
        used.cpu_milli = used.cpu_milli.saturating_add(asked.cpu_milli);
        used.memory_bytes = used.memory_bytes.saturating_add(asked.memory_bytes);
        used.pods += 1;
    }
    if let Some((name, asked)) = hugepages(spec) {
        // This agent gives out none, so the node has none.
        let text = format!(
            "Node didn't have enough resource: {name}, requested: {asked}, used: 0, capacity: 0"
        );
        return Err(rejected(FailureReason::OutOf(name.to_owned()), &text));
    }
    let asked = requests(spec);
    for (name, asked, used, capacity) in [
        ("pods", 1, used.pods, allocatable.pods),
        (
            "cpu",
            asked.cpu_milli,
            used.cpu_milli,
            allocatable.cpu_milli,
        ),
        (
            "memory",
            asked.memory_bytes,
            used.memory_bytes,
            allocatable.memory_bytes,
        ),
    ] {
        if asked > 0 && used.saturating_add(asked) > capacity {
            let text = format!(
                "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, \
                 capacity: {capacity}"
            );
            return Err(rejected(FailureReason::OutOf(name.to_owned()), &text));
        }
    }
    Ok(())
}

fn rejected(reason: FailureReason, message: &str) -> PodFailure {
    PodFailure {
        reason,
        message: format!("Pod was rejected: {message}"),
    }
}

/// The pod still holds what it asked for: it has not ended for good, by its status or by what this node
/// remembers of it.
pub fn holds_resources(pod: &Pod, record: &PodRecord) -> bool {
    let live = record.containers.values().any(ContainerRecord::is_live);
    let failed = record
        .termination
        .as_ref()
        .is_some_and(|t| t.failure.is_some());
    let ended = || {
        let spec = pod.spec.as_ref();
        spec.is_some_and(|spec| result(spec, record).is_some())
    };
    live || !(is_terminal(pod) || failed || ended())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("pod")
    }

    fn asking(cpu: &str, memory: &str) -> Pod {
        pod(json!({"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
    }

    const NODE: Allocatable = Allocatable {
        cpu_milli: 2_000,
        memory_bytes: 1 << 30,
        pods: 3,
    };

    fn judge(pod: &Pod, others: &[Pod]) -> Result<(), (String, String)> {
        let node = NodeTerms {
            allocatable: NODE,
            labels: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
            sysctls: AllowedSysctls::default(),
        };
        admit(pod, others, &node).map_err(|f| (f.reason.to_string(), f.message))
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_the_resource() {
        let others = [asking("1500m", "512Mi")];
        assert_eq!(judge(&asking("500m", "512Mi"), &others), Ok(()));
        let refused = |reason: &str, text: &str| {
            let text = format!("Pod was rejected: Node didn't have enough resource: {text}");
            Err((reason.to_owned(), text))
        };
        assert_eq!(
            judge(&asking("501m", "1Mi"), &others),
            refused(
                "OutOfcpu",
                "cpu, requested: 501, used: 1500, capacity: 2000"
            )
        );
        assert_eq!(
            judge(&asking("1m", "513Mi"), &others),
            refused(
                "OutOfmemory",
                "memory, requested: 537919488, used: 536870912, capacity: 1073741824"
            )
        );
        let empty = pod(json!({"containers": [{"name": "c"}]}));
        let full = [empty.clone(), empty.clone(), empty.clone()];
        assert_eq!(
            judge(&empty, &full),
            refused("OutOfpods", "pods, requested: 1, used: 3, capacity: 3")
        );
    }

    #[test]
    fn a_pod_that_asks_for_nothing_fits_on_a_node_that_is_overfull() {
        let others = [asking("4", "4Gi")];
        let empty = pod(json!({"containers": [{"name": "c"}]}));
        assert_eq!(judge(&empty, &others), Ok(()));
    }

    #[test]
    fn a_selector_is_judged_by_the_labels_that_the_node_knows() {
        let select = |key: &str, value: &str| {
            pod(json!({"containers": [{"name": "c"}], "nodeSelector": {key: value}}))
        };
        assert_eq!(judge(&select("kubernetes.io/os", "linux"), &[]), Ok(()));
        assert_eq!(judge(&select("team", "a"), &[]), Ok(()));
        let (reason, _) = judge(&select("kubernetes.io/os", "windows"), &[]).expect_err("refused");
        assert_eq!(reason, "NodeAffinity");
    }

    #[test]
    fn a_pod_that_asks_for_huge_pages_is_refused_as_the_node_has_none() {
        let asking = |amount: &str| {
            pod(json!({"containers": [{"name": "c", "resources": {
                "requests": {"hugepages-2Mi": amount}, "limits": {"hugepages-2Mi": amount}}}]}))
        };
        let (reason, message) = judge(&asking("4Mi"), &[]).expect_err("refused");
        assert_eq!(reason, "OutOfhugepages-2Mi");
        assert!(message.ends_with("hugepages-2Mi, requested: 4194304, used: 0, capacity: 0"));
        assert_eq!(judge(&asking("0"), &[]), Ok(()));
    }

    #[test]
    fn a_pod_that_sets_what_it_may_not_set_is_refused() {
        let setting = |name: &str| {
            pod(json!({"containers": [{"name": "c"}],
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
        };
        assert_eq!(judge(&setting("net.ipv4.tcp_syncookies"), &[]), Ok(()));
        let (reason, message) = judge(&setting("kernel.shmmax"), &[]).expect_err("refused");
        assert_eq!(reason, "SysctlForbidden");
        assert_eq!(
            message,
            "Pod was rejected: forbidden sysctl: \"kernel.shmmax\" not allowlisted"
        );
    }

    #[test]
    fn a_pod_for_windows_is_refused() {
        let windows = pod(json!({"containers": [{"name": "c"}], "os": {"name": "windows"}}));
        let (reason, _) = judge(&windows, &[]).expect_err("refused");
        assert_eq!(reason, "PodOSNotSupported");
    }

    #[test]
    fn a_pod_that_ended_holds_nothing() {
        let once = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c"}]}));
        let mut record = PodRecord::default();
        assert!(holds_resources(&once, &record));
        record.started("c", 0, 0, 0);
        assert!(holds_resources(&once, &record));
        let exit = crate::record::Exit {
            id: "i".into(),
            exit_code: 0,
            signal: None,
            reason: knarr_pod::ExitReason::Completed,
            message: None,
            started_ms: None,
            finished_ms: 1,
        };
        record.containers.get_mut("c").expect("c").exit = Some(exit);
        assert!(!holds_resources(&once, &record));
        let refused = PodRecord {
            termination: Some(crate::record::Termination {
                since_ms: 0,
                failure: Some(rejected(FailureReason::OutOf("cpu".into()), "no")),
            }),
            ..PodRecord::default()
        };
        assert!(!holds_resources(&once, &refused));
    }
}
