// SPDX-License-Identifier: Apache-2.0
//! Requests about a part of an object (status, scale, binding, eviction, finalize, log and the streams), and objects of
//! kinds without storage, which are requests themselves.

use std::sync::Arc;

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::path::ResourcePath;
use super::resource::{decode_as, patch_object, read_patch, replace};
use super::{Call, Http, body, list, logs, not_allowed, options, respond};
use crate::admission::Part;
use crate::codec::Format;
use crate::patch;
use crate::registry::{Kind, Storage};
use crate::schema::SchemaKind;
use crate::verbs::{DeleteOptions, check_place, check_uid, scale_of};
use crate::{ApiError, Reason, value};

/// Answers a request about a subresource, or about a kind without storage.
pub(crate) async fn serve(
    http: &Arc<Http>,
    path: &ResourcePath,
    call: Call,
) -> Result<Response, ApiError> {
    let kind = &path.kind;
    let namespace = path.namespace.as_deref().unwrap_or_default();
    if !kind.is_kept() {
        if call.method != Method::POST || kind.namespaced() != path.namespace.is_some() {
            return Err(not_allowed());
        }
        return match &kind.storage {
            Storage::Binds(bound) => bind(http, bound, &kind.schema, namespace, None, call).await,
            _ => answer(kind, call).await,
        };
    }
    // A subresource has a name before it; the path was parsed so.
    let name = path.name.as_deref().unwrap_or_default();
    let Some(part) = path
        .subresource
        .as_deref()
        .and_then(|s| kind.subresource(s))
    else {
        return Err(not_allowed());
    };
    let schema = &part.schema;
    match (&*part.name, &call.method) {
        ("status", &Method::GET | &Method::HEAD) => {
            list::get(http, kind, namespace, name, &call).await
        }
        ("status", &Method::PUT) => replace(http, kind, namespace, name, Part::Status, call).await,
        ("status", &Method::PATCH) => {
            patch_object(http, kind, namespace, name, Part::Status, call).await
        }
        ("scale", &Method::GET | &Method::HEAD | &Method::PUT | &Method::PATCH) => {
            scale(http, kind, schema, namespace, name, call).await
        }
        ("binding", &Method::POST) => bind(http, kind, schema, namespace, Some(name), call).await,
        ("eviction", &Method::POST) => evict(http, kind, schema, namespace, name, call).await,
        ("finalize", &Method::PUT) => finalize(http, kind, name, call).await,
        ("log", &Method::GET | &Method::HEAD) => {
            logs::get(http, kind, namespace, name, &call).await
        }
        (stream @ ("exec" | "attach" | "portforward"), &Method::GET | &Method::POST) => {
            http.core.get(kind, namespace, name, None).await?;
            Err(ApiError::new(
                Reason::NotImplemented,
                format!(
                    "{}/{stream} is not implemented by this server yet",
                    kind.plural
                ),
            ))
        }
        _ => Err(not_allowed()),
    }
}

/// Answers a question: it goes back with its status.
async fn answer(kind: &Kind, call: Call) -> Result<Response, ApiError> {
    let schema = &kind.schema;
    let format = call.accept.plain()?;
    let validation = options::field_validation(&call.query, "CreateOptions")?;
    let json = body::as_json(schema, &call.content_type, body::read(call.body).await?)?;
    let (mut object, problems) = decode_as(schema, &json, validation)?;
    let status = kind.strategy.answer(&object, &call.caller);
    value::set(&mut object, "status", status.ok_or_else(not_allowed)?);
    if value::at(&object, "metadata").is_none() {
        object["metadata"] = json!({});
    }
    let response = respond::tree(format, StatusCode::CREATED, &object);
    Ok(respond::warn(response, &problems.0))
}

