// SPDX-License-Identifier: Apache-2.0
//! Validation errors about fields, worded as Kubernetes' `apimachinery/pkg/util/validation/field` (v1.37).
//!
//! Filled by the kinds' validation, turned into a 422 Status by `status`.

use serde_json::Value;

/// Bytes of a bad value that an error shows.
const SHOWN_VALUE_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    kind: FieldErrorKind,
    field: String,
    /// The bad value as it is printed.
    value: String,
    detail: String,
}

impl FieldError {
    pub(crate) fn field(&self) -> &str {
        &self.field
    }

    pub(crate) fn reason(&self) -> &'static str {
        match self.kind {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::NotFound => "FieldValueNotFound",
        }
    }

    /// Everything but the field's path.
    pub(crate) fn body(&self) -> String {
        let (name, with_value) = match self.kind {
            FieldErrorKind::Required => ("Required value", false),
            FieldErrorKind::Invalid => ("Invalid value", true),
            FieldErrorKind::NotSupported => ("Unsupported value", true),
            FieldErrorKind::Duplicate => ("Duplicate value", true),
            FieldErrorKind::Forbidden => ("Forbidden", false),
            FieldErrorKind::TooLong => ("Too long", false),
            FieldErrorKind::TooMany => ("Too many", true),
            FieldErrorKind::NotFound => ("Not found", true),
        };
        let mut body = name.to_owned();
        if with_value {
            body.push_str(": ");
            body.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    fn text(&self) -> String {
        format!("{}: {}", self.field, self.body())
    }
}

/// Everything that is wrong with an object, in the order found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldErrors(Vec<FieldError>);

/// A value as Go prints it in these errors: strings quoted, the rest as JSON.
fn shown(value: &Value) -> String {
    let mut text = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Null => "\"null\"".to_owned(),
        other => other.to_string(),
    };
    if text.len() > SHOWN_VALUE_MAX {
        let mut end = SHOWN_VALUE_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl FieldErrors {
    fn push(&mut self, kind: FieldErrorKind, field: &str, value: String, detail: &str) {
        self.0.push(FieldError {
            kind,
            field: field.to_owned(),
            value,
            detail: detail.to_owned(),
        });
    }

    pub(crate) fn required(&mut self, field: &str, detail: &str) {
        self.push(FieldErrorKind::Required, field, String::new(), detail);
    }

    pub(crate) fn invalid(&mut self, field: &str, value: impl Into<Value>, detail: &str) {
        let value = shown(&value.into());
        self.push(FieldErrorKind::Invalid, field, value, detail);
    }

    pub(crate) fn not_supported(&mut self, field: &str, value: impl Into<Value>, valid: &[&str]) {
        let mut sorted = valid.to_vec();
        sorted.sort_unstable();
        let list: Vec<String> = sorted.iter().map(|v| format!("{v:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        let value = shown(&value.into());
        self.push(FieldErrorKind::NotSupported, field, value, &detail);
    }

    pub(crate) fn duplicate(&mut self, field: &str, value: impl Into<Value>) {
        let value = shown(&value.into());
        self.push(FieldErrorKind::Duplicate, field, value, "");
    }

    pub(crate) fn forbidden(&mut self, field: &str, detail: &str) {
        self.push(FieldErrorKind::Forbidden, field, String::new(), detail);
    }

    pub(crate) fn too_long(&mut self, field: &str, bytes_max: usize) {
        let detail = format!("may not be more than {bytes_max} bytes");
        self.push(FieldErrorKind::TooLong, field, String::new(), &detail);
    }

    pub(crate) fn too_many(&mut self, field: &str, actual: usize, max: usize) {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        self.push(FieldErrorKind::TooMany, field, actual.to_string(), &detail);
    }

    pub(crate) fn not_found(&mut self, field: &str, value: impl Into<Value>) {
        let value = shown(&value.into());
        self.push(FieldErrorKind::NotFound, field, value, "");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    /// One message for all of them: as it is for one, `[a, b]` for more; repetitions are dropped.
    pub(crate) fn aggregate(&self) -> String {
        let mut texts: Vec<String> = Vec::with_capacity(self.0.len());
        for error in &self.0 {
            let text = error.text();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        match texts.as_slice() {
            [one] => one.clone(),
            _ => format!("[{}]", texts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests;
