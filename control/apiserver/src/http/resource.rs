// SPDX-License-Identifier: Apache-2.0
//! Requests about stored resources: from method and path to the verb.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;

use super::negotiate::Form;
use super::options::{FieldValidation, Problems};
use super::path::{PathForm, ResourcePath};
use super::{Call, Http, body, list, not_allowed, options, respond, watch};
use crate::admission::Part;
use crate::patch;
use crate::registry::{DeletedAnswer, Kind};
use crate::schema::SchemaKind;
use crate::verbs::{Gone, Next};
use crate::{ApiError, Patch, Reason};

/// Objects of a collection that are deleted at once: so many share a commit.
const DELETIONS_AT_ONCE: usize = 64;
/// What a PATCH may be written in.
const PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";
/// The same for a kind that is not built in.
const CUSTOM_PATCH_TYPES: &str = "application/json-patch+json, application/merge-patch+json";

/// Answers a request about a resource.
pub(crate) async fn serve(
    http: &Arc<Http>,
    path: &ResourcePath,
    call: Call,
) -> Result<Response, ApiError> {
    let kind = &path.kind;
    let namespace = path.namespace.as_deref();
    let place = namespace.unwrap_or_default();
    let watching = path.is_watched(&call.query);
    match (&call.method, path.name.as_deref()) {
        (&Method::GET | &Method::HEAD, name) if watching => {
            watch::watch(http, kind, namespace, name, &call).await
        }
        _ if path.form == PathForm::Watch => Err(not_allowed()),
        (&Method::GET | &Method::HEAD, None) => list::list(http, kind, namespace, &call).await,
        (&Method::GET | &Method::HEAD, Some(name)) => {
            list::get(http, kind, place, name, &call).await
        }
        // Objects of a namespace are created in one.
        (&Method::POST, None) if kind.namespaced() == namespace.is_some() => {
            create(http, kind, place, call).await
        }
        (&Method::PUT, Some(name)) => replace(http, kind, place, name, Part::Main, call).await,
        (&Method::PATCH, Some(name)) => {
            patch_object(http, kind, place, name, Part::Main, call).await
        }
        (&Method::DELETE, Some(name)) => delete(http, kind, place, name, call).await,
        (&Method::DELETE, None)
            if kind.strategy.deletes_collections() && kind.namespaced() == namespace.is_some() =>
        {
            delete_collection(http, kind, namespace, call).await
        }
        _ => Err(not_allowed()),
    }
}

async fn create(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    call: Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(list::is_object_form)?;
    let options = options::write(&call, "CreateOptions")?;
    let validation = options::field_validation(&call.query, "CreateOptions")?;
    let json = body::as_json(
        &kind.schema,
        &call.content_type,
        body::read(call.body).await?,
    )?;
    let mut problems = Problems::default();
    let object = body::decode(&kind.schema, &json, validation, &mut problems)?;
    let next = Next {
        object,
        warnings: problems.0,
    };
    let written = http.core.create(kind, namespace, next, &options).await?;
    let response = list::one(
        kind,
        format,
        &form,
        StatusCode::CREATED,
        written.bytes,
        &call.query,
    )?;
    Ok(respond::warn(response, &written.warnings))
}

/// `PUT` of an object or its status.
pub(crate) async fn replace(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    name: &str,
    part: Part,
    call: Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(list::is_object_form)?;
    let options = options::write(&call, "UpdateOptions")?;
    let validation = options::field_validation(&call.query, "UpdateOptions")?;
    let json = body::as_json(
        &kind.schema,
        &call.content_type,
        body::read(call.body).await?,
    )?;
    let mut problems = Problems::default();
    let object = body::decode(&kind.schema, &json, validation, &mut problems)?;
    let next = Next {
        object,
        warnings: problems.0,
    };
    let written = http
        .core
        .replace(kind, namespace, name, part, next, &options)
        .await?;
    let response = list::one(
        kind,
        format,
        &form,
        StatusCode::OK,
        written.bytes,
        &call.query,
    )?;
    Ok(respond::warn(response, &written.warnings))
}

