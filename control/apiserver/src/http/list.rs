// SPDX-License-Identifier: Apache-2.0
//! `GET` of one object and of lists, in every form.

use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::negotiate::Form;
use super::path::Query;
use super::{Call, Http, options, respond};
use crate::codec::Format;
use crate::object::Object;
use crate::page::{AsOf, Page};
use crate::registry::Kind;
use crate::table::{self, Include};
use crate::{ApiError, value};

/// One object.
pub(crate) async fn get(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    name: &str,
    call: &Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(is_object_form)?;
    let at_least = options::version(&call.query)?;
    let object = http.core.get(kind, namespace, name, at_least).await?;
    let bytes = http.core.shown(kind, &object);
    one(kind, format, &form, StatusCode::OK, bytes, &call.query)
}

/// The forms in which objects and lists are answered.
pub(crate) fn is_object_form(form: &Form) -> bool {
    matches!(form, Form::Table(_) | Form::Partial(_))
}

/// One object's bytes in the form that was asked for.
pub(crate) fn one(
    kind: &Kind,
    format: Format,
    form: &Form,
    code: StatusCode,
    bytes: Bytes,
    query: &Query,
) -> Result<Response, ApiError> {
    match form {
        Form::Table(version) => {
            let tree: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let head = json!({"resourceVersion": value::text(&tree, "metadata.resourceVersion")});
            let row = table::row(kind, &bytes, include(query)?, version);
            let body = table_of(kind, version, head, vec![row]);
            Ok(respond::tree(format, code, &body))
        }
        Form::Partial(version) => {
            let tree = serde_json::from_slice(&bytes).unwrap_or_default();
            Ok(respond::tree(format, code, &table::partial(tree, version)))
        }
        _ => respond::object(format, code, &kind.schema, &bytes),
    }
}

/// How much of each object the rows of a table carry.
pub(crate) fn include(query: &Query) -> Result<Include, ApiError> {
    match query.text("includeObject") {
        None | Some("Metadata") => Ok(Include::Metadata),
        Some("Object") => Ok(Include::Object),
        Some("None") => Ok(Include::None),
        Some(other) => Err(ApiError::bad_request(format!(
            "unrecognized includeObject value: {other:?}"
        ))),
    }
}

fn table_of(kind: &Kind, version: &str, head: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": head,
        "columnDefinitions": table::columns(kind),
        "rows": rows,
    })
}

/// The page of a list that a request is about.
pub(crate) async fn page(
    http: &Http,
    kind: &Kind,
    namespace: Option<&str>,
    query: &Query,
) -> Result<Page, ApiError> {
    let wanted = options::wanted(query, namespace)?;
    let limit = options::limit(query)?;
    let token = query.text("continue");
    let as_of = if token.is_some() {
        if query.text("resourceVersion").is_some_and(|v| v != "0") {
            return Err(ApiError::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        AsOf::Any
    } else {
        options::as_of(query)?
    };
    http.core.list(kind, &wanted, as_of, limit, token).await
}

/// A list.
pub(crate) async fn list(
    http: &Http,
    kind: &Kind,
    namespace: Option<&str>,
    call: &Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(is_object_form)?;
    let page = page(http, kind, namespace, &call.query).await?;
    encode(http, kind, format, &form, &page, &call.query)
}

/// A page in the form that was asked for.
pub(crate) fn encode(
    http: &Http,
    kind: &Kind,
    format: Format,
    form: &Form,
    page: &Page,
    query: &Query,
) -> Result<Response, ApiError> {
    let mut head = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        head["continue"] = next.as_str().into();
    }
    if let Some(remaining) = page.remaining {
        head["remainingItemCount"] = remaining.into();
    }
    let shown = |object: &Arc<Object>| http.core.shown(kind, object);
    match form {
        Form::Table(version) => {
            let include = include(query)?;
            let rows = page
                .objects
                .iter()
                .map(|o| table::row(kind, &shown(o), include, version))
                .collect();
            let body = table_of(kind, version, head, rows);
            Ok(respond::tree(format, StatusCode::OK, &body))
        }
        Form::Partial(version) => {
            let items: Vec<Value> = page
                .objects
                .iter()
                .map(|o| {
                    let tree = serde_json::from_slice(&shown(o)).unwrap_or_default();
                    table::partial(tree, version)
                })
                .collect();
            let body = json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": head,
                "items": items,
            });
            Ok(respond::tree(format, StatusCode::OK, &body))
        }
        _ => {
            let items = page.objects.iter().map(shown);
            let list = format.list(&kind.schema, &head, items)?;
            Ok(respond::pieces(format, list))
        }
    }
}
