// SPDX-License-Identifier: Apache-2.0
//! Admission: what Kubernetes' default plugins add to or refuse of a request.
//!
//! NamespaceLifecycle, ServiceAccount (the account exists; pods get no token), DefaultTolerationSeconds and Priority.
//! Called by the verbs for network and in-process clients alike.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};
use serde_json::{Value, json};

use crate::core::Core;
use crate::registry::Kind;
use crate::{ApiError, value};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];
/// The account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";
/// How long a pod waits for its namespace's default account, which a controller makes a moment after the
/// namespace. kube-apiserver's plugin looks ten times, a tenth to a fifth of a second apart.
const DEFAULT_ACCOUNT_MS_MAX: u64 = 2_000;
/// The annotation of pods that stand for a node's static ones; they have no account.
const MIRROR: &str = "kubernetes.io/config.mirror";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// NamespaceLifecycle at creation: the namespace exists and is not going away.
pub(crate) async fn namespace_is_open(
    core: &Core,
    kind: &Kind,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    if !kind.namespaced() {
        return Ok(());
    }
    let namespaces = core.cache(&*core.registry().resource("", "v1", "namespaces")?)?;
    let mut found = namespaces.get("", namespace);
    if found.is_none() {
        core.fresh().await?;
        found = namespaces.get("", namespace);
    }
    let Some(found) = found else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if !found.meta.is_deleting() {
        return Ok(());
    }
    let name = value::text(object, "metadata.name");
    let mut error = ApiError::forbidden(
        &kind.group,
        &kind.plural,
        name,
        &format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        ),
    );
    error.set_details(StatusDetails {
        name: (!name.is_empty()).then(|| name.to_owned()),
        group: (!kind.group.is_empty()).then(|| kind.group.to_string()),
        kind: Some(kind.plural.to_string()),
        causes: Some(vec![StatusCause {
            reason: Some("NamespaceTerminating".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            field: Some("metadata.namespace".to_owned()),
        }]),
        ..StatusDetails::default()
    });
    Err(error)
}

/// NamespaceLifecycle at deletion.
pub(crate) fn may_delete(kind: &Kind, name: &str) -> Result<(), ApiError> {
    if kind.plural == "namespaces" && IMMORTAL.contains(&name) {
        return Err(ApiError::forbidden(
            &kind.group,
            &kind.plural,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}

/// ServiceAccount at creation: the account that a pod names exists.
pub(crate) async fn service_account_exists(
    core: &Core,
    kind: &Kind,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    if kind.plural != "pods" || object["metadata"]["annotations"].get(MIRROR).is_some() {
        return Ok(());
    }
    let account = value::text(object, "spec.serviceAccountName");
    let accounts = core.cache(&*core.registry().resource("", "v1", "serviceaccounts")?)?;
    let found = || accounts.get(namespace, account).is_some();
    if found() {
        return Ok(());
    }
    core.fresh().await?;
    if account == DEFAULT_ACCOUNT {
        let (_, mut changes) = accounts.watch_namespace(Some(namespace));
        let made = async {
            // A reader that fell behind has looked often enough.
            while !found() && changes.next().await.is_ok() {}
        };
        // Where the time is over, the look below says so.
        let _ = tokio::time::timeout(Duration::from_millis(DEFAULT_ACCOUNT_MS_MAX), made).await;
    }
    if found() {
        return Ok(());
    }
    Err(ApiError::forbidden(
        &kind.group,
        &kind.plural,
        value::text(object, "metadata.name"),
        &format!(
            "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
        ),
    ))
}

/// What is added to a new object.
pub(crate) fn mutate(core: &Core, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    if kind.plural != "pods" {
        return Ok(());
    }
    value::default_text(object, "spec.serviceAccountName", DEFAULT_ACCOUNT);
    let account = value::text(object, "spec.serviceAccountName").to_owned();
    value::set(object, "spec.serviceAccount", account);
    add_toleration(object, NOT_READY, core.config.not_ready_toleration_seconds);
    add_toleration(
        object,
        UNREACHABLE,
        core.config.unreachable_toleration_seconds,
    );
    // An unknown class is refused by `validate`.
    let class = value::text(object, "spec.priorityClassName");
    if let Some(priority) = class_priority(class) {
        let sent = value::int(object, "spec.priority");
        if let Some(sent) = sent.filter(|sent| *sent != priority) {
            return Err(ApiError::forbidden(
                &kind.group,
                &kind.plural,
                value::text(object, "metadata.name"),
                &format!(
                    "the integer value of priority ({sent}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
                ),
            ));
        }
        value::set(object, "spec.priority", priority);
    }
    value::default_text(object, "spec.preemptionPolicy", "PreemptLowerPriority");
    Ok(())
}

/// What is kept of a changed object although a client may have left it out.
pub(crate) fn mutate_update(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.plural != "pods" {
        return;
    }
    for kept in [
        "spec.serviceAccountName",
        "spec.serviceAccount",
        "spec.priority",
        "spec.preemptionPolicy",
    ] {
        if value::at(new, kept).is_none() {
            value::copy(new, old, kept);
        }
    }
}

/// What is refused of a valid new object.
pub(crate) fn validate(_core: &Core, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if kind.plural != "pods" {
        return Ok(());
    }
    let class = value::text(object, "spec.priorityClassName");
    if class_priority(class).is_none() {
        return Err(ApiError::forbidden(
            &kind.group,
            &kind.plural,
            value::text(object, "metadata.name"),
            &format!("no PriorityClass with name {class} was found"),
        ));
    }
    Ok(())
}

/// The two classes that every cluster has, and none at all.
fn class_priority(class: &str) -> Option<i64> {
    match class {
        "" => Some(0),
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}

fn add_toleration(pod: &mut Value, key: &str, seconds: i64) {
    let tolerated = value::items(pod, "spec.tolerations").iter().any(|t| {
        let effect = value::text(t, "effect");
        let tolerates = value::text(t, "key");
        (tolerates.is_empty() || tolerates == key) && matches!(effect, "" | "NoExecute")
    });
    if tolerated {
        return;
    }
    let mut all = value::items(pod, "spec.tolerations").to_vec();
    all.push(json!({
        "key": key,
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": seconds,
    }));
    value::set(pod, "spec.tolerations", all);
}
