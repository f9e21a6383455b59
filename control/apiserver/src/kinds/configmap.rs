// SPDX-License-Identifier: Apache-2.0
//! ConfigMap: data that can be made immutable.

use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use crate::field::FieldErrors;
use crate::registry::rules::same;
use crate::registry::{Column, Kind, Rules, Scope, Strategy, Validate, texts};
use crate::{table, value};

/// Bytes of all values, as Kubernetes' `MaxSecretSize`.
pub(super) const DATA_BYTES_MAX: usize = 1024 * 1024;
/// Why what is immutable cannot be changed.
pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

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
    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

impl Validate for ConfigMap {
    type Object = api::ConfigMap;

    fn validate(&self, new: &api::ConfigMap, errors: &mut FieldErrors) {
        let mut total = 0;
        for (key, data) in new.data.iter().flatten() {
            validate_key(&format!("data[{key}]"), key, errors);
            total += data.len();
            if new
                .binary_data
                .as_ref()
                .is_some_and(|b| b.contains_key(key))
            {
                errors.invalid(
                    &format!("data[{key}]"),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                );
            }
        }
        for (key, data) in new.binary_data.iter().flatten() {
            validate_key(&format!("binaryData[{key}]"), key, errors);
            total += data.0.len();
        }
        if total > DATA_BYTES_MAX {
            errors.too_long("", DATA_BYTES_MAX);
        }
    }

    fn validate_update(
        &self,
        new: &api::ConfigMap,
        old: &api::ConfigMap,
        errors: &mut FieldErrors,
    ) {
        self.validate(new, errors);
        if old.immutable == Some(true) {
            stays_immutable(new.immutable, errors);
            if !same(&new.data, &old.data) {
                errors.forbidden("data", IMMUTABLE);
            }
            if !same(&new.binary_data, &old.binary_data) {
                errors.forbidden("binaryData", IMMUTABLE);
            }
        }
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

/// `immutable` of an object that has it.
pub(super) fn stays_immutable(new: Option<bool>, errors: &mut FieldErrors) {
    if new != Some(true) {
        errors.forbidden("immutable", IMMUTABLE);
    }
}
