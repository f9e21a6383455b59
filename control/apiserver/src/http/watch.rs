// SPDX-License-Identifier: Apache-2.0
//! `?watch=true`: a stream of events from the watch cache, in every form an object has.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::list::{include, is_object_form};
use super::negotiate::{Form, not_acceptable};
use super::{Call, Http, endpoint, options, respond};
use crate::ApiError;
use crate::cache::{CacheEvent, CacheEventKind, EventStream, Expired};
use crate::codec::{Encoding, Format, JSON, PROTOBUF, Watcher};
use crate::core::Core;
use crate::field::FieldErrors;
use crate::metrics::EndpointLabels;
use crate::object::Object;
use crate::page::Wanted;
use crate::registry::{Kind, Storage};
use crate::table::{self, Include};

/// Shortest life of a watch whose client names none; the longest is twice that, as in kube-apiserver.
const TIMEOUT_S: u64 = 1800;
/// Time between two bookmarks of a watch that asked for them.
const BOOKMARK_S: u64 = 60;
/// Bytes of events that are put into one piece of the body.
const PIECE_BYTES: usize = 64 * 1024;
/// Says that a watch has sent every object that was there when it began.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Opens a watch.
pub(crate) async fn watch(
    http: &Http,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    name: Option<&str>,
    call: &Call,
) -> Result<Response, ApiError> {
    let (format, form) = call.accept.choose(is_object_form)?;
    let Some(media_type) = format.stream_type() else {
        return Err(not_acceptable(&[JSON, PROTOBUF]));
    };
    let mut wanted = options::wanted(&call.query, namespace)?;
    if let Some(name) = name {
        wanted
            .fields
            .requirements
            .push(knarr_api::fields::FieldRequirement {
                field: "metadata.name".to_owned(),
                operator: knarr_api::fields::FieldOperator::Equals,
                value: name.to_owned(),
            });
    }
    wanted.check(kind)?;
    let include = include(&call.query)?;
    let bookmarks = if call.query.is_true("allowWatchBookmarks") {
        Bookmarks::Wanted
    } else {
        Bookmarks::Unwanted
    };
    let version = options::version(&call.query)?;
    let timeout = options::timeout(&call.query)?
        .unwrap_or_else(|| Duration::from_secs(rand::rng().random_range(TIMEOUT_S..2 * TIMEOUT_S)));
    let initial = initial_events(call)?;
    let core = &http.core;
    // Of this form of the kind: objects of another one would have other columns.
    let Some(cache) = core.served().own_cache(kind) else {
        return Ok(respond::build(StatusCode::OK, media_type, Body::empty()));
    };
    let mut first = VecDeque::new();
    let mut opening = None;
    let mut after = 0;
    let events = match (initial, version) {
        (Initial::Skip, Some(version)) if version > 0 => match cache.watch_from(version) {
            Ok(events) => {
                // May be a version that is still to come: the watch then says nothing until it is over.
                after = version;
                events
            }
            Err(expired) => return Ok(expired_stream(format, media_type, &expired)),
        },
        (Initial::Skip, _) => {
            core.fresh().await?;
            cache.watch().1
        }
        (initial, version) => {
            match version {
                None => {
                    core.fresh().await?;
                }
                Some(version) => core.wait_for(version).await?,
            }
            let applied = core.applied();
            let (snapshot, events) = cache.watch_namespace(namespace);
            first.extend(snapshot.objects);
            if initial == Initial::SendAndMark {
                opening = Some(applied.max(snapshot.revision));
            }
            events
        }
    };
    let now = Instant::now();
    let watch = Watch {
        core: Arc::clone(core),
        kind: Arc::clone(kind),
        wanted,
        format,
        encoding: encoding(kind, format, &form),
        form,
        kept: http.kept.watcher(),
        include,
        columns: Columns::Unsent,
        first,
        opening,
        events,
        after,
        bookmarks,
        next_bookmark: now + Duration::from_secs(BOOKMARK_S),
        deadline: now + timeout,
        shutdown: call.shutdown.clone(),
        // An ended cache does not show later revisions: the client has to list again.
        ended: cache.0.ended().is_cancelled(),
        kind_ended: cache.0.ended(),
        _open: OpenWatch::new(core, endpoint::of_watch(kind, namespace, name)),
    };
    let stream = futures::stream::unfold(watch, |mut watch| async move {
        let piece = watch.next().await?;
        Some((Ok::<_, Infallible>(piece), watch))
    });
    Ok(respond::build(
        StatusCode::OK,
        media_type,
        Body::from_stream(stream),
    ))
}

/// The whole stream of a watch from before the window: clients look for its end in the stream, not in the HTTP code, as
/// kube-apiserver's watch cache answers.
fn expired_stream(format: Format, media_type: &'static str, error: &Expired) -> Response {
    let mut piece = BytesMut::new();
    write_error(format, &ApiError::expired(error.to_string()), &mut piece);
    respond::build(StatusCode::OK, media_type, Body::from(piece.freeze()))
}

