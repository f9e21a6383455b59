// SPDX-License-Identifier: Apache-2.0
//! The HTTP face of the API: who calls, what is asked for, is it allowed, then the verb.
//!
//! Every path goes through [`handle`]; the files below answer one family of paths each.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::codec::{Format, Kept};
use crate::core::Core;
use crate::identity::Caller;
use crate::metrics::{DurationLabels, RequestLabels};
use crate::registry::Registry;
use crate::serve::ShutdownSignal;
use crate::{ApiError, Reason};

mod auth;
mod body;
mod discovery;
mod endpoint;
mod health;
mod list;
mod logs;
mod negotiate;
mod openapi;
mod options;
mod path;
mod resource;
mod respond;
mod subresource;
mod upgrade;
mod watch;

use negotiate::Accept;
use path::{Query, ResourcePath, Target};
use upgrade::Upgrade;

/// What every request shares.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) core: Arc<Core>,
    /// Encodings of objects for watchers.
    pub(crate) kept: Arc<Kept>,
    reads: Semaphore,
    writes: Semaphore,
}

/// A request taken apart.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// What was served when the request came.
    pub(crate) registry: Arc<Registry>,
    pub(crate) query: Query,
    pub(crate) accept: Accept,
    pub(crate) content_type: String,
    pub(crate) caller: Arc<Caller>,
    pub(crate) user_agent: Option<HeaderValue>,
    /// Cancelled when the server is to end.
    pub(crate) shutdown: CancellationToken,
    pub(crate) body: body::Unread,
    /// What the connection can become after the answer.
    #[expect(dead_code, reason = "exec, attach and port-forward will take it")]
    pub(crate) upgrade: Upgrade,
}

/// What the path and the method of a request say.
struct Asked {
    /// What was served when the request came.
    registry: Arc<Registry>,
    target: Target,
    verb: &'static str,
}

/// The router: one fallback that takes every path.
pub(crate) fn router(core: Arc<Core>) -> Router {
    let http = Arc::new(Http {
        reads: Semaphore::new(core.config.reads_in_flight_max),
        writes: Semaphore::new(core.config.writes_in_flight_max),
        kept: Arc::default(),
        core,
    });
    Router::new().fallback(handle).with_state(http)
}

async fn handle(State(http): State<Arc<Http>>, request: Request<Body>) -> Response {
    let started = Instant::now();
    let (mut parts, body) = request.into_parts();
    let upgrade = Upgrade::take(&mut parts);
    let registry = http.core.registry();
    let target = Target::parse(&registry, parts.uri.path());
    let query = Query::parse(&parts.uri);
    let accept = Accept::parse(&parts.headers, &query);
    let verb = verb(&parts.method, &target, &query);
    let asked = Asked {
        registry,
        target,
        verb,
    };
    let target = &asked.target;
    let long = matches!(verb, "watch" | "log");
    let endpoint = endpoint::of(target, verb, &parts);
    let dry_run = endpoint::dry_run(&query);
    // A refusal comes in the form that the answer would have had.
    let format = accept.plain().unwrap_or(Format::Json);
    let answering = answer(&http, &parts, (body, upgrade), &asked, query, accept);
    // A request that runs into a bug takes neither its connection nor the others' requests with it.
    let outcome = AssertUnwindSafe(answering).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| {
        tracing::error!(path = parts.uri.path(), verb, "a request panicked");
        Err(ApiError::internal(
            "the request ran into a bug, see the server's log",
        ))
    });
    let mut response = outcome.unwrap_or_else(|error| respond::status(format, &error));
    let refused = matches!(
        response.status(),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    );
    if let Target::Resource(path) = target
        && !refused
        && let Some(deprecation) = path.kind.strategy.deprecation()
    {
        response = respond::warn(response, &[deprecation.to_owned()]);
    }
    let metrics = &http.core.metrics;
    let labels = RequestLabels {
        endpoint: endpoint.clone(),
        dry_run,
        code: response.status().as_u16(),
    };
    metrics.requests.get_or_create(&labels).inc();
    if !long {
        metrics
            .duration
            .get_or_create(&DurationLabels { endpoint, dry_run })
            .observe(started.elapsed().as_secs_f64());
    }
    response
}

