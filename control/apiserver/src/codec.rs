// SPDX-License-Identifier: Apache-2.0
//! One codec for everything that goes over the network: objects, lists, the events of a watch and `Status`, as JSON,
//! YAML or Kubernetes' protobuf, in both directions.
//!
//! An object is kept as JSON, which is encoded once. Every other encoding is made from that, by the schema of its kind,
//! when a client asks for it; what watchers ask for is kept (`kept.rs`). Which encoding a client wants is negotiated in
//! `http/negotiate.rs`. What the bytes mean is checked in `schema.rs`.

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use knarr_schema::{
    ENVELOPE_END, EncodeError, SchemaRef, Schemas, envelope_start, list_item, put_watch_frame,
    seal_envelope,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::registry::group_version;
use crate::schema::{self, SchemaKind};
use crate::{ApiError, Reason};

mod kept;
mod pieces;
mod yaml;

pub(crate) use kept::{Encoding, Kept, Watcher};
pub(crate) use pieces::Pieces;

/// JSON's media type.
pub(crate) const JSON: &str = "application/json";
/// YAML's media type.
pub(crate) const YAML: &str = "application/yaml";
/// The media type of Kubernetes' protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The most bytes that a body may have, as kube-apiserver's `MaxRequestBodyBytes`.
pub(crate) const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How something is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// On one line.
    Json,
    /// Indented, for people.
    PrettyJson,
    Yaml,
    Protobuf,
}

impl Format {
    /// The format of a request's body; `None` where it is none of these.
    pub(crate) fn of_body(media_type: &str) -> Option<Self> {
        match media_type {
            "" | JSON | "*/*" => Some(Self::Json),
            YAML | "application/x-yaml" | "text/yaml" => Some(Self::Yaml),
            PROTOBUF => Some(Self::Protobuf),
            _ => None,
        }
    }

    /// The media type of an answer.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json | Self::PrettyJson => JSON,
            Self::Yaml => YAML,
            Self::Protobuf => PROTOBUF,
        }
    }

    /// The media type of a watch; `None` for an encoding without a mark between two events.
    pub(crate) fn stream_type(self) -> Option<&'static str> {
        match self {
            Self::Json | Self::PrettyJson => Some(JSON),
            Self::Yaml => None,
            Self::Protobuf => Some("application/vnd.kubernetes.protobuf;stream=watch"),
        }
    }

    /// A request's body as JSON. A protobuf body is read as `kind`.
    pub(crate) fn decode(self, kind: &SchemaKind, body: Bytes) -> Result<Bytes, ApiError> {
        match self {
            Self::Json | Self::PrettyJson => Ok(body),
            Self::Protobuf if body.is_empty() => Ok(body),
            Self::Protobuf => schema::protobuf_as_json(kind, &body),
            Self::Yaml => {
                let tree = yaml::parse(&body).map_err(|error| {
                    ApiError::bad_request(format!(
                        "the object provided is unrecognized: error converting YAML to JSON: yaml: {error}"
                    ))
                })?;
                serde_json::to_vec(&tree)
                    .map(Bytes::from)
                    .map_err(ApiError::internal)
            }
        }
    }

    /// A whole answer from a tree: an object of a kind that is only sent, a `Status`, a table. Kubernetes ends a line
    /// of JSON that it does not indent, and leaves the end of indented JSON open.
    pub(crate) fn tree(self, tree: &Value) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::Json => {
                let mut json = serde_json::to_vec(tree).map_err(ApiError::internal)?;
                json.push(b'\n');
                Ok(json)
            }
            Self::PrettyJson => serde_json::to_vec_pretty(tree).map_err(ApiError::internal),
            Self::Yaml => Ok(yaml::text(tree).into_bytes()),
            Self::Protobuf => sealed(tree),
        }
    }

    /// A whole answer from an object's JSON.
    pub(crate) fn object(self, kind: &SchemaKind, json: &Bytes) -> Result<Bytes, ApiError> {
        match self {
            Self::Json => {
                let mut line = BytesMut::with_capacity(json.len() + 1);
                line.extend_from_slice(json);
                line.extend_from_slice(b"\n");
                Ok(line.freeze())
            }
            Self::Protobuf => self.in_frame(kind, json),
            Self::PrettyJson | Self::Yaml => {
                let tree: Value = serde_json::from_slice(json).map_err(ApiError::internal)?;
                self.tree(&tree).map(Bytes::from)
            }
        }
    }

    /// A whole list from the JSON of its items, without one copy of it all.
    pub(crate) fn list(
        self,
        kind: &SchemaKind,
        metadata: &Value,
        items: impl Iterator<Item = Bytes>,
    ) -> Result<Pieces, ApiError> {
        let api_version = group_version(&kind.group, &kind.version);
        let list_kind = format!("{}List", kind.kind);
        let mut pieces = Pieces::default();
        match self {
            Self::Json => {
                pieces.put(
                    format!(
                        "{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
                    )
                    .as_bytes(),
                );
                for (index, item) in items.enumerate() {
                    if index > 0 {
                        pieces.put(b",");
                    }
                    pieces.put_whole(item);
                }
                pieces.put(b"]}\n");
            }
            Self::Protobuf => {
                let head = json!({"metadata": metadata});
                let schema = schema::of(&PARTIAL_LIST)?;
                let head = schema.encode_protobuf_value(&head).map_err(unsendable)?;
                let schema = message(kind)?;
                let mut parts = vec![head];
                for item in items {
                    let message = schema.encode_protobuf(&item).map_err(unsendable)?;
                    parts.push(list_item(&message));
                }
                // The envelope says first how long the list is.
                let length = parts.iter().map(Vec::len).sum();
                pieces.put(&envelope_start(&api_version, &list_kind, length));
                for part in parts {
                    pieces.put_whole(part.into());
                }
                pieces.put(ENVELOPE_END);
            }
            Self::PrettyJson | Self::Yaml => {
                let items = items.map(|item| serde_json::from_slice::<Value>(&item));
                let items: Vec<Value> = items
                    .collect::<Result<_, _>>()
                    .map_err(ApiError::internal)?;
                let tree = json!({
                    "kind": list_kind,
                    "apiVersion": api_version,
                    "metadata": metadata,
                    "items": items,
                });
                pieces.put_whole(self.tree(&tree)?.into());
            }
        }
        Ok(pieces)
    }

    /// An object as it stands inside the frame of an event.
    pub(crate) fn in_frame(self, kind: &SchemaKind, json: &Bytes) -> Result<Bytes, ApiError> {
        match self {
            Self::Json | Self::PrettyJson | Self::Yaml => Ok(json.clone()),
            Self::Protobuf => {
                let message = message(kind)?.encode_protobuf(json).map_err(unsendable)?;
                let api_version = group_version(&kind.group, &kind.version);
                Ok(seal_envelope(&api_version, &kind.kind, &message).into())
            }
        }
    }

    /// As [`in_frame`](Self::in_frame), from a tree.
    pub(crate) fn tree_in_frame(self, tree: &Value) -> Result<Bytes, ApiError> {
        match self {
            // A stream has one event a line, so it is never indented.
            Self::Json | Self::PrettyJson | Self::Yaml => Ok(tree.to_string().into()),
            Self::Protobuf => sealed(tree).map(Bytes::from),
        }
    }

    /// Appends one event of a watch to what is sent.
    pub(crate) fn put_frame(self, event: &str, object: &[u8], sent: &mut BytesMut) {
        match self {
            Self::Json | Self::PrettyJson | Self::Yaml => {
                sent.extend_from_slice(b"{\"type\":\"");
                sent.extend_from_slice(event.as_bytes());
                sent.extend_from_slice(b"\",\"object\":");
                sent.extend_from_slice(object);
                sent.extend_from_slice(b"}\n");
            }
            Self::Protobuf => {
                let mut frame = Vec::with_capacity(object.len() + 32);
                put_watch_frame(&mut frame, event, object);
                sent.extend_from_slice(&frame);
            }
        }
    }
}

