// SPDX-License-Identifier: Apache-2.0
//! Replacing and patching: one compare-and-swap loop that keeps spec and status apart.

use std::borrow::Cow;

use knarr_store::{Compare, Op, Txn};
use serde_json::Value;

use super::{DryRun, SWAP_ATTEMPTS_MAX, WriteOptions, Written, in_view, served};
use crate::allocations::Reservation;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::object::{Object, encode};
use crate::registry::{Generation, Kind, Part, meta};
use crate::{ApiError, Patch, admission, patch, value};

/// Why an update with an old resourceVersion is refused.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// What a change makes of the current object.
pub(super) type Change<'a> = dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync + 'a;

impl Core {
    /// Replaces an object (or its status) with what a client sent.
    pub(crate) async fn replace(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        mut sent: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        // `modify` checks it again; here a wrong name is told before it matters whether the object is there.
        check_place(kind, namespace, name, &mut sent)?;
        self.modify(kind, namespace, name, part, options, &|current| {
            check_uid(&kind.group, &kind.plural, name, current, &sent)?;
            Ok(sent.clone())
        })
        .await
    }

    /// Patches an object (or its status).
    pub(crate) async fn patch(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        change: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        self.modify(kind, namespace, name, part, options, &|current| {
            patch::apply(kind, current, change).map(|p| p.object)
        })
        .await
    }

    /// Reads, changes, checks and swaps; again from the start when the object changed underneath, unless
    /// the change names a version.
    pub(crate) async fn modify(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        change: &Change<'_>,
    ) -> Result<Written, ApiError> {
        let stored = kind.stored();
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let current = self
                .current(kind, namespace, name)
                .await?
                .ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))?;
            let old = current.value();
            let view = if kind.is_view() {
                Cow::Owned(kind.strategy.as_view(old.clone()))
            } else {
                Cow::Borrowed(&old)
            };
            let mut new = change(&view)?;
            check_place(kind, namespace, name, &mut new)?;
            if kind.is_view() {
                new = kind.strategy.to_stored(new);
            }
            check_identity(kind, &current, &new)?;
            prepare(stored, part, &mut new, &old);
            self.check(kind, part, name, &new, &old)?;
            let warnings = match part {
                Part::Main => stored.strategy.all_warnings(&new, Some(&old)),
                Part::Status | Part::Raw => Vec::new(),
            };
            let reservation = match part {
                Part::Main => self.allocate(stored, &mut new, Some(&old)).await?,
                Part::Status | Part::Raw => Reservation::none(),
            };
            value::copy(&mut new, &old, "metadata.resourceVersion");
            if new == old {
                return Ok(Written {
                    bytes: in_view(kind, current.bytes.clone()),
                    warnings,
                });
            }
            let bytes = encode(stored, &new);
            if options.dry_run == DryRun::All {
                return Ok(Written {
                    bytes: served(kind, &bytes, current.meta.resource_version),
                    warnings,
                });
            }
            let store_key = stored.store_key(namespace, name);
            let step = if is_finished(stored, &new) {
                Op::delete(store_key.clone())
            } else {
                Op::put(store_key.clone(), bytes.clone())
            };
            let written = self.swap(&current, &store_key, step, reservation).await?;
            if let Some(revision) = written {
                return Ok(Written {
                    bytes: served(kind, &bytes, revision),
                    warnings,
                });
            }
            // A change that names a version fails the check of identity in the next round.
        }
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            name,
            MODIFIED,
        ))
    }

    /// Changes an object in memory only; see [`crate::Client::write_in_memory`].
    pub(crate) async fn write_in_memory(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        change: &(dyn Fn(&mut Value) + Send + Sync),
    ) -> Result<(), ApiError> {
        let stored = kind.stored();
        let store_key = stored.store_key(namespace, name);
        for _ in 0..SWAP_ATTEMPTS_MAX {
            let current = self
                .current(kind, namespace, name)
                .await?
                .ok_or_else(|| ApiError::not_found(&kind.group, &kind.plural, name))?;
            let old = current.value();
            let mut new = old.clone();
            change(&mut new);
            if new == old {
                return Ok(());
            }
            let op = Op::put_volatile(store_key.clone(), encode(stored, &new));
            let done = self
                .swap(&current, &store_key, op, Reservation::none())
                .await?;
            if done.is_some() {
                return Ok(());
            }
        }
        Err(ApiError::conflict(
            &kind.group,
            &kind.plural,
            name,
            MODIFIED,
        ))
    }

    /// Does `step` if the object is still `current`; the revision when it was, `None` (after the caches have
    /// caught up) when not.
    pub(super) async fn swap(
        &self,
        current: &Object,
        store_key: &str,
        step: Op,
        reservation: Reservation,
    ) -> Result<Option<u64>, ApiError> {
        let read = knarr_store::Revision(current.meta.resource_version);
        let txn = Txn {
            compare: vec![Compare::mod_revision(store_key.to_owned(), read)],
            then: vec![step],
            otherwise: Vec::new(),
        };
        let done = self.write(txn, reservation).await?;
        if done.succeeded {
            return Ok(Some(done.revision.0));
        }
        self.wait_for(done.revision.0).await?;
        Ok(None)
    }

    fn check(
        &self,
        kind: &Kind,
        part: Part,
        name: &str,
        new: &Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let mut errors = FieldErrors::default();
        meta::validate_update(new, old, &mut errors);
        match part {
            Part::Main => kind.strategy.validate_update(new, old, &mut errors),
            Part::Status => kind.strategy.validate_status(new, old, &mut errors),
            Part::Raw => {}
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(&kind.group, &kind.kind, name, &errors))
        }
    }
}