async fn answer(
    http: &Arc<Http>,
    parts: &Parts,
    (body, upgrade): (Body, Upgrade),
    asked: &Asked,
    query: Query,
    accept: Accept,
) -> Result<Response, ApiError> {
    let Asked {
        registry,
        target,
        verb,
    } = asked;
    let verb = *verb;
    if let Target::Health(check) = target {
        return Ok(health::check(&http.core, check, &query));
    }
    if matches!(target, Target::Version) {
        return Ok(health::version(&http.core));
    }
    let caller = auth::authenticate(&http.core, parts).await?;
    auth::authorize(&caller, target, verb, parts.uri.path())?;
    let _permit = match (verb, &parts.method) {
        ("watch" | "log", _) => None,
        (_, &Method::GET | &Method::HEAD) => Some(permit(&http.reads)?),
        _ => Some(permit(&http.writes)?),
    };
    let shutdown = parts
        .extensions
        .get::<ShutdownSignal>()
        .map(|s| s.0.clone())
        .unwrap_or_default();
    let content_type = match parts.headers.get(http::header::CONTENT_TYPE) {
        // One that cannot be read is not the same as none: it is a type that is not understood.
        Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        None => String::new(),
    };
    let call = Call {
        method: parts.method.clone(),
        registry: Arc::clone(registry),
        query,
        accept,
        content_type,
        caller: Arc::new(caller),
        user_agent: parts.headers.get(http::header::USER_AGENT).cloned(),
        shutdown,
        body: body.into(),
        upgrade,
    };
    match target {
        Target::Resource(path) if path.subresource.is_some() || !path.kind.is_kept() => {
            subresource::serve(http, path, call).await
        }
        Target::Resource(path) => resource::serve(http, path, call).await,
        Target::Root => only_get(&call).map(|()| discovery::root(&call.registry)),
        Target::Api => {
            only_get(&call).and_then(|()| discovery::api(&call, http.core.config.advertised))
        }
        Target::Apis => only_get(&call).and_then(|()| discovery::apis(&call)),
        Target::Group(group) => only_get(&call).map(|()| discovery::group(group, &call)),
        Target::GroupVersion(group, version) => {
            only_get(&call).map(|()| discovery::version(group, version, &call))
        }
        Target::OpenApiV2 => only_get(&call).and_then(|()| openapi::v2(&call)),
        Target::OpenApiV3 => only_get(&call).map(|()| openapi::v3_index(&call.registry)),
        Target::OpenApiV3Of(group, version) => {
            only_get(&call).and_then(|()| openapi::v3(group, version, &call))
        }
        Target::Metrics => only_get(&call).map(|()| health::metrics(&http.core)),
        // Answered above, before anybody has to prove who they are.
        Target::Health(_) | Target::Version => Err(not_found()),
        Target::NoResource => Err(not_found()),
        Target::Definitions if discovery::reads_definitions(parts) => {
            Ok(discovery::no_definitions(http.core.applied()))
        }
        Target::Definitions | Target::Unknown => Ok(respond::no_such_path()),
    }
}

fn permit(bound: &Semaphore) -> Result<tokio::sync::SemaphorePermit<'_>, ApiError> {
    bound
        .try_acquire()
        .map_err(|_| ApiError::too_many_requests("Too many requests, please try again later.", 1))
}

fn only_get(call: &Call) -> Result<(), ApiError> {
    match call.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(not_allowed()),
    }
}

/// 404 for a resource that a served group and version does not have.
pub(crate) fn not_found() -> ApiError {
    ApiError::about(
        Reason::NotFound,
        "",
        "",
        "",
        "the server could not find the requested resource".to_owned(),
    )
}

/// 405 for a path that does not take the method.
pub(crate) fn not_allowed() -> ApiError {
    ApiError::about(
        Reason::MethodNotAllowed,
        "",
        "",
        "",
        "the server does not allow this method on the requested resource".to_owned(),
    )
}

/// The verb as authorization and metrics name it.
fn verb(method: &Method, target: &Target, query: &Query) -> &'static str {
    let named = match target {
        Target::Resource(ResourcePath {
            subresource: Some(sub),
            ..
        }) if sub == "log" && method == Method::GET => return "log",
        Target::Resource(path) => path.name.is_some(),
        _ => true,
    };
    // A watch is not counted among the requests at once, so nothing else may call itself one.
    let watches = match target {
        Target::Resource(path) => path.is_watched(query),
        _ => false,
    };
    match (method, named) {
        (&Method::GET | &Method::HEAD, _) if watches => "watch",
        (&Method::GET | &Method::HEAD, true) => "get",
        (&Method::GET | &Method::HEAD, false) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, true) => "delete",
        (&Method::DELETE, false) => "deletecollection",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests;
