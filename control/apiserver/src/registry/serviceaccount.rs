// SPDX-License-Identifier: Apache-2.0
//! ServiceAccount: a name for pods to run as.

use serde_json::Value;

use super::{Column, Generation, Kind, NameRule, Scope, Strategy};
use crate::table;

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    name_rule: NameRule::Subdomain,
    generation: Generation::None,
    subresources: &[],
    selectable: &[],
    columns: &[Column::NAME, Column::AGE],
    strategy: &ServiceAccount,
    view_of: None,
};

/// Its Secrets are no column since v1.35: nothing of Kubernetes fills that list any more.
struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![table::name(object), table::age(object)]
    }
}
