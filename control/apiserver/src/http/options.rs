// SPDX-License-Identifier: Apache-2.0
//! Query parameters and `DeleteOptions`, parsed into types that cannot be wrong.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use knarr_api::fields::FieldSelector;
use knarr_api::labels::Selector;
use serde_json::Value;

use super::Call;
use super::path::Query;
use crate::admission::DryRun;
use crate::field::FieldErrors;
use crate::page::{AsOf, Wanted};
use crate::schema::{self, SchemaKind};
use crate::verbs::{DeleteOptions, Propagation, WriteOptions};
use crate::{ApiError, value};

/// What becomes of unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Warnings collected for the client.
#[derive(Debug, Default)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl Problems {
    /// Keeps problems as warnings, drops them, or refuses the request.
    pub(crate) fn add(
        &mut self,
        found: Vec<String>,
        validation: FieldValidation,
        prefix: &str,
    ) -> Result<(), ApiError> {
        match validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                self.0.extend(found);
                Ok(())
            }
            FieldValidation::Strict if found.is_empty() => Ok(()),
            FieldValidation::Strict => Err(ApiError::bad_request(format!(
                "{prefix}strict decoding error: {}",
                found.join(", ")
            ))),
        }
    }
}

/// `fieldValidation` of a request; `options` is the kind that an error names, e.g. `CreateOptions`.
pub(crate) fn field_validation(query: &Query, options: &str) -> Result<FieldValidation, ApiError> {
    match query.text("fieldValidation") {
        None | Some("Warn") => Ok(FieldValidation::Warn),
        Some("Ignore") => Ok(FieldValidation::Ignore),
        Some("Strict") => Ok(FieldValidation::Strict),
        Some(other) => {
            let mut errors = FieldErrors::default();
            errors.not_supported("fieldValidation", other, &["", "Ignore", "Strict", "Warn"]);
            Err(ApiError::invalid("meta.k8s.io", options, "", &errors))
        }
    }
}

fn dry_run<'a>(given: impl Iterator<Item = &'a str>, options: &str) -> Result<DryRun, ApiError> {
    let mut dry_run = DryRun::None;
    for value in given {
        if value == "All" {
            dry_run = DryRun::All;
        } else {
            let mut errors = FieldErrors::default();
            errors.not_supported("dryRun", value, &["All"]);
            return Err(ApiError::invalid("meta.k8s.io", options, "", &errors));
        }
    }
    Ok(dry_run)
}

/// Longest manager that is taken from a user agent, in bytes.
const MANAGER_BYTES_MAX: usize = 128;

/// Options of a creation, update or patch; `options` is the kind that an error names.
pub(crate) fn write(call: &Call, options: &str) -> Result<WriteOptions, ApiError> {
    Ok(WriteOptions {
        dry_run: dry_run(call.query.all("dryRun"), options)?,
        ..asked(call)
    })
}

/// Who asks for a write, and for which manager. What else is asked for comes with the body.
pub(crate) fn asked(call: &Call) -> WriteOptions {
    let manager = match call.query.text("fieldManager") {
        Some(named) if !named.is_empty() => named.to_owned(),
        _ => {
            let agent = call.user_agent.as_ref().and_then(|a| a.to_str().ok());
            manager_of(agent.unwrap_or_default())
        }
    };
    WriteOptions {
        dry_run: DryRun::None,
        manager,
        caller: Arc::clone(&call.caller),
    }
}

