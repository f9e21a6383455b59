// SPDX-License-Identifier: Apache-2.0
//! Deletion: preconditions, grace, finalizers and what becomes of dependents.
//!
//! Follows `registry/rest/delete.go` and `registry/generic/registry/store.go` of Kubernetes v1.37. The garbage
//! collector acts on the finalizers that are set here; this file never touches a dependent.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Source, Write};
use crate::admission::Part;
use crate::core::Core;
use crate::object::Object;
use crate::registry::Kind;
use crate::verbs::{DeleteOptions, Propagation, WriteOptions, Written};
use crate::{ApiError, clock, value};

/// Keeps an owner until its dependents are deleted.
const FOREGROUND: &str = "foregroundDeletion";
/// Keeps an owner until its dependents are released.
const ORPHAN: &str = "orphan";

/// What one deletion request does to the object as it is now.
pub(super) enum Plan {
    /// It goes.
    Remove,
    /// It is written with its deletion begun (or hastened).
    Write(Value),
    /// Its deletion has begun already, nothing changes.
    Nothing,
}

impl Core {
    /// Deletes an object or begins its deletion.
    pub(crate) async fn delete(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        deletion: &DeleteOptions,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let write = Write {
            kind,
            namespace,
            name,
            part,
            options,
        };
        self.run(write, Source::Delete(deletion)).await
    }
}

/// The deletion is about this object and this version, where it names them.
pub(super) fn check_preconditions(
    kind: &Kind,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let refuse = |what: &str, wanted: &str, found: &str| {
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            &current.meta.name,
            &format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            ),
        ))
    };
    if let Some(uid) = &options.uid
        && **uid != *current.meta.uid
    {
        return refuse("UID", uid, &current.meta.uid);
    }
    if let Some(version) = &options.resource_version
        && *version != current.meta.resource_version.to_string()
    {
        return refuse(
            "ResourceVersion",
            version,
            &current.meta.resource_version.to_string(),
        );
    }
    Ok(())
}

/// Plans one deletion request; `object` is the tree of `current`.
pub(super) fn plan(
    stored: &Kind,
    current: &Object,
    mut object: Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Plan {
    let deleting = current.meta.deletion_timestamp;
    let had = current.meta.finalizers.clone();
    set_propagation(&mut object, options.propagation);
    let kept = !value::items(&object, "metadata.finalizers").is_empty()
        || stored.strategy.is_held(&object);
    let grace = stored
        .strategy
        .grace_s(&object, options.grace_period_seconds);
    match deleting {
        Some(at) => {
            let before = value::int(&object, "metadata.deletionGracePeriodSeconds").unwrap_or(0);
            let wanted = options.grace_period_seconds.map(|_| grace);
            match wanted {
                Some(wanted) if wanted < before => {
                    if wanted == 0 && !kept {
                        return Plan::Remove;
                    }
                    let less = SignedDuration::from_secs(before.saturating_sub(wanted));
                    // A deletion timestamp before the first moment is not ours: treat it as now.
                    mark(&mut object, at.checked_sub(less).unwrap_or(now), wanted);
                }
                _ if before == 0 && !kept => return Plan::Remove,
                _ => {}
            }
        }
        None if grace == 0 && !kept => return Plan::Remove,
        None => {
            let end = now.checked_add(SignedDuration::from_secs(grace));
            // Beyond all time is the end only for a clock that is wrong by thousands of years.
            mark(&mut object, end.unwrap_or(Timestamp::MAX), grace);
            stored.strategy.begin_deletion(&mut object);
            if let Some(generation) = value::int(&object, "metadata.generation") {
                value::set(&mut object, "metadata.generation", generation + 1);
            }
        }
    }
    let same_finalizers = value::items(&object, "metadata.finalizers")
        .iter()
        .filter_map(Value::as_str)
        .eq(had.iter().map(|f| &**f));
    let same_time = value::text(&object, "metadata.deletionTimestamp")
        == deleting.map(clock::rfc3339).unwrap_or_default();
    if same_finalizers && same_time {
        Plan::Nothing
    } else {
        Plan::Write(object)
    }
}

fn mark(object: &mut Value, at: Timestamp, grace_s: i64) {
    value::set(object, "metadata.deletionTimestamp", clock::rfc3339(at));
    value::set(object, "metadata.deletionGracePeriodSeconds", grace_s);
}

/// Puts the finalizer of the wanted propagation on and takes the other one off.
fn set_propagation(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else {
        return;
    };
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let mut finalizers: Vec<Value> = value::items(object, "metadata.finalizers")
        .iter()
        .filter(|f| {
            let name = f.as_str();
            (name != Some(FOREGROUND) && name != Some(ORPHAN)) || name == wanted
        })
        .cloned()
        .collect();
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|f| f.as_str() == Some(wanted))
    {
        finalizers.push(wanted.into());
    }
    if finalizers.is_empty() {
        value::remove(object, "metadata.finalizers");
    } else {
        value::set(object, "metadata.finalizers", finalizers);
    }
}
