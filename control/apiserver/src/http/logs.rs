// SPDX-License-Identifier: Apache-2.0
//! `GET pods/NAME/log`: picks the container, checks the parameters, passes the bytes on.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use knarr_api::stream::Frame;
use serde_json::Value;

use super::path::Query;
use super::{Call, Http, respond};
use crate::field::FieldErrors;
use crate::kinds::container_names;
use crate::registry::Kind;
use crate::streams::{LogOptions, StreamRequest, StreamTarget, refusal};
use crate::{ApiError, clock, value};

/// The pod annotation that names the container to take where none is asked for. kubectl uses it as well.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Opens a log.
pub(crate) async fn get(
    http: &Http,
    kind: &Kind,
    namespace: &str,
    name: &str,
    call: &Call,
) -> Result<Response, ApiError> {
    let options = options(&call.query)?;
    let pod = http.core.get(kind, namespace, name, None).await?.value();
    let container = container(&pod, name, call.query.text("container"))?;
    let node = value::text(&pod, "spec.nodeName");
    if node.is_empty() {
        // Nothing has run anywhere, so there is nothing to read.
        return Ok(respond::text(StatusCode::OK, Bytes::new()));
    }
    let target = StreamTarget {
        namespace: namespace.to_owned(),
        pod: name.to_owned(),
        uid: value::text(&pod, "metadata.uid").to_owned(),
        node: node.to_owned(),
    };
    let request = StreamRequest::Logs {
        container: container.to_owned(),
        options,
    };
    let mut opened = http.core.config.streams.open(target, request).await?;
    // A refusal comes before any byte; taken here, it becomes the request's Status instead of text.
    let first = match opened.received.recv().await {
        Some(Frame::Error(error)) => return Err(refusal(error)),
        first => first,
    };
    let shutdown = call.shutdown.clone();
    let frames = futures::stream::unfold((first, opened), |(first, mut opened)| async move {
        let frame = match first {
            Some(first) => first,
            None => opened.received.recv().await?,
        };
        Some((frame, (None, opened)))
    });
    let stream = frames
        .filter_map(|frame| async { piece(frame) })
        .map(Ok::<_, std::convert::Infallible>)
        .take_until(async move { shutdown.cancelled().await });
    Ok(respond::build(
        StatusCode::OK,
        "text/plain",
        Body::from_stream(stream),
    ))
}

/// What a client reads of a frame; an error is written to it as text.
fn piece(frame: Frame) -> Option<Bytes> {
    match frame {
        Frame::Data { bytes, .. } => Some(bytes),
        Frame::Error(error) => Some(Bytes::from(format!("{}\n", refusal(error)))),
        Frame::Started | Frame::HalfClose { .. } | Frame::Resize { .. } => None,
    }
}

/// The container that is meant, or Kubernetes' refusal.
fn container<'a>(pod: &'a Value, name: &str, asked: Option<&'a str>) -> Result<&'a str, ApiError> {
    let (init, main, ephemeral) = container_names(pod);
    if let Some(asked) = asked {
        if init
            .iter()
            .chain(&main)
            .chain(&ephemeral)
            .any(|c| *c == asked)
        {
            return Ok(asked);
        }
        return Err(ApiError::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    if let ([only], true, true) = (main.as_slice(), init.is_empty(), ephemeral.is_empty()) {
        return Ok(only);
    }
    let marked = value::at(pod, "metadata.annotations")
        .and_then(|a| a.get(DEFAULT_CONTAINER))
        .and_then(Value::as_str)
        .filter(|c| main.contains(c));
    if let Some(marked) = marked {
        return Ok(marked);
    }
    let mut message = format!(
        "a container name must be specified for pod {name}, choose one of: [{}]",
        main.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(
            " or one of the init containers: [{}]",
            init.join(" ")
        ));
    }
    if !ephemeral.is_empty() {
        message.push_str(&format!(
            " or one of the ephemeral containers: [{}]",
            ephemeral.join(" ")
        ));
    }
    Err(ApiError::bad_request(message))
}

fn options(query: &Query) -> Result<LogOptions, ApiError> {
    let mut errors = FieldErrors::default();
    let mut number = |name: &str, least: i64, rule: &str| -> Result<Option<i64>, ApiError> {
        let Some(text) = query.text(name) else {
            return Ok(None);
        };
        let parsed: i64 = text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })?;
        if parsed < least {
            errors.invalid(name, parsed, rule);
        }
        Ok(Some(parsed))
    };
    let tail = number("tailLines", 0, "must be greater than or equal to 0")?;
    let limit = number("limitBytes", 1, "must be greater than 0")?;
    let seconds = number("sinceSeconds", 1, "must be greater than 0")?;
    let time = match query.text("sinceTime") {
        Some(text) => Some(text.parse::<Timestamp>().map_err(|_| {
            ApiError::bad_request(format!(
                "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"
            ))
        })?),
        None => None,
    };
    if seconds.is_some() && time.is_some() {
        errors.forbidden(
            "sinceSeconds",
            "at most one of `sinceTime` or `sinceSeconds` may be specified",
        );
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", "", &errors));
    }
    let unsigned = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let since_ms = match (seconds, time) {
        (Some(seconds), _) => Some(clock::now().as_millisecond() - seconds.saturating_mul(1000)),
        (None, time) => time.map(|t| t.as_millisecond()),
    };
    Ok(LogOptions {
        follow: query.is_true("follow"),
        previous: query.is_true("previous"),
        timestamps: query.is_true("timestamps"),
        tail_lines: unsigned(tail),
        limit_bytes: unsigned(limit),
        since_ms,
    })
}
