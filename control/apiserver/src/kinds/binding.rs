// SPDX-License-Identifier: Apache-2.0
//! Binding: not stored; creating one binds a pod. The verb is in `verbs/pods.rs`.

use serde_json::Value;

use crate::registry::{Kind, Scope, Storage, Strategy};

/// Only its names matter: discovery, the schema and the path.
pub(super) fn kind() -> Kind {
    Kind {
        storage: Storage::None,
        ..Kind::new("", "v1", "Binding", "bindings", Scope::Namespaced, Binding)
    }
}

struct Binding;

impl Strategy for Binding {
    fn cells(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }
}
