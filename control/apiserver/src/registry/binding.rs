// SPDX-License-Identifier: Apache-2.0
//! Binding: not stored; creating one binds a pod. The verb is in `verbs/pods.rs`.

use serde_json::Value;

use super::{Generation, Kind, NameRule, Scope, Strategy};

/// Only its names matter: discovery, the schema and the path.
pub(crate) static BINDING: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Binding",
    plural: "bindings",
    singular: "binding",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    name_rule: NameRule::Subdomain,
    generation: Generation::None,
    subresources: &[],
    selectable: &[],
    columns: &[],
    strategy: &Binding,
    view_of: None,
};

struct Binding;

impl Strategy for Binding {
    fn cells(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }
}