/// `PATCH` of an object or its status.
pub(crate) async fn patch_object(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    name: &str,
    part: Part,
    call: Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(list::is_object_form)?;
    let options = options::write(&call, "PatchOptions")?;
    let validation = options::field_validation(&call.query, "PatchOptions")?;
    let change = read_patch(&call.content_type, call.body).await?;
    if kind.custom.is_some() && matches!(change, Patch::Strategic(_)) {
        // As kube-apiserver does for custom resources; kubectl sends a merge patch then. The in-process client may patch
        // metadata this way.
        return Err(body::unsupported(CUSTOM_PATCH_TYPES));
    }
    let written = http
        .core
        .modify(kind, namespace, name, part, &options, &|current| {
            let patched = patch::apply(kind, current, &change)?;
            let mut problems = Problems::default();
            problems.add(patched.problems, validation, "")?;
            Ok(Next {
                object: patched.object,
                warnings: problems.0,
            })
        })
        .await?;
    let response = list::one(
        kind,
        format,
        &form,
        StatusCode::OK,
        written.bytes,
        &call.query,
    )?;
    Ok(respond::warn(response, &written.warnings))
}

/// Reads a patch of one of the three kinds.
pub(crate) async fn read_patch(content_type: &str, sent: body::Unread) -> Result<Patch, ApiError> {
    let kind = body::media_type(content_type);
    let make: fn(Value) -> Patch = match kind {
        "application/json-patch+json" => Patch::Json,
        "application/merge-patch+json" => Patch::Merge,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => {
            return Err(ApiError::new(
                Reason::UnsupportedMediaType,
                format!(
                    "server-side apply ({kind}) is not supported by this server yet; apply on the client: `kubectl apply` without --server-side, `helm` with --server-side=false - accepted media types include: {PATCH_TYPES}"
                ),
            ));
        }
        _ => return Err(body::unsupported(PATCH_TYPES)),
    };
    let bytes = body::read(sent).await?;
    let tree = serde_json::from_slice(&bytes)
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    Ok(make(tree))
}

async fn delete(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    name: &str,
    call: Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(list::is_object_form)?;
    let mut options = options::asked(&call);
    let json = body::as_json(
        &options::DELETE_OPTIONS,
        &call.content_type,
        body::read(call.body).await?,
    )?;
    let deletion = options::delete(&call.query, &json, &mut options)?;
    let deleted = http
        .core
        .delete(kind, namespace, name, Part::Main, &deletion, &options)
        .await?;
    // Kinds whose last state is worth seeing answer with it, and so does a deletion that has only begun.
    let shows = kind.strategy.deleted_answer() == DeletedAnswer::Object;
    let response = if deleted.gone == Some(Gone::Later) || shows {
        list::one(
            kind,
            format,
            &form,
            StatusCode::OK,
            deleted.bytes,
            &call.query,
        )?
    } else {
        respond::success(
            format,
            StatusCode::OK,
            &kind.group,
            &kind.plural,
            name,
            &deleted.uid,
        )
    };
    Ok(respond::warn(response, &deleted.warnings))
}

/// Deletes what a list shows at the beginning. The objects are taken from the cache all at once, so that no write, its own
/// included, can make the rest of the list too old. Answers with the objects as they were listed, like kube-apiserver.
async fn delete_collection(
    http: &Http,
    kind: &Kind,
    namespace: Option<&str>,
    call: Call,
) -> Result<Response, ApiError> {
    let format = call.accept.plain()?;
    let mut options = options::asked(&call);
    let json = body::as_json(
        &options::DELETE_OPTIONS,
        &call.content_type,
        body::read(call.body).await?,
    )?;
    let deletion = options::delete(&call.query, &json, &mut options)?;
    let mut page = list::page(http, kind, namespace, &call.query).await?;
    let warnings = Mutex::new(BTreeSet::new());
    page.objects = futures::stream::iter(std::mem::take(&mut page.objects))
        .map(|object| async {
            let meta = &object.meta;
            let (namespace, name) = (&meta.namespace, &meta.name);
            let deleted = http
                .core
                .delete(kind, namespace, name, Part::Main, &deletion, &options)
                .await;
            match deleted {
                Ok(deleted) => {
                    let mut all = warnings.lock();
                    all.extend(deleted.warnings);
                    drop(all);
                    Ok(Some(object))
                }
                // Somebody else was faster.
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        })
        .buffered(DELETIONS_AT_ONCE)
        .try_filter_map(async |object| Ok(object))
        .try_collect()
        .await?;
    let response = list::encode(http, kind, format, &Form::Plain, &page, &call.query)?;
    let warnings = warnings.into_inner();
    let warnings: Vec<String> = warnings.into_iter().collect();
    Ok(respond::warn(response, &warnings))
}

/// What a request's `fieldValidation` means, for the subresources.
pub(crate) fn decode_as(
    kind: &SchemaKind,
    json: &Bytes,
    validation: FieldValidation,
) -> Result<(Value, Problems), ApiError> {
    let mut problems = Problems::default();
    let object = body::decode(kind, json, validation, &mut problems)?;
    Ok((object, problems))
}
