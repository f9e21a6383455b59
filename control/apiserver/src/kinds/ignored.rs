// SPDX-License-Identifier: Apache-2.0
//! Fields that the API takes and this version does not carry out: whoever writes one gets a warning that says so.
//!
//! Every kind keeps its own list; `tests/api/fields.rs` walks all fields of all kinds and wants each to work, to be
//! refused or to be warned of. Not here: warnings of Kubernetes' own (deprecated fields), and refusals.

use std::fmt;

use serde_json::Value;

/// A field that is not carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ignored {
    /// Members from the object down; `[]` behind one stands for all items of a list.
    pub path: &'static str,
    /// Which values are not carried out.
    pub when: When,
    /// What happens instead, as the end of a sentence that begins with the field.
    pub what: &'static str,
}

/// Which values of a field count.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// Every one that says anything: not null, false, 0, nor empty.
    Set,
    /// A word that is none of these.
    NotIn(&'static [&'static str]),
    /// False, where the default is true.
    False,
}

/// What becomes of a pod whose field its node does not carry out.
pub(super) const WAITS: &str =
    "is not supported by this version: the pod waits with CreateContainerConfigError";

/// A field that is not carried out with any value.
pub(super) const fn ignored(path: &'static str, what: &'static str) -> Ignored {
    Ignored {
        path,
        when: When::Set,
        what,
    }
}

/// The warnings about `object`, which stands at `field` of what was sent; empty for the object itself.
pub(super) fn warnings(list: &[Ignored], object: &Value, field: &str) -> Vec<String> {
    let mut found = Vec::new();
    let place = Place {
        above: None,
        step: field,
        index: None,
    };
    for entry in list {
        look(entry, entry.path, object, &place, &mut found);
    }
    found
}

/// Where a value stands. Most fields of a list are not set, so a path is written only for those that are.
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    /// Empty at the root of the object.
    step: &'a str,
    index: Option<usize>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
            if !above.step.is_empty() {
                f.write_str(".")?;
            }
        }
        f.write_str(self.step)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

fn look(entry: &Ignored, path: &str, value: &Value, above: &Place<'_>, found: &mut Vec<String>) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, is_list) = match step.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (step, false),
    };
    let Some(below) = value.get(name) else {
        return;
    };
    let items = match below {
        Value::Array(items) if is_list => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    for (index, item) in items.iter().enumerate() {
        let place = Place {
            above: Some(above),
            step: name,
            index: is_list.then_some(index),
        };
        if !rest.is_empty() {
            look(entry, rest, item, &place, found);
        } else if entry.when.holds(item) {
            found.push(format!("{place}: {}", entry.what));
        }
    }
}

impl When {
    fn holds(self, value: &Value) -> bool {
        match self {
            When::Set => says(value),
            When::NotIn(words) => {
                says(value) && !value.as_str().is_some_and(|word| words.contains(&word))
            }
            When::False => *value == Value::Bool(false),
        }
    }
}

fn says(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        // An empty action or source is one.
        Value::Object(_) => true,
    }
}
