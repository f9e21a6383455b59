// SPDX-License-Identifier: Apache-2.0
//! Secret: typed data, written in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::configmap::{DATA_BYTES_MAX, validate_immutable, validate_key};
use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Scope, Selectable, Strategy};
use crate::{table, value};

pub(super) fn kind() -> Kind {
    Kind {
        selectable: vec![Selectable::new("type")],
        columns: vec![
            Column::NAME,
            Column::new(
                "Type",
                "string",
                "Used to facilitate programmatic handling of secret data.",
            ),
            Column::new("Data", "string", "Data contains the secret data."),
            Column::AGE,
        ],
        ..Kind::new("", "v1", "Secret", "secrets", Scope::Namespaced, Secret)
    }
}

struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        value::default_text(object, "type", "Opaque");
        let Some(Value::Object(plain)) = value::remove(object, "stringData") else {
            return;
        };
        let mut data = value::at(object, "data")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (key, text) in plain {
            let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
        if !data.is_empty() {
            value::set(object, "data", data);
        }
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        let mut total = 0;
        for (key, data) in value::members(object, "data") {
            validate_key(&format!("data[{key}]"), key, errors);
            match STANDARD.decode(data.as_str().unwrap_or_default()) {
                Ok(bytes) => total += bytes.len(),
                Err(_) => errors.invalid(
                    &format!("data[{key}]"),
                    "<secret contents redacted>",
                    "illegal base64 data",
                ),
            }
        }
        if total > DATA_BYTES_MAX {
            errors.too_long("data", DATA_BYTES_MAX);
        }
        let needed: &[&str] = match value::text(object, "type") {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            _ => &[],
        };
        for key in needed {
            if value::at(object, "data").is_none_or(|d| d.get(*key).is_none()) {
                errors.required(&format!("data[{key}]"), "");
            }
        }
        if value::text(object, "type") == "kubernetes.io/basic-auth"
            && value::at(object, "data")
                .is_none_or(|d| d.get("username").is_none() && d.get("password").is_none())
        {
            errors.required("data[username]", "");
            errors.required("data[password]", "");
        }
        if value::text(object, "type") == "kubernetes.io/service-account-token" {
            let account = value::at(object, "metadata.annotations")
                .and_then(|a| a.get("kubernetes.io/service-account.name"))
                .and_then(Value::as_str)
                .unwrap_or_default();
            if account.is_empty() {
                errors.required(
                    "metadata.annotations[kubernetes.io/service-account.name]",
                    "",
                );
            }
        }
    }

    fn validate_update(&self, new: &Value, old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
        if !value::same(new, old, "type") {
            errors.invalid("type", value::text(new, "type"), "field is immutable");
        }
        validate_immutable(new, old, &["data"], errors);
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        vec![
            table::name(object),
            value::text(object, "type").into(),
            value::members(object, "data").count().into(),
            table::age(object),
        ]
    }
}
