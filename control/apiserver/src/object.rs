// SPDX-License-Identifier: Apache-2.0
//! An object as it is kept: its JSON, encoded once, and the metadata that everybody asks for.
//!
//! In the store the JSON has no `resourceVersion`, because the revision is known only after the write;
//! loading splices it in, and those bytes go out to every reader. There is no parsed tree here.

use std::fmt::Write as _;

use bytes::{BufMut, Bytes, BytesMut};
use k8s_openapi::jiff::Timestamp;
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::registry::{Kind, Selectable, key};

/// One version of one object.
#[derive(Debug)]
pub struct Object {
    /// JSON as served, with `kind`, `apiVersion` and `metadata.resourceVersion`.
    pub bytes: Bytes,
    /// What is asked for most, already taken out.
    pub meta: Meta,
}

/// Metadata of an object in a compact form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; empty for objects of the cluster.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Uid.
    pub uid: Box<str>,
    /// The revision that wrote this version.
    pub resource_version: u64,
    /// Generation of the spec; 0 for kinds that have none.
    pub generation: i64,
    /// Labels in the object's order.
    pub labels: Box<[(String, String)]>,
    /// Owner references.
    pub owners: Box<[Owner]>,
    /// What has to be done before a deleted object may go.
    pub finalizers: Box<[Box<str>]>,
    /// Set once deletion was asked for.
    pub deletion_timestamp: Option<Timestamp>,
    /// The values of the stored kind's selectable fields, in the registry's order.
    pub(crate) fields: Box<[Box<str>]>,
}

/// One owner reference.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The owner's API version.
    #[serde(default)]
    pub api_version: Box<str>,
    /// The owner's kind.
    #[serde(default)]
    pub kind: Box<str>,
    /// The owner's name, in the same namespace or of the cluster.
    #[serde(default)]
    pub name: Box<str>,
    /// The owner's uid.
    #[serde(default)]
    pub uid: Box<str>,
    /// True for the one owner that manages the object.
    #[serde(default)]
    pub controller: bool,
    /// True when the owner's foreground deletion waits for the object.
    #[serde(default)]
    pub block_owner_deletion: bool,
}

impl Meta {
    /// `namespace/name`, or the name for objects of the cluster.
    #[must_use]
    pub fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }

    /// The managing owner.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owners.iter().find(|o| o.controller)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// True once deletion was asked for.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }
}

impl Object {
    /// Parses the whole object.
    pub fn parse<K: DeserializeOwned>(&self) -> Result<K, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }

    /// The parsed tree; bytes of the cache are always valid JSON.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// Loads what the store holds for `kind`, as written by `revision`.
    pub(crate) fn from_stored(
        kind: &Kind,
        stored: &[u8],
        revision: u64,
    ) -> Result<Self, serde_json::Error> {
        let mut meta = parse_meta(stored)?;
        meta.resource_version = revision;
        meta.fields = pick_fields(kind, stored)?;
        Ok(Self {
            bytes: splice_version(stored, revision),
            meta,
        })
    }

    /// The same object as of the revision that deleted it.
    pub(crate) fn deleted_at(&self, revision: u64) -> Self {
        let mut meta = self.meta.clone();
        meta.resource_version = revision;
        Self {
            bytes: respliced(&self.bytes, self.meta.resource_version, revision),
            meta,
        }
    }
}

const METADATA_MARK: &[u8] = b"\"metadata\":{";

/// Where the first member of `metadata` starts. Encoded objects begin with kind, apiVersion, metadata.
fn metadata_start(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(METADATA_MARK.len())
        .position(|w| w == METADATA_MARK)
        .map(|at| at + METADATA_MARK.len())
}

fn version_member(revision: u64) -> String {
    let mut text = String::with_capacity(44);
    // Writing to a String cannot fail.
    let _ = write!(text, "\"resourceVersion\":\"{revision}\",");
    text
}

/// Stored bytes with `metadata.resourceVersion` put in.
pub(crate) fn splice_version(stored: &[u8], revision: u64) -> Bytes {
    let Some(at) = metadata_start(stored) else {
        return Bytes::copy_from_slice(stored);
    };
    let member = version_member(revision);
    let mut bytes = BytesMut::with_capacity(stored.len() + member.len());
    bytes.put_slice(&stored[..at]);
    bytes.put_slice(member.as_bytes());
    bytes.put_slice(&stored[at..]);
    bytes.freeze()
}

