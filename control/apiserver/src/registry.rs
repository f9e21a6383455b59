// SPDX-License-Identifier: Apache-2.0
//! The kinds that the API serves, as data plus one file each; everything else is generic over this.
//!
//! A kind's file gives names, scope, subresources, defaults, validation, the split between spec and
//! status, and the columns of `kubectl get`.

use serde_json::Value;

use crate::field::FieldErrors;

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

/// Whether objects live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

/// What makes `metadata.generation` grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The kind has no generation.
    None,
    /// A change of `spec`.
    Spec,
    /// A change of `spec` or of the annotations.
    SpecAndAnnotations,
    /// A change of anything but metadata, or of labels.
    Content,
}

/// A field that field selectors may name, besides name and namespace.
#[derive(Debug)]
pub(crate) struct Selectable {
    /// What clients write.
    pub(crate) label: &'static str,
    /// Where its value stands in the stored object, the first that is not empty; none: at the path that the label is.
    pub(crate) paths: &'static [&'static str],
    /// Its value where the object has none.
    pub(crate) absent: &'static str,
}

/// Which of `metadata.name` and `metadata.namespace` a kind's field selectors may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SelectableMeta {
    /// Both, and no other field: `DefaultMetaV1FieldSelectorConversion` of apimachinery.
    Only,
    /// Both, and what the kind itself has.
    NameAndNamespace,
    /// The name, and what the kind itself has.
    Name,
}

/// Which names are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    Subdomain,
    Label,
    /// RFC 1035: starts with a letter.
    ServiceLabel,
}

/// A subresource that clients may address.
#[derive(Debug)]
pub(crate) struct Subresource {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// One column of `kubectl get`.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) format: &'static str,
    /// 0: always shown; 1: `-o wide`.
    pub(crate) priority: i32,
    pub(crate) description: &'static str,
}

/// How a request changes an existing object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but status.
    Main,
    /// Status only.
    Status,
    /// Whatever the change does: bindings and namespace finalization, which check for themselves.
    Raw,
}

/// One built-in kind.
pub(crate) struct Kind {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short_names: &'static [&'static str],
    pub(crate) categories: &'static [&'static str],
    pub(crate) scope: Scope,
    pub(crate) name_rule: NameRule,
    pub(crate) generation: Generation,
    pub(crate) subresources: &'static [Subresource],
    pub(crate) selectable: &'static [Selectable],
    pub(crate) columns: &'static [Column],
    pub(crate) strategy: &'static dyn Strategy,
    /// The kind whose storage this one is another view of.
    pub(crate) view_of: Option<&'static Kind>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({}.{})", self.plural, self.group)
    }
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// Which fields of metadata a field selector may name.
    pub(crate) fn selectable_meta(&self) -> SelectableMeta {
        match (self.selectable.is_empty(), self.scope) {
            (true, _) => SelectableMeta::Only,
            (false, Scope::Namespaced) => SelectableMeta::NameAndNamespace,
            (false, Scope::Cluster) => SelectableMeta::Name,
        }
    }

    pub(crate) fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub(crate) fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// The kind that is stored.
    pub(crate) fn stored(&'static self) -> &'static Kind {
        self.view_of.unwrap_or(self)
    }

    /// `/registry/apps/deployments/`
    pub(crate) fn prefix(&self) -> String {
        if self.group.is_empty() {
            format!("/registry/{}/", self.plural)
        } else {
            format!("/registry/{}/{}/", self.group, self.plural)
        }
    }

    /// Where an object is stored.
    pub(crate) fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("{}{}", self.prefix(), crate::object::key(namespace, name))
    }
}

