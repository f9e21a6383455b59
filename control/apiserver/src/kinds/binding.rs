// SPDX-License-Identifier: Apache-2.0
//! Binding: not stored; creating one binds the pod that it names.

use std::sync::Arc;

use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::{Kind, Scope, Storage, Strategy};
use crate::value;

/// Bindings of the objects of a kind.
pub(super) fn kind(of: Arc<Kind>) -> Kind {
    Kind {
        storage: Storage::Binds(of),
        ..Kind::new("", "v1", "Binding", "bindings", Scope::Namespaced, Binding)
    }
}

/// What is wrong with a Binding.
pub(super) fn check(binding: &Value, errors: &mut FieldErrors) {
    let target = value::text(binding, "target.kind");
    if !matches!(target, "" | "Node") {
        errors.not_supported("target.kind", target, &["Node", "<empty>"]);
    }
    if node(binding).is_empty() {
        errors.required("target.name", "");
    }
}

/// The node that a Binding names; empty for none.
pub(super) fn node(binding: &Value) -> &str {
    value::text(binding, "target.name")
}

struct Binding;

impl Strategy for Binding {}
