// SPDX-License-Identifier: Apache-2.0
//! The scale subresource: an `autoscaling/v1` Scale as a view of `spec.replicas`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use knarr_api::labels::Selector;
use serde_json::{Value, json};

use super::write::{Change, Next};
use super::{WriteOptions, Written};
use crate::admission::Part;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::registry::{Kind, Subresource, group_version};
use crate::schema::{self, SchemaKind};
use crate::{ApiError, value};

/// The Scale of an object.
pub(crate) fn scale_of(schema: &SchemaKind, object: &Value) -> Value {
    let mut metadata = json!({});
    for kept in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        if let Some(found) = object["metadata"].get(kept) {
            metadata[kept] = found.clone();
        }
    }
    let selector: Option<LabelSelector> =
        value::at(object, "spec.selector").and_then(|s| serde_json::from_value(s.clone()).ok());
    let selector = Selector::from_object(selector.as_ref())
        .map(|s| s.to_string())
        .unwrap_or_default();
    let mut spec = json!({});
    if let Some(replicas) = value::int(object, "spec.replicas").filter(|r| *r != 0) {
        spec["replicas"] = replicas.into();
    }
    json!({
        "kind": schema.kind,
        "apiVersion": group_version(&schema.group, &schema.version),
        "metadata": metadata,
        "spec": spec,
        "status": {
            "replicas": value::int(object, "status.replicas").unwrap_or(0),
            "selector": selector,
        },
    })
}

impl Core {
    /// Changes the number of replicas through a change of the Scale. Of the Scale only that, its version and its uid
    /// are looked at: that it has the name and the namespace of the request is the caller's to check. Answers with the
    /// object that is scaled.
    pub(crate) async fn modify_scale(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        options: &WriteOptions,
        change: &Change<'_>,
    ) -> Result<Written, ApiError> {
        let part = Part::Scale.subresource().and_then(|s| kind.subresource(s));
        let Some(Subresource { schema, .. }) = part else {
            return Err(ApiError::not_found(&kind.group, &kind.plural, name));
        };
        let scaled = |current: &Value| {
            let Next {
                object: scale,
                warnings,
            } = change(&scale_of(schema, current))?;
            let mut errors = FieldErrors::default();
            schema::check_minimums(schema, &scale, &mut errors);
            if !errors.is_empty() {
                return Err(ApiError::invalid(
                    &schema.group,
                    &schema.kind,
                    name,
                    &errors,
                ));
            }
            let replicas = value::int(&scale, "spec.replicas").unwrap_or(0);
            let mut new = current.clone();
            value::set(&mut new, "spec.replicas", replicas);
            value::copy(&mut new, &scale, "metadata.resourceVersion");
            value::copy(&mut new, &scale, "metadata.uid");
            Ok(Next {
                object: new,
                warnings,
            })
        };
        self.modify(kind, namespace, name, Part::Scale, options, &scaled)
            .await
    }
}
