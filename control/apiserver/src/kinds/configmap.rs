// SPDX-License-Identifier: Apache-2.0
//! ConfigMap: data that can be made immutable.

use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Scope, Strategy, texts};
use crate::{table, value};

/// Bytes of all values, as Kubernetes' `MaxSecretSize`.
pub(super) const DATA_BYTES_MAX: usize = 1024 * 1024;

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["cm"]),
        columns: vec![
            Column::NAME,
            Column::new("Data", "string", "Data contains the configuration data."),
            Column::AGE,
        ],
        ..Kind::new(
            "",
            "v1",
            "ConfigMap",
            "configmaps",
            Scope::Namespaced,
            ConfigMap,
        )
    }
}

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let mut total = 0;
        for part in ["data", "binaryData"] {
            for (key, data) in value::members(object, part) {
                validate_key(&format!("{part}[{key}]"), key, errors);
                let encoded = data.as_str().map_or(0, str::len);
                total += if part == "data" {
                    encoded
                } else {
                    encoded / 4 * 3
                };
                if part == "data"
                    && value::at(object, "binaryData").is_some_and(|b| b.get(key).is_some())
                {
                    errors.invalid(
                        &format!("data[{key}]"),
                        key.as_str(),
                        "duplicate of key present in binaryData",
                    );
                }
            }
        }
        if total > DATA_BYTES_MAX {
            errors.too_long("", DATA_BYTES_MAX);
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        validate_immutable(new, old, &["data", "binaryData"], errors);
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let count =
            value::members(object, "data").count() + value::members(object, "binaryData").count();
        vec![
            table::name(object),
            count.to_string().into(),
            table::age(object),
        ]
    }
}

/// The rule of keys in ConfigMaps and Secrets.
pub(super) fn validate_key(field: &str, key: &str, errors: &mut FieldErrors) {
    const KEY_MAX: usize = 253;
    if key.len() > KEY_MAX {
        errors.invalid(
            field,
            key,
            &format!("must be no more than {KEY_MAX} characters"),
        );
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || !key.chars().all(allowed) {
        errors.invalid(
            field,
            key,
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        );
    }
    match key {
        "." => errors.invalid(field, key, "must not be '.'"),
        ".." => errors.invalid(field, key, "must not be '..'"),
        _ if key.starts_with("..") => errors.invalid(field, key, "must not start with '..'"),
        _ => {}
    }
}

/// The rule of `immutable: true`.
pub(super) fn validate_immutable(
    new: &Value,
    old: &Value,
    parts: &[&str],
    errors: &mut FieldErrors,
) {
    if !value::is_true(old, "immutable") {
        return;
    }
    const WHY: &str = "field is immutable when `immutable` is set";
    if !value::is_true(new, "immutable") {
        errors.forbidden("immutable", WHY);
    }
    for part in parts {
        if !value::same(new, old, part) {
            errors.forbidden(part, WHY);
        }
    }
}