/// Which encoding of its objects a watch sends.
fn encoding(kind: &Kind, format: Format, form: &Form) -> Encoding {
    match form {
        Form::Partial(version) => Encoding {
            format,
            api_version: format!("meta.k8s.io/{version}").into(),
            kind: "PartialObjectMetadata".into(),
        },
        _ => Encoding {
            format,
            api_version: kind.api_version().into(),
            kind: (&*kind.kind).into(),
        },
    }
}

/// What of the present state a watch sends first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Initial {
    Skip,
    Send,
    /// And says when that is done.
    SendAndMark,
}

fn initial_events(call: &Call) -> Result<Initial, ApiError> {
    let query = &call.query;
    let refuse = |field: &str, detail: &str| {
        let mut errors = FieldErrors::default();
        errors.forbidden(field, detail);
        Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
    };
    let rule = query.text("resourceVersionMatch");
    if !query.has("sendInitialEvents") {
        if rule.is_some() {
            return refuse(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        // Before `sendInitialEvents` was invented: no version or 0 means the present state first.
        return Ok(match query.text("resourceVersion") {
            None | Some("0") => Initial::Send,
            Some(_) => Initial::Skip,
        });
    }
    if rule != Some("NotOlderThan") {
        return refuse(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    if query.is_true("sendInitialEvents") {
        if !query.is_true("allowWatchBookmarks") {
            return refuse(
                "allowWatchBookmarks",
                "sendInitialEvents requires setting allowWatchBookmarks to true",
            );
        }
        return Ok(Initial::SendAndMark);
    }
    Ok(Initial::Skip)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bookmarks {
    Wanted,
    Unwanted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Columns {
    Unsent,
    Sent,
}

/// Counts a watch for as long as it is open.
struct OpenWatch(Arc<Core>, EndpointLabels);

impl OpenWatch {
    fn new(core: &Arc<Core>, labels: EndpointLabels) -> Self {
        core.metrics.watches.get_or_create(&labels).inc();
        Self(Arc::clone(core), labels)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.metrics.watches.get_or_create(&self.1).dec();
    }
}

struct Watch {
    core: Arc<Core>,
    kind: Arc<Kind>,
    wanted: Wanted,
    format: Format,
    form: Form,
    encoding: Encoding,
    kept: Watcher,
    include: Include,
    columns: Columns,
    /// What is there at the beginning and not yet sent.
    first: VecDeque<Arc<Object>>,
    /// The revision to name when `first` is sent.
    opening: Option<u64>,
    events: EventStream,
    /// Changes up to this version are known to the client.
    after: u64,
    bookmarks: Bookmarks,
    next_bookmark: Instant,
    deadline: Instant,
    shutdown: CancellationToken,
    /// Cancelled when this form of the kind is no longer served.
    kind_ended: CancellationToken,
    ended: bool,
    _open: OpenWatch,
}

impl Watch {
    /// The next piece of the body; `None` when the watch ends.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut piece = BytesMut::new();
        loop {
            // First, so that nothing follows what is taken below.
            let kind_ended = self.kind_ended.is_cancelled();
            self.fill_initial(&mut piece);
            if !self.fill_events(&mut piece) || (kind_ended && piece.is_empty()) {
                self.ended = true;
            }
            if !piece.is_empty() || self.ended {
                return (!piece.is_empty()).then(|| piece.freeze());
            }
            let bookmark_at = match self.bookmarks {
                Bookmarks::Wanted => self.next_bookmark,
                Bookmarks::Unwanted => self.deadline,
            };
            // What is applied has been sent already if no event follows it; read first, then check.
            let applied = self.core.applied();
            if self.kind_ended.is_cancelled() {
                // The cache may not show all that is applied.
                continue;
            }
            match self.events.try_next() {
                Ok(Some(event)) => {
                    self.write_event(&event, &mut piece);
                    continue;
                }
                Ok(None) => {}
                Err(_) => {
                    self.write_lagged(&mut piece);
                    return Some(piece.freeze());
                }
            }
            tokio::select! {
                // Waiting for events loses none when dropped.
                event = self.events.next() => match event {
                    Ok(event) => self.write_event(&event, &mut piece),
                    Err(_) => self.write_lagged(&mut piece),
                },
                // The rest only wait for a moment.
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = tokio::time::sleep_until(bookmark_at) => {
                    self.next_bookmark = Instant::now() + Duration::from_secs(BOOKMARK_S);
                    if self.bookmarks == Bookmarks::Wanted && applied >= self.after {
                        self.write_bookmark(applied, None, &mut piece);
                    }
                }
                () = self.shutdown.cancelled() => return None,
                () = self.kind_ended.cancelled() => {}
            }
        }
    }

    fn fill_initial(&mut self, piece: &mut BytesMut) {
        while piece.len() < PIECE_BYTES && !self.ended {
            let Some(object) = self.first.pop_front() else {
                break;
            };
            if self.wanted.matches(&self.kind, &object) {
                self.write("ADDED", &object, piece);
            }
        }
        if self.first.is_empty()
            && !self.ended
            && let Some(revision) = self.opening.take()
        {
            self.write_bookmark(revision, Some(INITIAL_END), piece);
        }
    }

    /// Takes the events that are there already. False when the watch has fallen behind.
    fn fill_events(&mut self, piece: &mut BytesMut) -> bool {
        while self.first.is_empty() && piece.len() < PIECE_BYTES && !self.ended {
            match self.events.try_next() {
                Ok(Some(event)) => self.write_event(&event, piece),
                Ok(None) => break,
                Err(_) => {
                    self.write_lagged(piece);
                    return false;
                }
            }
        }
        true
    }

    /// What a change means for this watch: an object can begin or cease to be selected.
    fn write_event(&mut self, event: &CacheEvent, piece: &mut BytesMut) {
        if event.revision <= self.after {
            return;
        }
        let is =
            event.kind != CacheEventKind::Deleted && self.wanted.matches(&self.kind, &event.object);
        let was = event
            .previous
            .as_ref()
            .is_some_and(|o| self.wanted.matches(&self.kind, o));
        match (was, is) {
            (false, true) => self.write("ADDED", &event.object, piece),
            (true, true) => self.write("MODIFIED", &event.object, piece),
            (true, false) if event.kind == CacheEventKind::Deleted => {
                self.write("DELETED", &event.object, piece);
            }
            (true, false) => {
                // As it was when it was last selected, with the revision of the change.
                if let Some(previous) = &event.previous {
                    let gone = Arc::new(previous.deleted_at(event.revision));
                    self.write("DELETED", &gone, piece);
                }
            }
            (false, false) => {}
        }
    }

    fn write(&mut self, event: &str, object: &Object, piece: &mut BytesMut) {
        let encoded = match self.form.clone() {
            Form::Table(version) => {
                let shown = self.core.shown(&self.kind, object);
                let row = table::row(&self.kind, &shown, self.include, version);
                let table = self.table(version, object.meta.resource_version, row);
                self.format.tree_in_frame(&table)
            }
            Form::Partial(version) => self.kept.encoded(&self.encoding, &object.bytes, || {
                let shown = self.core.shown(&self.kind, object);
                let tree = serde_json::from_slice(&shown).map_err(ApiError::internal)?;
                self.format.tree_in_frame(&table::partial(tree, version))
            }),
            // The object's own bytes.
            _ if self.format != Format::Protobuf
                && !matches!(self.kind.storage, Storage::ViewOf(_)) =>
            {
                Ok(object.bytes.clone())
            }
            _ => self.kept.encoded(&self.encoding, &object.bytes, || {
                let shown = self.core.shown(&self.kind, object);
                self.format.in_frame(&self.kind.schema, &shown)
            }),
        };
        match encoded {
            Ok(encoded) => self.format.put_frame(event, &encoded, piece),
            Err(error) => self.write_end(&error, piece),
        }
    }

    fn table(&mut self, version: &str, revision: u64, row: Value) -> Value {
        let columns = match self.columns {
            Columns::Unsent => table::columns(&self.kind),
            Columns::Sent => Value::Null,
        };
        self.columns = Columns::Sent;
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": {"resourceVersion": revision.to_string()},
            "columnDefinitions": columns,
            "rows": [row],
        })
    }

    fn write_bookmark(&mut self, revision: u64, mark: Option<&str>, piece: &mut BytesMut) {
        let mut metadata = json!({
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
        });
        if let Some(mark) = mark {
            metadata["annotations"] = json!({mark: "true"});
        }
        let object = match self.form.clone() {
            Form::Table(version) => {
                let row = json!({
                    "cells": self.kind.columns.iter().map(|_| Value::Null).collect::<Vec<_>>(),
                    "object": {
                        "kind": "PartialObjectMetadata",
                        "apiVersion": format!("meta.k8s.io/{version}"),
                        "metadata": metadata,
                    },
                });
                self.table(version, revision, row)
            }
            Form::Partial(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
            _ => json!({
                "kind": &self.kind.kind,
                "apiVersion": self.kind.api_version(),
                "metadata": metadata,
            }),
        };
        match self.format.tree_in_frame(&object) {
            Ok(object) => self.format.put_frame("BOOKMARK", &object, piece),
            Err(error) => self.write_end(&error, piece),
        }
    }

    fn write_lagged(&mut self, piece: &mut BytesMut) {
        let error = ApiError::expired("too old resource version: the watch fell behind");
        self.write_end(&error, piece);
    }

    /// The last event: the client has to list again.
    fn write_end(&mut self, error: &ApiError, piece: &mut BytesMut) {
        write_error(self.format, error, piece);
        self.ended = true;
    }
}

fn write_error(format: Format, error: &ApiError, piece: &mut BytesMut) {
    // A Status has a message in every format that a stream can have.
    if let Ok(status) = format.tree_in_frame(&respond::status_tree(error)) {
        format.put_frame("ERROR", &status, piece);
    }
}
