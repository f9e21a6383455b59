// SPDX-License-Identifier: Apache-2.0
//! How a namespace that is being deleted gets empty, and when it may go.
//!
//! The namespace loop deletes the content, counts what remains and asks [`plan`] what to tell. Conditions and
//! messages are those of kube-controller-manager's `namespace` controller (v1.37).

use std::collections::BTreeMap;

use knarr_api::k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use knarr_api::k8s_openapi::jiff::Timestamp;

use crate::reason::ConditionReason;

/// Finalizer in `spec.finalizers` that holds a namespace until it is empty.
pub const FINALIZER: &str = "kubernetes";

/// What a namespace still holds of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Plural name of the resource.
    pub resource: String,
    /// API group, empty for core.
    pub group: String,
    /// Objects left.
    pub count: usize,
    /// How many of them wait for which finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// What a terminating namespace needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Its conditions, where they change.
    pub conditions: Option<Vec<NamespaceCondition>>,
    /// It is empty: its finalizer may be taken off.
    pub finalize: bool,
}

/// True for a namespace whose content has to be deleted.
pub fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

/// Decides what to tell of a terminating namespace. `errors` are refusals met while deleting its content.
pub fn plan(namespace: &Namespace, content: &[Content], errors: &[String], now: Timestamp) -> Plan {
    if !is_terminating(namespace) {
        return Plan::default();
    }
    let left: Vec<_> = content.iter().filter(|content| content.count > 0).collect();
    let told = [
        (
            "NamespaceDeletionDiscoveryFailure",
            "False",
            ConditionReason::ResourcesDiscovered,
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            ConditionReason::ParsedGroupVersions,
            "All legacy kube types successfully parsed".to_owned(),
        ),
        failure(errors),
        remaining(&left),
        finalizers(&left),
    ];
    let old = namespace
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut conditions = old.clone();
    for (type_, status, reason, message) in told {
        let reason = reason.as_str();
        let known = conditions
            .iter_mut()
            .find(|condition| condition.type_ == type_);
        match known {
            Some(known)
                if known.status == status
                    && known.reason.as_deref() == Some(reason)
                    && known.message.as_deref() == Some(&*message) => {}
            Some(known) => {
                if known.status != status {
                    known.last_transition_time = Some(Time(now));
                }
                known.status = status.to_owned();
                known.reason = Some(reason.to_owned());
                known.message = Some(message);
            }
            None => conditions.push(NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    let finalize = left.is_empty() && errors.is_empty();
    // The last write of an empty namespace is the one that removes it.
    Plan {
        conditions: (!finalize && conditions != old).then_some(conditions),
        finalize,
    }
}

type Told = (&'static str, &'static str, ConditionReason, String);

fn failure(errors: &[String]) -> Told {
    let type_ = "NamespaceDeletionContentFailure";
    if errors.is_empty() {
        let message = "All content successfully deleted, may be waiting on finalization";
        (
            type_,
            "False",
            ConditionReason::ContentDeleted,
            message.to_owned(),
        )
    } else {
        let message = format!(
            "Failed to delete all resource types, {} remaining: {}",
            errors.len(),
            errors.join(", ")
        );
        (
            type_,
            "True",
            ConditionReason::ContentDeletionFailed,
            message,
        )
    }
}

fn remaining(left: &[&Content]) -> Told {
    let type_ = "NamespaceContentRemaining";
    if left.is_empty() {
        return (
            type_,
            "False",
            ConditionReason::ContentRemoved,
            "All content successfully removed".to_owned(),
        );
    }
    let mut parts: Vec<String> = left
        .iter()
        .map(|content| {
            format!(
                "{}.{} has {} resource instances",
                content.resource, content.group, content.count
            )
        })
        .collect();
    parts.sort();
    (
        type_,
        "True",
        ConditionReason::SomeResourcesRemain,
        format!("Some resources are remaining: {}", parts.join(", ")),
    )
}

fn finalizers(left: &[&Content]) -> Told {
    let type_ = "NamespaceFinalizersRemaining";
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in left.iter().flat_map(|content| &content.finalizers) {
        *all.entry(finalizer).or_default() += count;
    }
    if all.is_empty() {
        let message = "All content-preserving finalizers finished";
        return (
            type_,
            "False",
            ConditionReason::ContentHasNoFinalizers,
            message.to_owned(),
        );
    }
    let parts: Vec<String> = all
        .into_iter()
        .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
        .collect();
    let message = format!(
        "Some content in the namespace has finalizers remaining: {}",
        parts.join(", ")
    );
    (
        type_,
        "True",
        ConditionReason::SomeFinalizersRemain,
        message,
    )
}

#[cfg(test)]
mod tests;
