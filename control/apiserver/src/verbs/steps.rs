// SPDX-License-Identifier: Apache-2.0
//! Subresources that are steps of a life: binding an object to a node, finalizing it. What a step means is the kind's to
//! say.

use serde_json::{Value, json};

use super::write::check_namespace;
use super::{WriteOptions, Written, check_uid};
use crate::admission::Part;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::registry::Kind;
use crate::schema::SchemaKind;
use crate::{ApiError, value};

impl Core {
    /// Binds an object to the node that the Binding names.
    pub(crate) async fn bind(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        binding: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        check_namespace(namespace, binding)?;
        let part = Part::Binding.subresource().unwrap_or_default();
        let Some(SchemaKind {
            group,
            kind: refused,
            ..
        }) = kind.subresource(part).map(|part| &part.schema)
        else {
            return Err(ApiError::not_found(&kind.group, &kind.plural, name));
        };
        let mut errors = FieldErrors::default();
        kind.strategy.check_binding(binding, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(group, refused, name, &errors));
        }
        if name.is_empty() {
            return Err(ApiError::bad_request("Name parameter required."));
        }
        let resource = format!("{}/{part}", kind.plural);
        let change = |current: &Value| {
            check_uid(&kind.group, &resource, name, current, binding)?;
            let bound = kind.strategy.bind(current, binding);
            let bound =
                bound.map_err(|why| ApiError::conflict(&kind.group, &resource, name, &why))?;
            Ok(bound.into())
        };
        self.modify(kind, namespace, name, Part::Binding, options, &change)
            .await
    }

    /// Replaces the finalizers in an object's spec.
    pub(crate) async fn finalize(
        &self,
        kind: &Kind,
        name: &str,
        sent: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let change = |current: &Value| {
            check_uid(&kind.group, &kind.plural, name, current, sent)?;
            let mut new = current.clone();
            value::copy(&mut new, sent, "metadata.resourceVersion");
            value::copy(&mut new, sent, "spec.finalizers");
            if value::at(&new, "spec").is_none() {
                value::set(&mut new, "spec", json!({}));
            }
            Ok(new.into())
        };
        self.modify(kind, "", name, Part::Finalize, options, &change)
            .await
    }
}
