// SPDX-License-Identifier: Apache-2.0
//! One kind as data: its names, scope, subresources, selectable fields and columns.
//!
//! A built-in kind is made by its file below `kinds`; a kind can as well be made while the server runs, so nothing here
//! is static. Decisions are in the kind's [`Strategy`].

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use knarr_schema::CustomSchema;

use super::Strategy;
use crate::schema::SchemaKind;

/// A name: a constant of the program, or the text of a kind that was made while the server runs.
pub(crate) type Text = Cow<'static, str>;

/// Constant names as a list.
pub(crate) fn texts(names: &[&'static str]) -> Vec<Text> {
    names.iter().map(|name| Text::Borrowed(name)).collect()
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
    /// A change of anything but metadata.
    AllButMetadata,
}

/// A field that field selectors may name, besides name and namespace.
#[derive(Debug, Clone)]
pub(crate) struct Selectable {
    /// What clients write.
    pub(crate) label: Text,
    /// Where its value stands in the stored object, the first that is not empty; none: at the path that the label is.
    pub(crate) paths: Vec<Text>,
    /// Its value where the object has none.
    pub(crate) absent: Text,
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
#[derive(Debug, Clone)]
pub(crate) struct Subresource {
    pub(crate) name: Text,
    /// What is sent to it and what it answers.
    pub(crate) schema: SchemaKind,
    pub(crate) verbs: &'static [&'static str],
}

/// One column of `kubectl get`.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: Text,
    pub(crate) kind: Text,
    pub(crate) format: Text,
    /// 0: always shown; 1: `-o wide`.
    pub(crate) priority: i32,
    pub(crate) description: Text,
}

/// Identifies one registration of a kind. A kind that changes, or comes back after it was removed, gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KindId(u64);

impl KindId {
    fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Where the objects of a kind are.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    /// Below a prefix of its own.
    Own,
    /// It is another view of this kind's objects.
    ViewOf(Arc<Kind>),
    /// Nowhere: what is sent binds the object of this kind that it names.
    Binds(Arc<Kind>),
    /// Nowhere: what is sent is a question, which the strategy answers.
    None,
}

/// One kind, built in or made while the server runs. It never changes: a changed kind is another value.
pub(crate) struct Kind {
    pub(crate) id: KindId,
    pub(crate) group: Text,
    pub(crate) version: Text,
    pub(crate) kind: Text,
    pub(crate) plural: Text,
    pub(crate) singular: Text,
    pub(crate) short_names: Vec<Text>,
    pub(crate) categories: Vec<Text>,
    pub(crate) scope: Scope,
    pub(crate) name_rule: NameRule,
    pub(crate) generation: Generation,
    pub(crate) subresources: Vec<Subresource>,
    pub(crate) selectable: Vec<Selectable>,
    pub(crate) columns: Vec<Column>,
    pub(crate) strategy: Arc<dyn Strategy>,
    pub(crate) storage: Storage,
    /// `/registry/apps/deployments/`: where objects are, if the storage is its own.
    pub(crate) prefix: Box<str>,
    /// What its objects look like.
    pub(crate) schema: SchemaKind,
    /// What it was made of, if it is not built in.
    pub(crate) custom: Option<Arc<CustomSchema>>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({}.{})", self.plural, self.group)
    }
}

impl Kind {
    /// A kind with storage of its own and nothing special: no subresources, no columns but what is set later. Its
    /// singular name is the kind in lower case.
    pub(crate) fn new(
        group: impl Into<Text>,
        version: impl Into<Text>,
        kind: impl Into<Text>,
        plural: impl Into<Text>,
        scope: Scope,
        strategy: impl Strategy + 'static,
    ) -> Self {
        let (group, version) = (group.into(), version.into());
        let (kind, plural) = (kind.into(), plural.into());
        let prefix = match &*group {
            "" => format!("/registry/{plural}/"),
            group => format!("/registry/{group}/{plural}/"),
        };
        Self {
            id: KindId::next(),
            singular: kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            name_rule: NameRule::Subdomain,
            generation: Generation::None,
            subresources: Vec::new(),
            selectable: Vec::new(),
            columns: Vec::new(),
            strategy: Arc::new(strategy),
            storage: Storage::Own,
            prefix: prefix.into(),
            schema: SchemaKind::builtin(group.clone(), version.clone(), kind.clone()),
            custom: None,
            group,
            version,
            kind,
            plural,
        }
    }

    /// `v1` or `apps/v1`.
    pub(crate) fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
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

    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// Whether its objects are kept, in its own storage or another kind's.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(self.storage, Storage::Binds(_) | Storage::None)
    }

    /// Whether it is another view of a stored kind.
    pub(crate) fn is_view(&self) -> bool {
        matches!(self.storage, Storage::ViewOf(_))
    }

    /// The kind whose storage has its objects.
    pub(crate) fn stored(&self) -> &Kind {
        match &self.storage {
            Storage::ViewOf(stored) => stored,
            Storage::Own | Storage::Binds(_) | Storage::None => self,
        }
    }

    /// Where an object is stored.
    pub(crate) fn store_key(&self, namespace: &str, name: &str) -> String {
        format!("{}{}", self.prefix, key(namespace, name))
    }
}

/// The name of an object inside its resource.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
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

impl Column {
    /// The name of the object.
    pub(crate) const NAME: Self = Self {
        name: Text::Borrowed("Name"),
        kind: Text::Borrowed("string"),
        format: Text::Borrowed("name"),
        priority: 0,
        description: Text::Borrowed(
            "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        ),
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
            name: Text::Borrowed(name),
            kind: Text::Borrowed(kind),
            format: Text::Borrowed(""),
            priority: 0,
            description: Text::Borrowed(description),
        }
    }

    /// The same column, only in `-o wide`.
    pub(crate) const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

impl Selectable {
    pub(crate) fn new(label: impl Into<Text>) -> Self {
        Self {
            label: label.into(),
            paths: Vec::new(),
            absent: Text::Borrowed(""),
        }
    }

    /// The same field with this value where the object has none.
    pub(crate) fn or(mut self, absent: impl Into<Text>) -> Self {
        self.absent = absent.into();
        self
    }

    /// The same label for what stands at these paths.
    pub(crate) fn at(mut self, paths: &[&'static str]) -> Self {
        self.paths = texts(paths);
        self
    }

    /// Where its value stands, best first.
    pub(crate) fn places(&self) -> impl Iterator<Item = &str> {
        let own = self.paths.is_empty().then_some(&*self.label);
        own.into_iter().chain(self.paths.iter().map(|path| &**path))
    }
}

impl Subresource {
    /// From its name, its kind and what can be done with it.
    pub(crate) fn new(
        name: &'static str,
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    ) -> Self {
        Self {
            name: name.into(),
            schema: SchemaKind::builtin(group, version, kind),
            verbs,
        }
    }

    /// `status` of the same kind.
    pub(crate) fn status(
        group: impl Into<Text>,
        version: impl Into<Text>,
        kind: impl Into<Text>,
    ) -> Self {
        Self::status_of(SchemaKind::builtin(group, version, kind))
    }

    /// `status` of a kind that need not be built in.
    pub(crate) fn status_of(schema: SchemaKind) -> Self {
        Self {
            name: "status".into(),
            schema,
            verbs: &["get", "patch", "update"],
        }
    }
}