/// What a user agent calls itself: `kubectl` of `kubectl/v1.37.0 (linux/amd64)`.
fn manager_of(agent: &str) -> String {
    let name = agent.split('/').next().unwrap_or_default();
    let mut end = name.len().min(MANAGER_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// The kind of a deletion's body.
pub(crate) static DELETE_OPTIONS: LazyLock<SchemaKind> =
    LazyLock::new(|| SchemaKind::builtin("", "v1", "DeleteOptions"));

/// Options of a deletion, from the body where there is one, else from the query; `write` becomes a dry run where they
/// ask for one.
pub(crate) fn delete(
    query: &Query,
    body: &Bytes,
    write: &mut WriteOptions,
) -> Result<DeleteOptions, ApiError> {
    let sent: Value = if body.is_empty() {
        Value::Null
    } else {
        schema::decode(&DELETE_OPTIONS, body)?.value
    };
    let mut options = DeleteOptions {
        uid: some_text(&sent, "preconditions.uid"),
        resource_version: some_text(&sent, "preconditions.resourceVersion"),
        grace_period_seconds: value::int(&sent, "gracePeriodSeconds"),
        propagation: None,
    };
    let sent_dry_run = value::items(&sent, "dryRun").iter();
    let sent_dry_run = sent_dry_run.filter_map(Value::as_str);
    if dry_run(sent_dry_run.chain(query.all("dryRun")), "DeleteOptions")? == DryRun::All {
        write.dry_run = DryRun::All;
    }
    if let Some(text) = query.text("gracePeriodSeconds") {
        let seconds = text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })?;
        options.grace_period_seconds.get_or_insert(seconds);
    }
    let policy = some_text(&sent, "propagationPolicy")
        .or_else(|| query.text("propagationPolicy").map(str::to_owned));
    let orphan = value::at(&sent, "orphanDependents")
        .and_then(Value::as_bool)
        .or_else(|| {
            query
                .has("orphanDependents")
                .then(|| query.is_true("orphanDependents"))
        });
    options.propagation = match (policy.as_deref(), orphan) {
        (Some(_), Some(_)) => {
            let mut errors = FieldErrors::default();
            errors.invalid(
                "propagationPolicy",
                policy.as_deref().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            );
            return Err(ApiError::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &errors,
            ));
        }
        (Some("Orphan"), _) => Some(Propagation::Orphan),
        (Some("Background"), _) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some(other), _) => {
            let mut errors = FieldErrors::default();
            errors.not_supported(
                "propagationPolicy",
                other,
                &["Background", "Foreground", "Orphan"],
            );
            return Err(ApiError::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &errors,
            ));
        }
        (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
    };
    Ok(options)
}

fn some_text(tree: &Value, path: &str) -> Option<String> {
    Some(value::text(tree, path))
        .filter(|t| !t.is_empty())
        .map(str::to_owned)
}

/// Which objects a list, watch or deletecollection is about.
pub(crate) fn wanted(query: &Query, namespace: Option<&str>) -> Result<Wanted, ApiError> {
    let labels = match query.text("labelSelector") {
        Some(text) => Selector::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))?,
        None => Selector::EVERYTHING,
    };
    let fields = match query.text("fieldSelector") {
        Some(text) => {
            FieldSelector::parse(text).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        None => FieldSelector::default(),
    };
    Ok(Wanted {
        namespace: namespace.map(str::to_owned),
        labels,
        fields,
    })
}

/// `resourceVersion` as a number; `None` where it is absent.
pub(crate) fn version(query: &Query) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.text("resourceVersion") else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let mut errors = FieldErrors::default();
        errors.invalid(
            "resourceVersion",
            text,
            &format!("strconv.ParseUint: parsing {text:?}: invalid syntax"),
        );
        ApiError::bad_request(errors.aggregate())
    })
}

/// `timeoutSeconds` of a watch; `None` where it is absent or zero, which leaves the choice to the server.
pub(crate) fn timeout(query: &Query) -> Result<Option<Duration>, ApiError> {
    /// Longer than any connection lives, and every clock can count as far.
    const SECONDS_MAX: u64 = 1 << 32;
    let Some(text) = query.text("timeoutSeconds") else {
        return Ok(None);
    };
    let seconds: i64 = text.parse().map_err(|_| {
        ApiError::bad_request(format!(
            "timeoutSeconds: strconv.ParseInt: parsing {text:?}: invalid syntax"
        ))
    })?;
    let seconds = u64::try_from(seconds).unwrap_or(0).min(SECONDS_MAX);
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// As of when a list is wanted.
pub(crate) fn as_of(query: &Query) -> Result<AsOf, ApiError> {
    let invalid = |detail: &str| {
        let mut errors = FieldErrors::default();
        errors.forbidden("resourceVersionMatch", detail);
        ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors)
    };
    let version = version(query)?;
    let rule = query.text("resourceVersionMatch");
    if rule.is_some() && query.text("continue").is_some() {
        return Err(invalid(
            "resourceVersionMatch is forbidden when continue is provided",
        ));
    }
    match (rule, version) {
        (None, None) => Ok(AsOf::Newest),
        (None | Some("NotOlderThan"), Some(0)) => Ok(AsOf::Any),
        (None | Some("NotOlderThan"), Some(version)) => Ok(AsOf::AtLeast(version)),
        (Some("Exact"), Some(0)) => Err(invalid(
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        (Some("Exact"), Some(version)) => Ok(AsOf::Exactly(version)),
        (Some("Exact" | "NotOlderThan"), None) => Err(invalid(
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        (Some(other), _) => {
            let mut errors = FieldErrors::default();
            errors.not_supported(
                "resourceVersionMatch",
                other,
                &["Exact", "NotOlderThan", ""],
            );
            Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", &errors))
        }
    }
}

/// `limit`; 0 is none.
pub(crate) fn limit(query: &Query) -> Result<usize, ApiError> {
    match query.text("limit") {
        None => Ok(0),
        Some(text) => text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}
