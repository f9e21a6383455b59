// SPDX-License-Identifier: Apache-2.0
//! ServiceAccount: a name for pods to run as.

use serde_json::Value;

use super::ignored::{self, Ignored, ignored};
use crate::registry::{Column, DeletedAnswer, Kind, Scope, Strategy, texts};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["sa"]),
        columns: vec![Column::NAME, Column::AGE],
        ..Kind::new(
            "",
            "v1",
            "ServiceAccount",
            "serviceaccounts",
            Scope::Namespaced,
            ServiceAccount,
        )
    }
}

/// Its Secrets are no column since v1.35: nothing of Kubernetes fills that list any more.
struct ServiceAccount;

/// What pods do not get of their account.
const IGNORED: &[Ignored] = &[
    ignored(
        "automountServiceAccountToken",
        "has no effect in this version: no token of the service account is mounted into pods",
    ),
    ignored(
        "imagePullSecrets",
        "has no effect in this version: nodes pull images from no registry",
    ),
];

impl Strategy for ServiceAccount {
    fn deleted_answer(&self) -> DeletedAnswer {
        DeletedAnswer::Object
    }

    fn advice(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        const ENFORCED: &str = "kubernetes.io/enforce-mountable-secrets";
        let has = |object: &Value| {
            let annotations = value::at(object, "metadata.annotations");
            annotations.is_some_and(|all| all.get(ENFORCED).is_some())
        };
        if !has(new) || old.is_some_and(has) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{ENFORCED}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        ignored::warnings(IGNORED, object, "")
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![table::name(object), table::age(object)]
    }
}