/// The object stays where it is: it has the name and the namespace of the request, and gets the namespace where it
/// names none. It is written under the key that these two make, so with another name in it nobody would find it again.
///
/// Kubernetes refuses this of what is sent whole and of what a patch makes, in the same words:
/// `EnsureObjectNamespaceMatchesRequestNamespace` and `checkName` of apiserver (v1.37).
pub(crate) fn check_place(
    kind: &Kind,
    namespace: &str,
    name: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    super::create::set_namespace(kind, namespace, object)?;
    match value::text(object, "metadata.name") {
        sent if sent == name => Ok(()),
        "" => Err(ApiError::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        sent => Err(ApiError::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({name})"
        ))),
    }
}

/// The change is about this object: its version and uid, where it names them.
fn check_identity(kind: &Kind, current: &Object, new: &Value) -> Result<(), ApiError> {
    let name = &*current.meta.name;
    let version = value::text(new, "metadata.resourceVersion");
    if !version.is_empty() {
        let parsed = version.parse::<u64>().map_err(|_| {
            let mut errors = FieldErrors::default();
            errors.invalid(
                "metadata.resourceVersion",
                version,
                &format!("strconv.ParseUint: parsing {version:?}: invalid syntax"),
            );
            ApiError::invalid(&kind.group, &kind.kind, name, &errors)
        })?;
        if parsed != current.meta.resource_version {
            return Err(ApiError::conflict(
                &kind.group,
                &kind.plural,
                name,
                MODIFIED,
            ));
        }
    }
    let uid = value::text(new, "metadata.uid");
    if !uid.is_empty() && uid != &*current.meta.uid {
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.uid", uid, "field is immutable");
        return Err(ApiError::invalid(&kind.group, &kind.kind, name, &errors));
    }
    Ok(())
}

/// What was sent whole is about the object that has the name now, not about one that had it before. A patch that
/// changes the uid is invalid instead: it is a precondition only where the client sent an object
/// (`DefaultUpdatedObjectInfo` of apiserver, v1.37).
pub(crate) fn check_uid(
    group: &str,
    resource: &str,
    name: &str,
    current: &Value,
    sent: &Value,
) -> Result<(), ApiError> {
    let wanted = value::text(sent, "metadata.uid");
    let found = value::text(current, "metadata.uid");
    if wanted.is_empty() || wanted == found {
        return Ok(());
    }
    let why =
        format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
    Err(ApiError::conflict(group, resource, name, &why))
}

/// Puts back what this part of the object may not change, fills defaults, counts the generation.
fn prepare(stored: &Kind, part: Part, new: &mut Value, old: &Value) {
    for kept in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        value::copy(new, old, &format!("metadata.{kept}"));
    }
    for dropped in ["managedFields", "selfLink"] {
        value::remove(new, &format!("metadata.{dropped}"));
    }
    meta::normalize(new);
    value::set(new, "kind", &*stored.kind);
    value::set(new, "apiVersion", stored.api_version());
    match part {
        Part::Main => {
            stored.strategy.default(new);
            if stored.has_status() {
                value::copy(new, old, "status");
            }
            stored.strategy.prepare_update(new, old);
            admission::mutate_update(stored, new, old);
            if grows(stored.generation, new, old) {
                let next = value::int(old, "metadata.generation").unwrap_or(0) + 1;
                value::set(new, "metadata.generation", next);
            }
        }
        Part::Status => {
            value::copy(new, old, "spec");
            value::copy(new, old, "metadata.ownerReferences");
            stored.strategy.prepare_status(new, old);
        }
        Part::Raw => {
            if grows(stored.generation, new, old) {
                let next = value::int(old, "metadata.generation").unwrap_or(0) + 1;
                value::set(new, "metadata.generation", next);
            }
        }
    }
}

fn grows(generation: Generation, new: &Value, old: &Value) -> bool {
    match generation {
        Generation::None => false,
        Generation::Spec => !value::same(new, old, "spec"),
        Generation::SpecAndAnnotations => {
            !value::same(new, old, "spec") || !value::same(new, old, "metadata.annotations")
        }
        Generation::Content => {
            let content = |tree: &Value| {
                let mut tree = tree.clone();
                value::remove(&mut tree, "metadata");
                tree
            };
            !value::same(new, old, "metadata.labels") || content(new) != content(old)
        }
    }
}

/// A deleted object that nothing keeps any more goes with this write.
fn is_finished(stored: &Kind, object: &Value) -> bool {
    value::at(object, "metadata.deletionTimestamp").is_some()
        && value::int(object, "metadata.deletionGracePeriodSeconds").unwrap_or(0) == 0
        && value::items(object, "metadata.finalizers").is_empty()
        && (stored.plural != "namespaces" || value::items(object, "spec.finalizers").is_empty())
}
