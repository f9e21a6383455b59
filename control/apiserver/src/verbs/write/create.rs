// SPDX-License-Identifier: Apache-2.0
//! Creation: the source of a new object, its name and system metadata.

use rand::Rng;
use serde_json::Value;

use super::{Next, Source, Write};
use crate::admission::Part;
use crate::core::Core;
use crate::registry::{Generation, Kind, meta};
use crate::schema;
use crate::verbs::{WriteOptions, Written};
use crate::{ApiError, clock, value};

/// Random characters behind a `generateName`.
const SUFFIX_LEN: usize = 5;
/// Without vowels and what looks alike, as Kubernetes' `util/rand`.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest prefix of a generated name, in bytes.
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LEN;

/// What the server alone says of an object. Managers are recorded by the step of that name.
const DROPPED: [&str; 6] = [
    "resourceVersion",
    "selfLink",
    "managedFields",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
];

impl Core {
    /// Creates an object of `kind` from what a client sent.
    pub(crate) async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        sent: impl Into<Next>,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let write = Write {
            kind,
            namespace,
            name: "",
            part: Part::Main,
            options,
        };
        self.run(write, Source::Create(sent.into())).await
    }
}

/// Whether an object gets a name of the server's choice.
pub(super) fn generates_name(object: &Value) -> bool {
    value::text(object, "metadata.name").is_empty()
        && !value::text(object, "metadata.generateName").is_empty()
}

/// Fills a new object: system metadata, defaults, and what a client may not set.
pub(super) fn prepare(
    kind: &Kind,
    stored: &Kind,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    fill_metadata(kind, namespace, object)?;
    meta::normalize(object);
    schema::fill_defaults(&stored.schema, object);
    stored.strategy.default(object);
    stored.strategy.prepare_create(object);
    Ok(())
}

/// Name, namespace, uid, time and generation of a new object.
fn fill_metadata(kind: &Kind, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    let sent_version = value::text(object, "metadata.resourceVersion");
    if !sent_version.is_empty() && sent_version != "0" {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    set_namespace(kind, namespace, object)?;
    if let Some(metadata) = value::members_mut(object, "metadata") {
        for dropped in DROPPED {
            metadata.shift_remove(dropped);
        }
    }
    let base = value::text(object, "metadata.generateName").to_owned();
    if value::text(object, "metadata.name").is_empty() && !base.is_empty() {
        value::set(object, "metadata.name", generate_name(&base));
    }
    value::set(object, "metadata.uid", uuid::Uuid::new_v4().to_string());
    value::set(
        object,
        "metadata.creationTimestamp",
        clock::rfc3339(clock::now()),
    );
    if kind.stored().generation != Generation::None {
        value::set(object, "metadata.generation", 1);
    }
    Ok(())
}

/// Puts the request's namespace in, or refuses a body that names another one.
pub(super) fn set_namespace(
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    if !kind.namespaced() {
        value::remove(object, "metadata.namespace");
        return Ok(());
    }
    check_namespace(namespace, object)?;
    value::set(object, "metadata.namespace", namespace);
    Ok(())
}

/// Refuses a body that names another namespace than the request.
pub(in crate::verbs) fn check_namespace(namespace: &str, object: &Value) -> Result<(), ApiError> {
    let sent = value::text(object, "metadata.namespace");
    if !sent.is_empty() && sent != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn generate_name(base: &str) -> String {
    let mut end = base.len().min(GENERATE_NAME_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..SUFFIX_LEN {
        name.push(char::from(
            SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())],
        ));
    }
    name
}
