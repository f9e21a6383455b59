// SPDX-License-Identifier: Apache-2.0
//! The kinds that are served at one moment, as an immutable snapshot; everything else is generic over it.
//!
//! The built-in kinds come from `kinds`. `core` holds the snapshot of the running server and swaps it as a whole; a
//! request reads it once and keeps to what it read.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use knarr_schema::Schemas;

use crate::ApiError;

mod kind;
pub(crate) mod meta;
pub(crate) mod rules;
mod strategy;

pub use kind::KindId;
pub(crate) use kind::{
    Column, Generation, Kind, NameRule, Scope, Selectable, SelectableMeta, Storage, Subresource,
    Text, group_version, key, texts,
};
pub(crate) use rules::{Candidate, Rules, StatusRules, Validate};
pub(crate) use strategy::{Askers, DeletedAnswer, Strategy};

/// Group, version and plural resource name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GroupVersionResource {
    /// API group; empty for core.
    pub group: String,
    /// Version in the group.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
}

impl GroupVersionResource {
    /// From its parts.
    #[must_use]
    pub fn new(
        group: impl Into<String>,
        version: impl Into<String>,
        resource: impl Into<String>,
    ) -> Self {
        Self {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
        }
    }
}

/// Kinds and schemas as of one moment.
pub(crate) struct Registry {
    /// In the order of discovery.
    kinds: Vec<Arc<Kind>>,
    /// Ordered by group, version and plural name.
    by_resource: Vec<Arc<Kind>>,
    /// Ordered by group, version and kind.
    by_kind: Vec<Arc<Kind>>,
    by_prefix: HashMap<Box<str>, Arc<Kind>>,
    pub(crate) schemas: Arc<Schemas>,
    /// Names the content of the OpenAPI documents; made at the first question.
    pub(crate) openapi_hash: OnceLock<String>,
}

/// Why a kind cannot be served, or cease to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Two kinds have one path.
    #[error("two kinds are served as {plural} in {group_version}")]
    Resource {
        /// `apps/v1`
        group_version: String,
        /// Plural resource name.
        plural: String,
    },
    /// Two kinds have one name.
    #[error("{group_version} has two kinds {kind}")]
    Kind {
        /// `apps/v1`
        group_version: String,
        /// The name.
        kind: String,
    },
    /// Two kinds are stored in one place.
    #[error("two kinds are stored at {prefix}")]
    Prefix {
        /// The place in the store.
        prefix: String,
    },
    /// The kind is a part of the program.
    #[error("{plural} in {group_version} is built in")]
    BuiltIn {
        /// `apps/v1`
        group_version: String,
        /// Plural resource name.
        plural: String,
    },
    /// There is no such kind.
    #[error("no kind is served as {plural} in {group_version}")]
    Absent {
        /// `apps/v1`
        group_version: String,
        /// Plural resource name.
        plural: String,
    },
}

impl RegistryError {
    fn builtin(kind: &Kind) -> Self {
        Self::BuiltIn {
            group_version: kind.api_version(),
            plural: kind.plural.to_string(),
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.kinds).finish()
    }
}

type Key<'a> = (&'a str, &'a str, &'a str);

fn resource_key(kind: &Kind) -> Key<'_> {
    (&kind.group, &kind.version, &kind.plural)
}

fn kind_key(kind: &Kind) -> Key<'_> {
    (&kind.group, &kind.version, &kind.kind)
}

fn sorted(kinds: &[Arc<Kind>], key: fn(&Kind) -> Key<'_>) -> Vec<Arc<Kind>> {
    let mut sorted = kinds.to_vec();
    sorted.sort_by(|a, b| key(a).cmp(&key(b)));
    sorted
}

fn duplicate(sorted: &[Arc<Kind>], key: fn(&Kind) -> Key<'_>) -> Option<&Kind> {
    let twice = sorted
        .windows(2)
        .find(|pair| key(&pair[0]) == key(&pair[1]));
    twice.map(|pair| &*pair[0])
}

fn find<'a>(
    sorted: &'a [Arc<Kind>],
    key: fn(&Kind) -> Key<'_>,
    wanted: Key<'_>,
) -> Option<&'a Arc<Kind>> {
    let at = sorted
        .binary_search_by(|kind| key(kind).cmp(&wanted))
        .ok()?;
    Some(&sorted[at])
}

