// SPDX-License-Identifier: Apache-2.0
//! Kinds that are not built in: made while the server runs, from names and a schema.
//!
//! Everything but the names and the schema is as apiextensions-apiserver (v1.37) has it for custom resources that say no
//! more: no defaults, no validation besides types, the columns `Name` and `Age`.

use std::sync::Arc;

use knarr_schema::{CustomSchema, Schemas};
use serde_json::Value;

use crate::registry::{Column, Generation, Kind, Scope, Strategy, Subresource};
use crate::schema::SchemaKind;
use crate::{table, value};

/// A kind to be served beside the built-in ones.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomKind {
    /// Group, version, kind, and what its objects look like.
    pub schema: CustomSchema,
    /// Plural resource name.
    pub plural: String,
    /// Names that clients may write for it.
    pub short_names: Vec<String>,
    /// Where its objects live.
    pub scope: CustomScope,
    /// How its status is written.
    pub status: CustomStatus,
}

/// Where the objects of a custom kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomScope {
    /// In namespaces.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// How the status of a custom kind is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomStatus {
    /// With the rest of the object.
    PartOfObject,
    /// By the subresource `status`, and no other way.
    Subresource,
}

impl From<CustomKind> for Kind {
    fn from(custom: CustomKind) -> Self {
        let CustomKind {
            schema,
            plural,
            short_names,
            scope,
            status,
        } = custom;
        let CustomSchema {
            group,
            version,
            kind,
            ..
        } = schema.clone();
        let scope = match scope {
            CustomScope::Namespaced => Scope::Namespaced,
            CustomScope::Cluster => Scope::Cluster,
        };
        let whole = SchemaKind::of(
            &Schemas::with_custom([&schema]),
            group.clone(),
            version.clone(),
            kind.clone(),
        );
        let subresources = match status {
            CustomStatus::PartOfObject => Vec::new(),
            CustomStatus::Subresource => vec![Subresource::status_of(whole.clone())],
        };
        Self {
            short_names: short_names.into_iter().map(Into::into).collect(),
            generation: Generation::AllButMetadata,
            subresources,
            columns: vec![Column::NAME, Column::AGE],
            schema: whole,
            custom: Some(Arc::new(schema)),
            ..Self::new(group, version, kind, plural, scope, Custom { status })
        }
    }
}

struct Custom {
    status: CustomStatus,
}

impl Strategy for Custom {
    fn prepare_create(&self, object: &mut Value) {
        match self.status {
            CustomStatus::Subresource => drop(value::remove(object, "status")),
            CustomStatus::PartOfObject => {}
        }
    }

    /// Everything but the status stays, as in apiextensions (v1.37), `statusStrategy`.
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        let status = value::remove(new, "status");
        new.clone_from(old);
        value::remove(new, "status");
        if let Some(status) = status {
            value::set(new, "status", status);
        }
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![table::name(object), table::age(object)]
    }
}
