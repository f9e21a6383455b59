// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the volumes of a pod spec.

use knarr_api::names::validate_dns_label;
use knarr_api::quantity::Quantity;
use serde_json::Value;

use super::containers::QUANTITY;
use crate::field::FieldErrors;
use crate::value;

/// Checks the volumes and returns their names.
pub(super) fn volumes<'a>(spec: &'a Value, field: &str, errors: &mut FieldErrors) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for (index, volume) in value::items(spec, "volumes").iter().enumerate() {
        let field = format!("{field}[{index}]");
        let name = value::text(volume, "name");
        if name.is_empty() {
            errors.required(&format!("{field}.name"), "");
        } else {
            for message in validate_dns_label(name) {
                errors.invalid(&format!("{field}.name"), name, &message);
            }
            if names.contains(&name) {
                errors.duplicate(&format!("{field}.name"), name);
            }
        }
        names.push(name);
        source(volume, &field, errors);
    }
    names
}

fn source(volume: &Value, field: &str, errors: &mut FieldErrors) {
    let sources: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| *k != "name" && !v.is_null())
        .map(|(k, _)| k)
        .collect();
    for more in sources.iter().skip(1) {
        errors.forbidden(
            &format!("{field}.{more}"),
            "may not specify more than 1 volume type",
        );
    }
    if let Some(path) = value::at(volume, "hostPath") {
        let text = value::text(path, "path");
        if text.is_empty() {
            errors.required(&format!("{field}.hostPath.path"), "");
        } else if text.split('/').any(|part| part == "..") {
            errors.invalid(
                &format!("{field}.hostPath.path"),
                text,
                "must not contain '..'",
            );
        }
    }
    if let Some(secret) = value::at(volume, "secret")
        && value::text(secret, "secretName").is_empty()
    {
        errors.required(&format!("{field}.secret.secretName"), "");
    }
    if let Some(map) = value::at(volume, "configMap")
        && value::text(map, "name").is_empty()
    {
        errors.required(&format!("{field}.configMap.name"), "");
    }
    if let Some(claim) = value::at(volume, "persistentVolumeClaim")
        && value::text(claim, "claimName").is_empty()
    {
        errors.required(&format!("{field}.persistentVolumeClaim.claimName"), "");
    }
    if let Some(limit) = value::at(volume, "emptyDir.sizeLimit") {
        let at = format!("{field}.emptyDir.sizeLimit");
        match limit.as_str().unwrap_or_default().parse::<Quantity>() {
            Err(_) => errors.invalid(&at, limit.clone(), QUANTITY),
            Ok(parsed) if parsed.is_negative() => {
                errors.forbidden(&at, "SizeLimit field must be a valid resource quantity");
            }
            Ok(_) => {}
        }
    }
    for part in ["secret", "configMap"] {
        for (index, item) in value::items(volume, &format!("{part}.items"))
            .iter()
            .enumerate()
        {
            let field = format!("{field}.{part}.items[{index}]");
            if value::text(item, "key").is_empty() {
                errors.required(&format!("{field}.key"), "");
            }
            let path = value::text(item, "path");
            if path.is_empty() {
                errors.required(&format!("{field}.path"), "");
            } else if path.starts_with('/') {
                errors.invalid(&format!("{field}.path"), path, "must be a relative path");
            } else if path.split('/').any(|p| p == "..") {
                errors.invalid(&format!("{field}.path"), path, "must not contain '..'");
            }
        }
        if let Some(mode) = value::int(volume, &format!("{part}.defaultMode"))
            && !(0..=0o777).contains(&mode)
        {
            errors.invalid(
                &format!("{field}.{part}.defaultMode"),
                mode,
                "must be a number between 0 and 0777 (octal), both inclusive",
            );
        }
    }
}