async fn scale(
    http: &Http,
    kind: &Kind,
    schema: &SchemaKind,
    namespace: &str,
    name: &str,
    call: Call,
) -> Result<Response, ApiError> {
    let format = call.accept.plain()?;
    let written = match call.method {
        Method::PUT => {
            let options = options::write(&call, "UpdateOptions")?;
            let validation = options::field_validation(&call.query, "UpdateOptions")?;
            let json = body::as_json(schema, &call.content_type, body::read(call.body).await?)?;
            let (mut sent, _) = decode_as(schema, &json, validation)?;
            // A wrong name is told before it matters whether the object is there.
            check_place(kind, namespace, name, &mut sent)?;
            http.core
                .modify_scale(kind, namespace, name, &options, &|current| {
                    check_uid(&kind.group, &kind.plural, name, current, &sent)?;
                    Ok(sent.clone().into())
                })
                .await?
        }
        Method::PATCH => {
            let options = options::write(&call, "PatchOptions")?;
            let change = read_patch(&call.content_type, call.body).await?;
            http.core
                .modify_scale(kind, namespace, name, &options, &|current| {
                    let mut scale = patch::apply_to(schema, current, &change)?.object;
                    check_place(kind, namespace, name, &mut scale)?;
                    Ok(scale.into())
                })
                .await?
        }
        _ => {
            let object = http.core.get(kind, namespace, name, None).await?;
            let scale = scale_of(schema, &object.value());
            return Ok(respond::tree(format, StatusCode::OK, &scale));
        }
    };
    let object: Value = serde_json::from_slice(&written.bytes).map_err(ApiError::internal)?;
    let response = respond::tree(format, StatusCode::OK, &scale_of(schema, &object));
    Ok(respond::warn(response, &written.warnings))
}

/// Binds an object of `kind`.
async fn bind(
    http: &Http,
    kind: &Kind,
    schema: &SchemaKind,
    namespace: &str,
    name: Option<&str>,
    call: Call,
) -> Result<Response, ApiError> {
    let format = call.accept.plain()?;
    let options = options::write(&call, "CreateOptions")?;
    let validation = options::field_validation(&call.query, "CreateOptions")?;
    let json = body::as_json(schema, &call.content_type, body::read(call.body).await?)?;
    let (binding, _) = decode_as(schema, &json, validation)?;
    let sent = value::text(&binding, "metadata.name");
    let name = match name {
        Some(name) => {
            check_sent_name(schema, sent, name)?;
            name
        }
        None => sent,
    };
    let written = http
        .core
        .bind(kind, namespace, name, &binding, &options)
        .await?;
    let response = done(format, StatusCode::CREATED);
    Ok(respond::warn(response, &written.warnings))
}

/// What is sent to a subresource names no other object than the path.
fn check_sent_name(schema: &SchemaKind, sent: &str, name: &str) -> Result<(), ApiError> {
    if sent.is_empty() || sent == name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "name in URL does not match name in {} object",
        schema.kind
    )))
}

/// Evicts an object. There are no disruption budgets that could forbid it, so it is a deletion.
async fn evict(
    http: &Http,
    kind: &Kind,
    schema: &SchemaKind,
    namespace: &str,
    name: &str,
    call: Call,
) -> Result<Response, ApiError> {
    let format = call.accept.plain()?;
    let validation = options::field_validation(&call.query, "CreateOptions")?;
    let mut options = options::write(&call, "CreateOptions")?;
    let json = body::as_json(schema, &call.content_type, body::read(call.body).await?)?;
    let (eviction, _) = decode_as(schema, &json, validation)?;
    check_sent_name(schema, value::text(&eviction, "metadata.name"), name)?;
    let deletion = match value::at(&eviction, "deleteOptions") {
        Some(sent) => {
            let mut sent: Value = sent.clone();
            for named in ["kind", "apiVersion"] {
                value::remove(&mut sent, named);
            }
            let json = serde_json::to_vec(&sent).map_err(ApiError::internal)?;
            options::delete(&call.query, &json.into(), &mut options)?
        }
        None => DeleteOptions::default(),
    };
    let part = Part::Eviction;
    let core = &http.core;
    let evicted = core
        .delete(kind, namespace, name, part, &deletion, &options)
        .await?;
    let response = done(format, StatusCode::CREATED);
    Ok(respond::warn(response, &evicted.warnings))
}

async fn finalize(http: &Http, kind: &Kind, name: &str, call: Call) -> Result<Response, ApiError> {
    let format = call.accept.plain()?;
    let options = options::write(&call, "UpdateOptions")?;
    let validation = options::field_validation(&call.query, "UpdateOptions")?;
    let json = body::as_json(
        &kind.schema,
        &call.content_type,
        body::read(call.body).await?,
    )?;
    let (mut sent, _) = decode_as(&kind.schema, &json, validation)?;
    check_place(kind, "", name, &mut sent)?;
    let written = http.core.finalize(kind, name, &sent, &options).await?;
    let kind = &kind.schema;
    let response = respond::object(format, StatusCode::OK, kind, &written.bytes)?;
    Ok(respond::warn(response, &written.warnings))
}

fn done(format: Format, code: StatusCode) -> Response {
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "code": code.as_u16(),
    });
    respond::tree(format, code, &body)
}
