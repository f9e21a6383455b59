// SPDX-License-Identifier: Apache-2.0
//! The admission links of new pods: ServiceAccount, Priority and DefaultTolerationSeconds, as kube-apiserver's plug-ins
//! of these names (v1.37). Pods get no token of their account.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission::{Admission, Admit, Effects, Operation, Part};
use crate::{ApiError, value};

/// The account of pods that name none.
const DEFAULT_ACCOUNT: &str = "default";
/// How long a pod waits for its namespace's default account, which a controller makes a moment after the
/// namespace. kube-apiserver's plugin looks ten times, a tenth to a fifth of a second apart.
const DEFAULT_ACCOUNT_MS_MAX: u64 = 2_000;
/// The annotation of pods that stand for a node's static ones; they have no account.
const MIRROR: &str = "kubernetes.io/config.mirror";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn is_new_pod(write: &Admission<'_>) -> bool {
    write.operation == Operation::Create && write.part == Part::Main && write.is_of("", "Pod")
}

/// Gives a pod the account that it does not name, and refuses one whose account does not exist.
pub(in crate::kinds) struct ServiceAccount;

#[async_trait]
impl Admit for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, write: &Admission<'_>) -> bool {
        is_new_pod(write)
    }

    async fn mutate(
        &self,
        write: &mut Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        let Some(pod) = write.object_mut() else {
            return Ok(());
        };
        value::default_text(pod, "spec.serviceAccountName", DEFAULT_ACCOUNT);
        let account = value::text(pod, "spec.serviceAccountName").to_owned();
        value::set(pod, "spec.serviceAccount", account.as_str());
        if pod["metadata"]["annotations"].get(MIRROR).is_some() {
            return Ok(());
        }
        account_exists(write, &account).await
    }
}

async fn account_exists(write: &Admission<'_>, account: &str) -> Result<(), ApiError> {
    let (server, namespace) = (write.server, write.namespace);
    let accounts = server.cache(&*server.registry().resource("", "v1", "serviceaccounts")?)?;
    let found = || accounts.get(namespace, account).is_some();
    if found() {
        return Ok(());
    }
    server.fresh().await?;
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
    Err(write.forbidden(&format!(
        "error looking up service account {namespace}/{account}: serviceaccount \"{account}\" not found"
    )))
}

/// Computes the priority from the class that a pod names, and refuses an unknown class.
pub(in crate::kinds) struct Priority;

#[async_trait]
impl Admit for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, write: &Admission<'_>) -> bool {
        is_new_pod(write)
    }

    async fn mutate(
        &self,
        write: &mut Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        let Some(pod) = write.object() else {
            return Ok(());
        };
        // An unknown class is refused by `validate`.
        let priority = class_priority(value::text(pod, "spec.priorityClassName"));
        let sent = value::int(pod, "spec.priority");
        if let (Some(priority), Some(sent)) = (priority, sent)
            && sent != priority
        {
            return Err(write.forbidden(&format!(
                "the integer value of priority ({sent}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        if let Some(pod) = write.object_mut() {
            if let Some(priority) = priority {
                value::set(pod, "spec.priority", priority);
            }
            value::default_text(pod, "spec.preemptionPolicy", "PreemptLowerPriority");
        }
        Ok(())
    }

    async fn validate(
        &self,
        write: &Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        let class = write
            .object()
            .map_or("", |pod| value::text(pod, "spec.priorityClassName"));
        match class_priority(class) {
            Some(_) => Ok(()),
            None => Err(write.forbidden(&format!("no PriorityClass with name {class} was found"))),
        }
    }
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

/// Lets a pod stay for a while on a node that is not ready or not reachable.
pub(in crate::kinds) struct DefaultTolerationSeconds;

#[async_trait]
impl Admit for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, write: &Admission<'_>) -> bool {
        is_new_pod(write)
    }

    async fn mutate(
        &self,
        write: &mut Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        let server = write.server;
        let seconds = [
            (NOT_READY, server.not_ready_toleration_seconds()),
            (UNREACHABLE, server.unreachable_toleration_seconds()),
        ];
        if let Some(pod) = write.object_mut() {
            for (taint, seconds) in seconds {
                add_toleration(pod, taint, seconds);
            }
        }
        Ok(())
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
