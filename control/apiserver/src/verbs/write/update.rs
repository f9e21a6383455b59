// SPDX-License-Identifier: Apache-2.0
//! Replacing and patching: the sources of a changed object, and the rules that keep its identity, spec and status
//! apart.

use serde_json::Value;

use super::{Change, Next, Source, Write};
use crate::admission::Part;
use crate::core::Core;
use crate::field::FieldErrors;
use crate::object::Object;
use crate::registry::{Generation, Kind, meta};
use crate::schema;
use crate::verbs::{MODIFIED, WriteOptions, Written};
use crate::{ApiError, Patch, patch, value};

impl Core {
    /// Replaces an object (or its status) with what a client sent.
    pub(crate) async fn replace(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        sent: impl Into<Next>,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut sent = sent.into();
        // The pipeline checks it again; here a wrong name is refused before it matters whether the object is there.
        check_place(kind, namespace, name, &mut sent.object)?;
        self.modify(kind, namespace, name, part, options, &|current| {
            check_uid(&kind.group, &kind.plural, name, current, &sent.object)?;
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
            patch::apply(kind, current, change).map(|patched| patched.object.into())
        })
        .await
    }

    /// Makes the next object of the current one.
    pub(crate) async fn modify(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        change: &Change<'_>,
    ) -> Result<Written, ApiError> {
        let write = Write {
            kind,
            namespace,
            name,
            part,
            options,
        };
        self.run(write, Source::Update(change)).await
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
pub(super) fn check_identity(kind: &Kind, current: &Object, new: &Value) -> Result<(), ApiError> {
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

/// Puts back what this part of the object may not change, and fills defaults.
pub(super) fn prepare(stored: &Kind, part: Part, new: &mut Value, old: &Value) {
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
    value::remove(new, "metadata.selfLink");
    // Managers are recorded by the step of that name alone.
    value::remove(new, "metadata.managedFields");
    meta::normalize(new);
    value::set(new, "kind", &*stored.kind);
    value::set(new, "apiVersion", stored.api_version());
    match part {
        Part::Main | Part::Scale => {
            schema::fill_defaults(&stored.schema, new);
            stored.strategy.default(new);
            if stored.has_status() {
                value::copy(new, old, "status");
            }
            stored.strategy.prepare_update(new, old);
        }
        Part::Status => {
            value::copy(new, old, "spec");
            value::copy(new, old, "metadata.ownerReferences");
            stored.strategy.prepare_status(new, old);
        }
        // The changes touch nothing else.
        Part::Binding | Part::Finalize | Part::Eviction => {}
    }
}

/// Counts a change of what the generation is about.
pub(super) fn count_generation(generation: Generation, new: &mut Value, old: &Value) {
    if grows(generation, new, old) {
        let next = value::int(old, "metadata.generation").unwrap_or(0) + 1;
        value::set(new, "metadata.generation", next);
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
            !value::same(new, old, "metadata.labels") || content(new) != content(old)
        }
        Generation::AllButMetadata => content(new) != content(old),
    }
}

/// An object without its metadata.
fn content(tree: &Value) -> Value {
    let mut tree = tree.clone();
    value::remove(&mut tree, "metadata");
    tree
}

/// A deleted object that nothing keeps any more goes with this write.
pub(super) fn is_finished(stored: &Kind, object: &Value) -> bool {
    value::at(object, "metadata.deletionTimestamp").is_some()
        && value::int(object, "metadata.deletionGracePeriodSeconds").unwrap_or(0) == 0
        && value::items(object, "metadata.finalizers").is_empty()
        && !stored.strategy.is_held(object)
}