fn respliced(served: &[u8], old: u64, new: u64) -> Bytes {
    let before = version_member(old);
    match metadata_start(served) {
        Some(at) if served[at..].starts_with(before.as_bytes()) => {
            let after = version_member(new);
            let mut bytes = BytesMut::with_capacity(served.len() + after.len());
            bytes.put_slice(&served[..at]);
            bytes.put_slice(after.as_bytes());
            bytes.put_slice(&served[at + before.len()..]);
            bytes.freeze()
        }
        _ => Bytes::copy_from_slice(served),
    }
}

/// Encodes an object for the store: kind, apiVersion and metadata first, no resourceVersion, and
/// without the members of metadata that are not kept.
pub(crate) fn encode(kind: &Kind, object: &Value) -> Vec<u8> {
    let empty = Map::new();
    let members = object.as_object().unwrap_or(&empty);
    let mut metadata = members
        .get("metadata")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    for dropped in ["resourceVersion", "managedFields", "selfLink"] {
        metadata.shift_remove(dropped);
    }
    let mut out = Vec::with_capacity(512);
    let put = |out: &mut Vec<u8>, value: &Value| {
        // Serializing a tree into memory cannot fail: its keys are strings.
        let _ = serde_json::to_writer(out, value);
    };
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(kind.api_version().as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    put(&mut out, &Value::Object(metadata));
    for (name, value) in members {
        if matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            continue;
        }
        out.push(b',');
        put(&mut out, &Value::String(name.clone()));
        out.push(b':');
        put(&mut out, value);
    }
    out.push(b'}');
    out
}

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
    generation: i64,
    #[serde(deserialize_with = "labels")]
    labels: Vec<(String, String)>,
    owner_references: Vec<Owner>,
    finalizers: Vec<Box<str>>,
    deletion_timestamp: Option<Timestamp>,
}

fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("labels")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
    }
    deserializer.deserialize_any(Pairs)
}

fn parse_meta(stored: &[u8]) -> Result<Meta, serde_json::Error> {
    let top: Top<'_> = serde_json::from_slice(stored)?;
    let raw: RawMeta = serde_json::from_str(top.metadata.get())?;
    Ok(Meta {
        namespace: raw.namespace,
        name: raw.name,
        uid: raw.uid,
        resource_version: 0,
        generation: raw.generation,
        labels: raw.labels.into(),
        owners: raw.owner_references.into(),
        finalizers: raw.finalizers.into(),
        deletion_timestamp: raw.deletion_timestamp,
        fields: Box::default(),
    })
}

fn pick_fields(kind: &Kind, stored: &[u8]) -> Result<Box<[Box<str>]>, serde_json::Error> {
    if kind.selectable.is_empty() {
        return Ok(Box::default());
    }
    let mut found: Vec<(&str, Option<Box<str>>)> = Vec::new();
    for place in kind.selectable.iter().flat_map(Selectable::places) {
        if !found.iter().any(|(path, _)| *path == place) {
            found.push((place, None));
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    Pick {
        prefix: "",
        found: &mut found,
    }
    .deserialize(&mut deserializer)?;
    let at = |place: &str| {
        let (_, text) = found.iter().find(|(path, _)| *path == place)?;
        text.clone().filter(|text| !text.is_empty())
    };
    Ok(kind
        .selectable
        .iter()
        .map(|field| {
            let text = field.places().find_map(at);
            text.unwrap_or_else(|| (&*field.absent).into())
        })
        .collect())
}

/// Walks an object and takes out the scalars at the wanted paths, skipping everything else.
struct Pick<'a, 'k> {
    prefix: &'a str,
    found: &'a mut [(&'k str, Option<Box<str>>)],
}

impl<'de> DeserializeSeed<'de> for Pick<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let path = if self.prefix.is_empty() {
                name.into_owned()
            } else {
                format!("{}.{name}", self.prefix)
            };
            if let Some(at) = self.found.iter().position(|(wanted, _)| *wanted == path) {
                let text = match map.next_value::<Value>()? {
                    Value::Null => continue,
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                self.found[at].1 = Some(text.into());
            } else if self.found.iter().any(|(wanted, _)| {
                wanted
                    .strip_prefix(path.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
            }) {
                map.next_value_seed(Pick {
                    prefix: &path,
                    found: self.found,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