/// The fields that every list has: its metadata, without items.
static PARTIAL_LIST: LazyLock<SchemaKind> =
    LazyLock::new(|| SchemaKind::builtin("meta.k8s.io", "v1", "PartialObjectMetadataList"));

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct TypeMeta<'a> {
    kind: &'a str,
    api_version: &'a str,
}

/// A tree that says its kind, in the envelope.
fn sealed(tree: &Value) -> Result<Vec<u8>, ApiError> {
    let TypeMeta { kind, api_version } = TypeMeta::deserialize(tree).map_err(ApiError::internal)?;
    let (group, version) = match api_version.rsplit_once('/') {
        Some((group, version)) => (group, version),
        // What discovery says of itself has no version.
        None if api_version.is_empty() => ("", "v1"),
        None => ("", api_version),
    };
    let schema = Schemas::builtin().kind(group, version, kind);
    let schema = schema.ok_or_else(|| no_message(kind))?;
    let message = schema.encode_protobuf_value(tree).map_err(unsendable)?;
    Ok(seal_envelope(api_version, kind, &message))
}

/// The schema of a kind that has a protobuf message.
fn message(kind: &SchemaKind) -> Result<&SchemaRef, ApiError> {
    let schema = schema::of(kind)?;
    if !schema.has_message() {
        return Err(no_message(&kind.kind));
    }
    Ok(schema)
}

/// 406 for a kind that is JSON only, worded as `errNotMarshalable` of apimachinery (v1.37).
fn no_message(kind: &str) -> ApiError {
    ApiError::new(
        Reason::NotAcceptable,
        format!(
            "object {kind} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
        ),
    )
}

fn unsendable(error: EncodeError) -> ApiError {
    let cause = std::error::Error::source(&error);
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    ApiError::internal(format!("{error}{cause}"))
}

#[cfg(test)]
mod tests;
