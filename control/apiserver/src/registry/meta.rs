// SPDX-License-Identifier: Apache-2.0
//! Validation of `metadata`, the same for every kind.
//!
//! Wording of `apimachinery/pkg/api/validation/objectmeta.go` (v1.37).

use knarr_api::names::{
    validate_dns_1035_label, validate_dns_label, validate_dns_subdomain, validate_label_value,
    validate_qualified_name,
};
use serde_json::Value;

use super::{Kind, NameRule};
use crate::field::FieldErrors;
use crate::value;

/// Bytes of all annotations of an object.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Takes out the maps and lists of metadata that are empty: Kubernetes' own encoding has none of them.
pub(crate) fn normalize(object: &mut Value) {
    let Some(metadata) = value::members_mut(object, "metadata") else {
        return;
    };
    for part in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = match metadata.get(part) {
            Some(Value::Object(members)) => members.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            _ => false,
        };
        if is_empty {
            metadata.shift_remove(part);
        }
    }
}

/// What Kubernetes says of a name that is used in host names and is no DNS label.
pub(crate) fn hostname_advice(object: &Value, used_in: &str) -> Option<String> {
    let wrong = validate_dns_label(value::text(object, "metadata.name"));
    (!wrong.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used_in}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        )
    })
}

/// What Kubernetes says of an address that is valid and not written as it should be: `GetWarningsForIP` of apimachinery
/// (v1.37).
pub(crate) fn address_advice(field: &str, text: &str) -> Option<String> {
    let std::net::IpAddr::V6(address) = text.parse().ok()? else {
        return None;
    };
    if let Some(v4) = address.to_ipv4_mapped() {
        return Some(format!(
            "{field}: non-standard IP address {text:?} will be considered invalid in a future Kubernetes release: use {:?}",
            v4.to_string()
        ));
    }
    let canonical = address.to_string();
    (canonical != text).then(|| {
        format!(
            "{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})"
        )
    })
}

/// Checks the metadata of a new object.
pub(crate) fn validate(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    let name = value::text(object, "metadata.name");
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        let wrong = match kind.name_rule {
            NameRule::Subdomain => validate_dns_subdomain(name),
            NameRule::Label => validate_dns_label(name),
            NameRule::ServiceLabel => validate_dns_1035_label(name),
        };
        for message in wrong {
            errors.invalid("metadata.name", name, &message);
        }
    }
    if kind.namespaced() {
        let namespace = value::text(object, "metadata.namespace");
        if namespace.is_empty() {
            errors.required("metadata.namespace", "");
        } else {
            for message in validate_dns_label(namespace) {
                errors.invalid("metadata.namespace", namespace, &message);
            }
        }
    }
    validate_rest(object, errors);
}

/// Checks the metadata of a changed object.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    validate_rest(new, errors);
    if value::at(old, "metadata.deletionTimestamp").is_some() {
        let before = value::items(old, "metadata.finalizers");
        let added: Vec<String> = value::items(new, "metadata.finalizers")
            .iter()
            .filter(|f| !before.contains(f))
            .filter_map(|f| f.as_str().map(|f| format!("{f:?}")))
            .collect();
        if !added.is_empty() {
            errors.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
}

fn validate_rest(object: &Value, errors: &mut FieldErrors) {
    let texts = |path: &'static str| {
        value::members(object, path)
            .map(|(key, set)| (key.as_str(), set.as_str().unwrap_or_default()))
    };
    labels(texts("metadata.labels"), "metadata.labels", errors);
    let path = "metadata.annotations";
    annotations(texts(path), path, errors);
    for (index, finalizer) in value::items(object, "metadata.finalizers")
        .iter()
        .enumerate()
    {
        let name = finalizer.as_str().unwrap_or_default();
        let field = format!("metadata.finalizers[{index}]");
        for message in validate_qualified_name(name) {
            errors.invalid(&field, name, &message);
        }
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            errors.invalid(
                &field,
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    owners(object, errors);
}

/// Checks a map of labels.
pub(crate) fn labels<'a>(
    map: impl Iterator<Item = (&'a str, &'a str)>,
    field: &str,
    errors: &mut FieldErrors,
) {
    for (key, text) in map {
        for message in validate_qualified_name(key) {
            errors.invalid(field, key, &message);
        }
        for message in validate_label_value(text) {
            errors.invalid(field, text, &message);
        }
    }
}

/// Checks a map of annotations.
pub(crate) fn annotations<'a>(
    map: impl Iterator<Item = (&'a str, &'a str)>,
    field: &str,
    errors: &mut FieldErrors,
) {
    let mut total = 0;
    for (key, text) in map {
        for message in validate_qualified_name(&key.to_lowercase()) {
            errors.invalid(field, key, &message);
        }
        total += key.len() + text.len();
    }
    if total > ANNOTATIONS_BYTES_MAX {
        errors.too_long(field, ANNOTATIONS_BYTES_MAX);
    }
}

fn owners(object: &Value, errors: &mut FieldErrors) {
    const FIELD: &str = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in value::items(object, FIELD) {
        let version = value::text(owner, "apiVersion");
        if version.is_empty() {
            errors.invalid(
                &format!("{FIELD}.apiVersion"),
                version,
                "version must not be empty",
            );
        }
        for (name, what) in [("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if value::text(owner, name).is_empty() {
                errors.invalid(
                    &format!("{FIELD}.{name}"),
                    "",
                    &format!("{what} must not be empty"),
                );
            }
        }
        if value::is_true(owner, "controller") {
            let this = format!(
                "{}/{}",
                value::text(owner, "kind"),
                value::text(owner, "name")
            );
            match &controller {
                Some(first) => errors.invalid(
                    FIELD,
                    value::at(object, FIELD).cloned().unwrap_or_default(),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}
