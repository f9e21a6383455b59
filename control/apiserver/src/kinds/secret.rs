// SPDX-License-Identifier: Apache-2.0
//! Secret: typed data, written in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as api;
use serde_json::Value;

use super::configmap::{DATA_BYTES_MAX, IMMUTABLE, stays_immutable, validate_key};
use crate::field::FieldErrors;
use crate::registry::rules::same;
use crate::registry::{Column, Kind, Rules, Scope, Selectable, Strategy, Validate};
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

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
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

const ACCOUNT: &str = "kubernetes.io/service-account.name";

impl Validate for Secret {
    type Object = api::Secret;

    fn validate(&self, new: &api::Secret, errors: &mut FieldErrors) {
        let mut total = 0;
        for (key, data) in new.data.iter().flatten() {
            validate_key(&format!("data[{key}]"), key, errors);
            total += data.0.len();
        }
        if total > DATA_BYTES_MAX {
            errors.too_long("data", DATA_BYTES_MAX);
        }
        let has = |key: &str| new.data.as_ref().is_some_and(|d| d.contains_key(key));
        let kind = new.type_.as_deref().unwrap_or_default();
        let needed: &[&str] = match kind {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
                &["username", "password"]
            }
            _ => &[],
        };
        for key in needed {
            if !has(key) {
                errors.required(&format!("data[{key}]"), "");
            }
        }
        if kind == "kubernetes.io/service-account-token" {
            let annotations = new.metadata.annotations.as_ref();
            let account = annotations.and_then(|all| all.get(ACCOUNT));
            if account.is_none_or(String::is_empty) {
                errors.required(&format!("metadata.annotations[{ACCOUNT}]"), "");
            }
        }
    }

    fn validate_update(&self, new: &api::Secret, old: &api::Secret, errors: &mut FieldErrors) {
        self.validate(new, errors);
        if new.type_ != old.type_ {
            let kind = new.type_.as_deref().unwrap_or_default();
            errors.invalid("type", kind, "field is immutable");
        }
        if old.immutable == Some(true) {
            stays_immutable(new.immutable, errors);
            if !same(&new.data, &old.data) {
                errors.forbidden("data", IMMUTABLE);
            }
        }
    }
}
