// SPDX-License-Identifier: Apache-2.0
//! Creation: names, system metadata, defaults, admission, validation, allocation, one compare-and-swap.

use knarr_store::{Compare, Op, Txn};
use rand::Rng;
use serde_json::Value;

use super::{DryRun, WriteOptions, Written, served};
use crate::core::Core;
use crate::field::FieldErrors;
use crate::object::encode;
use crate::registry::{Generation, Kind, meta};
use crate::{ApiError, admission, clock, value};

/// Random characters behind a `generateName`.
const SUFFIX_LEN: usize = 5;
/// Without vowels and what looks alike, as Kubernetes' `util/rand`.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest prefix of a generated name, in bytes.
const GENERATE_NAME_MAX: usize = 63 - SUFFIX_LEN;
/// Names tried for one `generateName`.
const GENERATE_ATTEMPTS: usize = 8;

impl Core {
    /// Creates an object of `kind` from what a client sent.
    pub(crate) async fn create(
        &self,
        kind: &Kind,
        namespace: &str,
        sent: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let object = if kind.is_view() {
            kind.strategy.to_stored(sent)
        } else {
            sent
        };
        let generated = value::text(&object, "metadata.name").is_empty()
            && !value::text(&object, "metadata.generateName").is_empty();
        if generated {
            // The last attempt is the one below, which needs no copy.
            for _ in 1..GENERATE_ATTEMPTS {
                match self
                    .create_once(kind, namespace, object.clone(), options)
                    .await
                {
                    Err(error) if error.is_already_exists() => {}
                    outcome => return outcome,
                }
            }
        }
        self.create_once(kind, namespace, object, options).await
    }

    async fn create_once(
        &self,
        kind: &Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let stored = kind.stored();
        fill_metadata(kind, namespace, &mut object)?;
        meta::normalize(&mut object);
        stored.strategy.default(&mut object);
        stored.strategy.prepare_create(&mut object);
        admission::namespace_is_open(self, kind, namespace, &object).await?;
        admission::mutate(self, stored, &mut object)?;
        admission::service_account_exists(self, stored, namespace, &object).await?;

        let name = value::text(&object, "metadata.name").to_owned();
        let mut errors = FieldErrors::default();
        meta::validate(stored, &object, &mut errors);
        kind.strategy.validate(&object, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&kind.group, &kind.kind, &name, &errors));
        }
        admission::validate(self, stored, &object)?;
        let warnings = stored.strategy.all_warnings(&object, None);
        let reservation = self.allocate(stored, &mut object, None).await?;
        let bytes = encode(stored, &object);
        let store_key = stored.store_key(namespace, &name);
        if options.dry_run == DryRun::All {
            if self.current(kind, namespace, &name).await?.is_some() {
                return Err(ApiError::already_exists(&kind.group, &kind.plural, &name));
            }
            return Ok(Written {
                bytes: served(kind, &bytes, 0),
                warnings,
            });
        }
        let txn = Txn {
            compare: vec![Compare::absent(store_key.clone())],
            then: vec![Op::put(store_key, bytes.clone())],
            otherwise: Vec::new(),
        };
        let written = self.write(txn, reservation).await?;
        if !written.succeeded {
            return Err(ApiError::already_exists(&kind.group, &kind.plural, &name));
        }
        Ok(Written {
            bytes: served(kind, &bytes, written.revision.0),
            warnings,
        })
    }
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
    for dropped in [
        "resourceVersion",
        "managedFields",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        value::remove(object, &format!("metadata.{dropped}"));
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
pub(super) fn check_namespace(namespace: &str, object: &Value) -> Result<(), ApiError> {
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
