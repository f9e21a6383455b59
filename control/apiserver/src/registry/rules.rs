// SPDX-License-Identifier: Apache-2.0
//! What is wrong with an object of a kind: asked by the write pipeline over a tree, answered by a built-in kind over its
//! type.
//!
//! A built-in kind implements [`Validate`]. Its objects are decoded once for each attempt of a write. A kind that has no
//! Rust type implements [`Rules`] itself. Metadata is the same for all kinds, see `meta.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field::FieldErrors;

/// What a write has made of an object, in the form in which it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Candidate<'a> {
    /// It is new.
    New(&'a Value),
    /// It is changed, other than in its status.
    Changed { new: &'a Value, old: &'a Value },
    /// Its status is changed.
    Status { new: &'a Value },
}

/// What is wrong with an object.
pub(crate) trait Rules: Send + Sync {
    /// Notes what is wrong. The error says that the tree is no object of the kind at all, which the schema and the
    /// pipeline do not let happen.
    fn check(
        &self,
        candidate: Candidate<'_>,
        errors: &mut FieldErrors,
    ) -> Result<(), serde_json::Error>;
}

/// Whether a kind has rules of its own about its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusRules {
    /// The schema says everything.
    None,
    /// It has.
    Some,
}

/// What is wrong with an object of a type. Of a view, it is about the type that is stored.
pub(crate) trait Validate: Send + Sync {
    /// The type of the stored objects.
    type Object: DeserializeOwned;

    /// What is wrong with a new object.
    fn validate(&self, _new: &Self::Object, _errors: &mut FieldErrors) {}

    /// What is wrong with a change; the new object is validated by itself too.
    fn validate_update(&self, new: &Self::Object, _old: &Self::Object, errors: &mut FieldErrors) {
        self.validate(new, errors);
    }

    /// Whether [`validate_status`](Self::validate_status) looks at anything. Status is written most often, so it is decoded
    /// for kinds with such rules only.
    const STATUS_RULES: StatusRules = StatusRules::None;

    /// What is wrong with a change of status.
    fn validate_status(&self, _new: &Self::Object, _errors: &mut FieldErrors) {}
}

impl<V: Validate> Rules for V {
    fn check(
        &self,
        candidate: Candidate<'_>,
        errors: &mut FieldErrors,
    ) -> Result<(), serde_json::Error> {
        let typed = |tree: &Value| V::Object::deserialize(tree);
        match candidate {
            Candidate::New(new) => self.validate(&typed(new)?, errors),
            Candidate::Changed { new, old } => {
                self.validate_update(&typed(new)?, &typed(old)?, errors);
            }
            Candidate::Status { new } => match V::STATUS_RULES {
                StatusRules::Some => self.validate_status(&typed(new)?, errors),
                StatusRules::None => {}
            },
        }
        Ok(())
    }
}

/// Whether two lists or maps hold the same; absent and empty are the same.
pub(crate) fn same<'a, I>(a: &'a Option<I>, b: &'a Option<I>) -> bool
where
    &'a I: IntoIterator,
    <&'a I as IntoIterator>::Item: PartialEq,
{
    a.iter().flatten().eq(b.iter().flatten())
}

/// The text of a field, empty where it is absent.
pub(crate) fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// The items of a list, none where it is absent.
pub(crate) fn items<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// The entries of a map of texts.
pub(crate) fn pairs(map: &Option<BTreeMap<String, String>>) -> impl Iterator<Item = (&str, &str)> {
    let entries = map.iter().flatten();
    entries.map(|(key, set)| (key.as_str(), set.as_str()))
}