impl Registry {
    /// These kinds, in the order of discovery.
    pub(crate) fn new(kinds: Vec<Arc<Kind>>, schemas: Arc<Schemas>) -> Result<Self, RegistryError> {
        let by_resource = sorted(&kinds, resource_key);
        if let Some(twice) = duplicate(&by_resource, resource_key) {
            return Err(RegistryError::Resource {
                group_version: twice.api_version(),
                plural: twice.plural.to_string(),
            });
        }
        let by_kind = sorted(&kinds, kind_key);
        if let Some(twice) = duplicate(&by_kind, kind_key) {
            return Err(RegistryError::Kind {
                group_version: twice.api_version(),
                kind: twice.kind.to_string(),
            });
        }
        let mut by_prefix = HashMap::new();
        for kind in kinds
            .iter()
            .filter(|kind| matches!(kind.storage, Storage::Own))
        {
            let before = by_prefix.insert(kind.prefix.clone(), Arc::clone(kind));
            if before.is_some() {
                return Err(RegistryError::Prefix {
                    prefix: kind.prefix.to_string(),
                });
            }
        }
        Ok(Self {
            kinds,
            by_resource,
            by_kind,
            by_prefix,
            schemas,
            openapi_hash: OnceLock::new(),
        })
    }

    /// The same with another kind, in the place of the one that has its group, version and plural name.
    pub(crate) fn with(&self, kind: Kind) -> Result<Self, RegistryError> {
        let key = resource_key(&kind);
        let before = find(&self.by_resource, resource_key, key);
        if before.is_some_and(|before| before.custom.is_none()) {
            return Err(RegistryError::builtin(&kind));
        }
        let others = self.kinds.iter().filter(|other| resource_key(other) != key);
        let mut kinds: Vec<_> = others.cloned().collect();
        kinds.push(Arc::new(kind));
        Self::with_schemas_of(kinds)
    }

    /// The same without a kind.
    pub(crate) fn without(&self, resource: &GroupVersionResource) -> Result<Self, RegistryError> {
        let GroupVersionResource {
            group,
            version,
            resource,
        } = resource;
        let gone = self.by_resource(group, version, resource);
        let gone = gone.ok_or_else(|| RegistryError::Absent {
            group_version: group_version(group, version),
            plural: resource.clone(),
        })?;
        if gone.custom.is_none() {
            return Err(RegistryError::builtin(gone));
        }
        let others = self.kinds.iter().filter(|other| other.id != gone.id);
        Self::with_schemas_of(others.cloned().collect())
    }

    fn with_schemas_of(kinds: Vec<Arc<Kind>>) -> Result<Self, RegistryError> {
        let custom = kinds.iter().filter_map(|kind| kind.custom.as_deref());
        let schemas = Schemas::with_custom(custom);
        Self::new(kinds, schemas)
    }

    /// Every kind, in the order of discovery.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// The kinds that have storage of their own.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.all()
            .filter(|kind| matches!(kind.storage, Storage::Own))
    }

    /// By group, version and kind.
    pub(crate) fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Kind>> {
        find(&self.by_kind, kind_key, (group, version, kind))
    }

    /// By group, version and plural name.
    pub(crate) fn by_resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<&Arc<Kind>> {
        find(&self.by_resource, resource_key, (group, version, plural))
    }

    /// The kind whose objects are stored where `key` is: below `/registry/PLURAL/` or `/registry/GROUP/PLURAL/`.
    pub(crate) fn by_store_key(&self, key: &[u8]) -> Option<&Arc<Kind>> {
        let key = std::str::from_utf8(key).ok()?;
        let ends = key.match_indices('/').map(|(at, _)| at + 1).skip(2).take(2);
        ends.into_iter()
            .find_map(|end| self.by_prefix.get(&key[..end]))
    }

    /// As [`Self::by_kind`], or the refusal that clients get.
    pub(crate) fn kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Result<Arc<Kind>, ApiError> {
        self.by_kind(group, version, kind)
            .cloned()
            .ok_or_else(|| ApiError::not_found(group, kind, "no such kind is served"))
    }

    /// As [`Self::by_resource`], or the refusal that clients get.
    pub(crate) fn resource(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<Kind>, ApiError> {
        self.by_resource(group, version, plural)
            .cloned()
            .ok_or_else(|| ApiError::not_found(group, plural, "no such resource is served"))
    }
}

/// A built-in kind, for tests.
#[cfg(test)]
pub(crate) fn builtin(group: &str, plural: &str) -> Arc<Kind> {
    let registry = crate::kinds::registry();
    Arc::clone(registry.by_resource(group, "v1", plural).unwrap())
}
