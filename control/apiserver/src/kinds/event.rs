// SPDX-License-Identifier: Apache-2.0
//! Event: stored in its core/v1 form, served as core/v1 and as events.k8s.io/v1.
//!
//! Defaults and conversion of `pkg/apis/events/v1/conversion.go` (v1.37). What is refused: `event/validation.rs`.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use serde_json::{Map, Value};

use crate::field::FieldErrors;
use crate::registry::{Column, Kind, Rules, Scope, Selectable, Storage, Strategy, Validate, texts};
use crate::{table, value};

mod validation;

const COLUMNS: &[Column] = &[
    Column::new(
        "Last Seen",
        "string",
        "Time when this event was last observed",
    ),
    Column::new(
        "Type",
        "string",
        "Type of this event (Normal, Warning), new types could be added in the future",
    ),
    Column::new(
        "Reason",
        "string",
        "This should be a short, machine understandable string that gives the reason for the transition into the object's current status.",
    ),
    Column::new("Object", "string", "The object that this event is about."),
    Column::new(
        "Subobject",
        "string",
        "The object that this event is about.",
    )
    .wide(),
    Column::new(
        "Source",
        "string",
        "The component reporting this event. Should be a short machine understandable string.",
    )
    .wide(),
    Column::new(
        "Message",
        "string",
        "A human-readable description of the status of this operation.",
    ),
    Column::new(
        "First Seen",
        "string",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    )
    .wide(),
    Column::new(
        "Count",
        "string",
        "The number of times this event has occurred.",
    )
    .wide(),
    Column {
        priority: 1,
        ..Column::NAME
    },
];

/// Where the label `source` finds its value, as `ToSelectableFields` of Kubernetes' event strategy (v1.37).
const SOURCE: [&str; 2] = ["source.component", "reportingComponent"];

pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(&["ev"]),
        selectable: vec![
            Selectable::new("involvedObject.kind"),
            Selectable::new("involvedObject.namespace"),
            Selectable::new("involvedObject.name"),
            Selectable::new("involvedObject.uid"),
            Selectable::new("involvedObject.apiVersion"),
            Selectable::new("involvedObject.resourceVersion"),
            Selectable::new("involvedObject.fieldPath"),
            Selectable::new("reason"),
            Selectable::new("reportingComponent"),
            Selectable::new("source").at(&SOURCE),
            Selectable::new("type"),
        ],
        columns: COLUMNS.to_vec(),
        ..Kind::new(
            "",
            "v1",
            "Event",
            "events",
            Scope::Namespaced,
            Event(Face::Core),
        )
    }
}

pub(super) fn view(stored: Arc<Kind>) -> Kind {
    Kind {
        short_names: texts(&["ev"]),
        selectable: vec![
            Selectable::new("regarding.kind").at(&["involvedObject.kind"]),
            Selectable::new("regarding.namespace").at(&["involvedObject.namespace"]),
            Selectable::new("regarding.name").at(&["involvedObject.name"]),
            Selectable::new("regarding.uid").at(&["involvedObject.uid"]),
            Selectable::new("regarding.apiVersion").at(&["involvedObject.apiVersion"]),
            Selectable::new("regarding.resourceVersion").at(&["involvedObject.resourceVersion"]),
            Selectable::new("regarding.fieldPath").at(&["involvedObject.fieldPath"]),
            Selectable::new("reason"),
            Selectable::new("reportingController").at(&["reportingComponent"]),
            Selectable::new("source").at(&SOURCE),
            Selectable::new("type"),
        ],
        columns: COLUMNS.to_vec(),
        storage: Storage::ViewOf(stored),
        ..Kind::new(
            "events.k8s.io",
            "v1",
            "Event",
            "events",
            Scope::Namespaced,
            Event(Face::Events),
        )
    }
}

/// core/v1 name, events.k8s.io/v1 name.
const RENAMED: [(&str, &str); 7] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The API that a request came by. They differ in what they demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    /// core/v1
    Core,
    /// events.k8s.io/v1
    Events,
}

struct Event(Face);

impl Strategy for Event {
    fn default(&self, object: &mut Value) {
        if value::at(object, "involvedObject").is_none() {
            value::set(object, "involvedObject", Value::Object(Map::new()));
        }
        value::default(object, "reportingComponent", "");
        value::default(object, "reportingInstance", "");
        value::default(object, "source", Value::Object(Map::new()));
    }

    fn rules(&self) -> Option<&dyn Rules> {
        Some(self)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let stored;
        let event = if value::at(object, "regarding").is_some() {
            stored = self.to_stored(object.clone());
            &stored
        } else {
            object
        };
        let seen = |path: &str| table::since(value::text(event, path));
        let happened = value::text(event, "eventTime");
        let first = if value::text(event, "firstTimestamp").is_empty() {
            table::since(happened)
        } else {
            seen("firstTimestamp")
        };
        let series = value::text(event, "series.lastObservedTime");
        let last = if !series.is_empty() {
            table::since(series)
        } else if value::text(event, "lastTimestamp").is_empty() {
            first.clone()
        } else {
            seen("lastTimestamp")
        };
        let count = value::int(event, "series.count")
            .or(value::int(event, "count").filter(|c| *c > 0))
            .unwrap_or(1);
        let kind = value::text(event, "involvedObject.kind").to_lowercase();
        let name = value::text(event, "involvedObject.name");
        let about = if name.is_empty() {
            kind
        } else {
            format!("{kind}/{name}")
        };
        vec![
            last.into(),
            value::text(event, "type").into(),
            value::text(event, "reason").into(),
            about.into(),
            value::text(event, "involvedObject.fieldPath").into(),
            source(event).into(),
            value::text(event, "message").trim().into(),
            first.into(),
            count.into(),
            table::name(event),
        ]
    }

    fn as_view(&self, object: Value) -> Value {
        renamed(object, "events.k8s.io/v1", |name| {
            RENAMED.iter().find(|(core, _)| *core == name).map(|r| r.1)
        })
    }

    fn to_stored(&self, object: Value) -> Value {
        renamed(object, "v1", |name| {
            RENAMED.iter().find(|(_, new)| *new == name).map(|r| r.0)
        })
    }
}

impl Validate for Event {
    type Object = api::Event;

    fn validate(&self, new: &api::Event, errors: &mut FieldErrors) {
        validation::validate_create(self.0, new, errors);
    }

    fn validate_update(&self, new: &api::Event, old: &api::Event, errors: &mut FieldErrors) {
        validation::validate_update(self.0, new, old, errors);
    }
}

fn source(event: &Value) -> String {
    let (mut component, mut host) = (
        value::text(event, "source.component"),
        value::text(event, "source.host"),
    );
    if component.is_empty() {
        component = value::text(event, "reportingComponent");
        host = value::text(event, "reportingInstance");
    }
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}

fn renamed(
    object: Value,
    api_version: &str,
    name_of: impl Fn(&str) -> Option<&'static str>,
) -> Value {
    let Value::Object(members) = object else {
        return object;
    };
    let mut renamed = Map::new();
    for (name, member) in members {
        match name.as_str() {
            "apiVersion" => renamed.insert(name, api_version.into()),
            known => {
                let name = name_of(known).map_or(known.to_owned(), str::to_owned);
                renamed.insert(name, member)
            }
        };
    }
    Value::Object(renamed)
}
