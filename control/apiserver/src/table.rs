// SPDX-License-Identifier: Apache-2.0
//! What `kubectl get` shows: rows of cells, and the forms in which ages and selectors are written there.

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use knarr_api::labels::Selector;
use serde_json::{Value, json};

use crate::registry::Kind;
use crate::{clock, value};

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Only metadata (the default).
    Metadata,
    /// Everything.
    Object,
    /// Nothing.
    None,
}

/// The object's name.
pub(crate) fn name(object: &Value) -> Value {
    value::text(object, "metadata.name").into()
}

/// Time since the object was created.
pub(crate) fn age(object: &Value) -> Value {
    since(value::text(object, "metadata.creationTimestamp")).into()
}

/// Time since a moment, `<unknown>` for none.
pub(crate) fn since(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(clock::now().duration_since(time).as_secs()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// `apimachinery/pkg/util/duration.HumanDuration`.
pub(crate) fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 3600;
    const DAY: i64 = 24;
    const YEAR: i64 = 24 * 365;
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{unit}")
        } else {
            format!("{big}{unit}{small}{small_unit}")
        }
    };
    let (minutes, hours) = (seconds / MINUTE, seconds / HOUR);
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 2 * MINUTE => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % MINUTE, "s"),
        () if minutes < 3 * 60 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 2 * DAY => format!("{hours}h"),
        () if hours < 8 * DAY => two(hours / DAY, "d", hours % DAY, "h"),
        () if hours < 2 * YEAR => format!("{}d", hours / DAY),
        () if hours < 8 * YEAR => two(hours / YEAR, "y", hours / DAY % 365, "d"),
        () => format!("{}y", hours / YEAR),
    }
}

/// `a=b,c=d`, `<none>` for none.
pub(crate) fn labels(map: Option<&Value>) -> String {
    let mut pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, set)| format!("{key}={}", set.as_str().unwrap_or_default()))
        .collect();
    pairs.sort_unstable();
    if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    }
}

/// `spec.selector` as text.
pub(crate) fn selector(object: &Value) -> String {
    let parsed: Option<LabelSelector> =
        value::at(object, "spec.selector").and_then(|s| serde_json::from_value(s.clone()).ok());
    match Selector::from_object(parsed.as_ref()) {
        Ok(Selector::Nothing) => "<none>".to_owned(),
        Ok(selector) if selector.is_everything() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names and images of a template's containers.
pub(crate) fn containers(object: &Value) -> (String, String) {
    let join = |part: &str| {
        value::items(object, "spec.template.spec.containers")
            .iter()
            .map(|c| value::text(c, part))
            .collect::<Vec<_>>()
            .join(",")
    };
    (join("name"), join("image"))
}

/// The columns of a kind.
pub(crate) fn columns(kind: &Kind) -> Value {
    kind.columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.kind,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        })
        .collect()
}

/// One object's row.
pub(crate) fn row(kind: &Kind, bytes: &Bytes, include: Include, meta_version: &str) -> Value {
    let object: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let cells = kind.strategy.cells(&object);
    let mut row = json!({ "cells": cells });
    match include {
        Include::None => {}
        Include::Object => row["object"] = object,
        Include::Metadata => row["object"] = partial(object, meta_version),
    }
    row
}

/// Only the metadata of an object.
pub(crate) fn partial(mut object: Value, meta_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{meta_version}"),
        "metadata": object["metadata"].take(),
    })
}

#[cfg(test)]
mod tests;