/// `v1` or `apps/v1`.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// What is special about a kind. Objects are trees that the schema has already checked for types.
pub(crate) trait Strategy: Send + Sync {
    /// Fills in what was left out, as Kubernetes' defaulting of this version.
    fn default(&self, _object: &mut Value) {}
    /// Clears what a client may not set at creation; defaults are in already.
    fn prepare_create(&self, _object: &mut Value) {}
    /// Keeps what a client may not change.
    fn prepare_update(&self, _new: &mut Value, _old: &Value) {}
    /// Keeps what a client of the status subresource may not change, besides `spec`.
    fn prepare_status(&self, _new: &mut Value, _old: &Value) {}
    /// What is wrong with a new object. Of a view, it is asked the view's own strategy, but about the stored form.
    fn validate(&self, _object: &Value, _errors: &mut FieldErrors) {}
    /// What is wrong with a change; the new object is validated by itself too.
    fn validate_update(&self, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        self.validate(new, errors);
    }
    /// What is wrong with a change of status.
    fn validate_status(&self, _new: &Value, _old: &Value, _errors: &mut FieldErrors) {}
    /// Warnings of what this version takes and does not carry out.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }
    /// Warnings that Kubernetes gives as well: its `WarningsOnCreate`, and `WarningsOnUpdate` where there is an old object.
    fn advice(&self, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }
    /// Says that the kind itself is deprecated. It goes with every answer about the kind.
    fn deprecation(&self) -> Option<&'static str> {
        None
    }
    /// The cells of one row, in the order of the columns after the name.
    fn cells(&self, object: &Value) -> Vec<Value>;
    /// From the stored form to this view, and back.
    fn as_view(&self, object: Value) -> Value {
        object
    }
    /// From this view to the stored form.
    fn to_stored(&self, object: Value) -> Value {
        object
    }
}

impl dyn Strategy {
    /// Every warning about a new object, or a changed one.
    pub(crate) fn all_warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let mut all = self.advice(new, old);
        all.extend(self.warnings(new));
        all
    }
}

mod binding;
mod configmap;
mod deployment;
mod endpoints;
mod endpointslice;
mod event;
mod ignored;
mod lease;
pub(crate) mod meta;
mod namespace;
mod node;
mod pod;
mod podspec;
mod replicaset;
mod secret;
mod service;
mod serviceaccount;

pub(crate) use binding::BINDING;
pub(crate) use pod::container_names;

/// Every kind with storage or a view of one, in the order of discovery.
static KINDS: [&Kind; 14] = [
    &configmap::KIND,
    &endpoints::KIND,
    &event::KIND,
    &namespace::KIND,
    &node::KIND,
    &pod::KIND,
    &secret::KIND,
    &serviceaccount::KIND,
    &service::KIND,
    &deployment::KIND,
    &replicaset::KIND,
    &lease::KIND,
    &endpointslice::KIND,
    &event::VIEW,
];

/// Every kind.
pub(crate) fn all() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().copied()
}

/// The kinds that are stored.
pub(crate) fn stored() -> impl Iterator<Item = &'static Kind> {
    all().filter(|k| k.view_of.is_none())
}

/// By group, version and kind.
pub(crate) fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// By group, version and plural name.
pub(crate) fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// A kind that this crate itself relies on.
pub(crate) fn builtin(group: &str, plural: &str) -> &'static Kind {
    all()
        .find(|k| k.group == group && k.plural == plural)
        .expect("callers name kinds of the table above")
}

impl Column {
    /// The name of the object.
    pub(crate) const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
        description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    };
    /// Its age.
    pub(crate) const AGE: Self = Self::new(
        "Age",
        "string",
        "CreationTimestamp is a timestamp representing the server time when this object was created.",
    );

    pub(crate) const fn new(
        name: &'static str,
        kind: &'static str,
        description: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            format: "",
            priority: 0,
            description,
        }
    }

    /// The same column, only in `-o wide`.
    pub(crate) const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

impl Selectable {
    pub(crate) const fn new(label: &'static str) -> Self {
        Self {
            label,
            paths: &[],
            absent: "",
        }
    }

    /// The same field with this value where the object has none.
    pub(crate) const fn or(mut self, absent: &'static str) -> Self {
        self.absent = absent;
        self
    }

    /// The same label for what stands at these paths.
    pub(crate) const fn at(mut self, paths: &'static [&'static str]) -> Self {
        self.paths = paths;
        self
    }

    /// Where its value stands, best first.
    pub(crate) fn places(&self) -> impl Iterator<Item = &'static str> {
        let own = self.paths.is_empty().then_some(self.label);
        own.into_iter().chain(self.paths.iter().copied())
    }
}

impl Subresource {
    /// `status` of the same kind.
    pub(crate) const fn status(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Self {
        Self {
            name: "status",
            group,
            version,
            kind,
            verbs: &["get", "patch", "update"],
        }
    }

    /// `scale`.
    pub(crate) const SCALE: Self = Self {
        name: "scale",
        group: "autoscaling",
        version: "v1",
        kind: "Scale",
        verbs: &["get", "patch", "update"],
    };
}
