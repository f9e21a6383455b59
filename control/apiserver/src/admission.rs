// SPDX-License-Identifier: Apache-2.0
//! The admission chain: an ordered list of links, made once at start, that may change or refuse each write.
//!
//! The write pipeline (`verbs/write.rs`) calls the chain twice. First every link may change the object, in order; then
//! the kind validates it; then every link may refuse it, in the same order. Requests over the network and calls of the
//! in-process client pass the same chain. What a link asks for stands in its own file; the links of one kind are below
//! that kind.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::ApiError;
use crate::cache::Cache;
use crate::identity::Caller;
use crate::registry::{GroupVersionResource, Kind, Registry};

/// What a write does to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The object is new.
    Create,
    /// The object is changed: replaced, patched, scaled, bound or finalized.
    Update,
    /// The object is removed, or its deletion begins.
    Delete,
}

/// Which part of an object a request names: the object, or one of its subresources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status only.
    Status,
    /// The number of replicas, through a Scale.
    Scale,
    /// The node of a pod, through a Binding.
    Binding,
    /// The deletion of a pod, through an Eviction.
    Eviction,
    /// The finalizers in the spec of a namespace.
    Finalize,
}

impl Part {
    /// The name of the subresource; `None` for the object itself.
    #[must_use]
    pub fn subresource(self) -> Option<&'static str> {
        match self {
            Self::Main => None,
            Self::Status => Some("status"),
            Self::Scale => Some("scale"),
            Self::Binding => Some("binding"),
            Self::Eviction => Some("eviction"),
            Self::Finalize => Some("finalize"),
        }
    }
}

/// Whether a write is only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DryRun {
    /// The write takes place.
    #[default]
    None,
    /// Everything but the write.
    All,
}

/// Something that a link has taken for one write: a quota, an address. It is kept when the write is committed.
/// Otherwise it is dropped, and dropping gives it back: after a refusal, a dry run, and a lost race, before the write is
/// tried again. So it is kept at most once for each write.
pub trait Hold: Send + Sync {
    /// The write was committed at `revision`.
    fn keep(self: Box<Self>, revision: u64);
}

/// What links leave behind besides a changed object.
#[derive(Default)]
pub struct Effects {
    pub(crate) warnings: Vec<String>,
    pub(crate) holds: Vec<Box<dyn Hold>>,
}

impl Effects {
    /// Warns the client; the write goes on.
    pub fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Ties something to the outcome of this write.
    pub fn hold(&mut self, hold: impl Hold + 'static) {
        self.holds.push(Box::new(hold));
    }
}

impl std::fmt::Debug for Effects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Effects")
            .field("warnings", &self.warnings)
            .field("holds", &self.holds.len())
            .finish()
    }
}

/// What a link may ask of the server besides the write itself.
#[async_trait]
pub(crate) trait Server: std::fmt::Debug + Send + Sync {
    /// The kinds that are served now.
    fn registry(&self) -> Arc<Registry>;
    /// The cache that has the objects of a kind; 404 where the kind is no longer served.
    fn cache(&self, kind: &Kind) -> Result<Cache, ApiError>;
    /// Waits until the caches show everything that the store has acknowledged.
    async fn fresh(&self) -> Result<u64, ApiError>;
    /// `tolerationSeconds` of the default toleration of `not-ready`.
    fn not_ready_toleration_seconds(&self) -> i64;
    /// `tolerationSeconds` of the default toleration of `unreachable`.
    fn unreachable_toleration_seconds(&self) -> i64;
}

/// One attempt of a write, as links see it. Objects are in the form in which they are stored.
#[derive(Debug)]
pub struct Admission<'a> {
    pub(crate) server: &'a dyn Server,
    /// The kind that the request names.
    pub(crate) requested: &'a Kind,
    /// The kind that is stored; another one where the request names a view of it.
    pub(crate) kind: &'a Kind,
    pub(crate) operation: Operation,
    pub(crate) part: Part,
    pub(crate) namespace: &'a str,
    /// A new object has its name after the preparation only.
    pub(crate) name: Cow<'a, str>,
    pub(crate) dry_run: DryRun,
    pub(crate) manager: &'a str,
    pub(crate) caller: &'a Caller,
    pub(crate) old: Option<Value>,
    pub(crate) object: Option<Value>,
}

impl Admission<'_> {
    /// The stored resource.
    #[must_use]
    pub fn resource(&self) -> GroupVersionResource {
        let kind = self.kind;
        GroupVersionResource::new(&*kind.group, &*kind.version, &*kind.plural)
    }

    /// What is done to the object.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Which part of the object the request names.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// The namespace; empty for objects of the cluster.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.namespace
    }

    /// The name, also one that was generated.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the write is only tried.
    #[must_use]
    pub fn dry_run(&self) -> DryRun {
        self.dry_run
    }

    /// The `fieldManager` of the request, or what its user agent calls itself.
    #[must_use]
    pub fn manager(&self) -> &str {
        self.manager
    }

    /// Who asks for the write.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        self.caller
    }

    /// The object as it is now; `None` at a creation.
    #[must_use]
    pub fn old(&self) -> Option<&Value> {
        self.old.as_ref()
    }

    /// The object as it would be written; `None` where it is removed at once.
    #[must_use]
    pub fn object(&self) -> Option<&Value> {
        self.object.as_ref()
    }

    /// The same for change. Its name, namespace, uid and version have to stay.
    #[must_use]
    pub fn object_mut(&mut self) -> Option<&mut Value> {
        self.object.as_mut()
    }

    /// 403 about the object of this write.
    #[must_use]
    pub fn forbidden(&self, why: &str) -> ApiError {
        let kind = self.requested;
        ApiError::forbidden(&kind.group, &kind.plural, &self.name, why)
    }

    /// Whether it is about this kind.
    pub(crate) fn is_of(&self, group: &str, kind: &str) -> bool {
        self.kind.group == group && self.kind.kind == kind
    }
}

/// One link of the chain. Each method is called once for each attempt of a write, dry runs included. A write that loses
/// a race is tried again with the object as it is then; so a link acts on the world through [`Effects::hold`] only.
#[async_trait]
pub trait Admit: Send + Sync + 'static {
    /// Its name, such as `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether this write concerns the link at all; the methods below are not called where it does not.
    fn handles(&self, _write: &Admission<'_>) -> bool {
        true
    }

    /// May change the object or refuse the write. The kind has not validated the object yet.
    async fn mutate(
        &self,
        _write: &mut Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// May refuse the write. The object is valid, and stays as it is.
    async fn validate(
        &self,
        _write: &Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        Ok(())
    }
}

/// The links in order.
pub(crate) struct Chain(Vec<Arc<dyn Admit>>);

impl Chain {
    /// The links of this crate, in the order of kube-apiserver's plug-ins (v1.37), and `more` behind them.
    pub(crate) fn new(mut links: Vec<Arc<dyn Admit>>, more: &[Arc<dyn Admit>]) -> Self {
        links.extend(more.iter().map(Arc::clone));
        Self(links)
    }

    /// Lets every link change the object.
    pub(crate) async fn mutate(
        &self,
        write: &mut Admission<'_>,
        effects: &mut Effects,
    ) -> Result<(), ApiError> {
        let mut before = None;
        for link in &self.0 {
            if !link.handles(write) {
                continue;
            }
            let before = before.get_or_insert_with(|| Identity::of(write.object()));
            link.mutate(write, effects).await?;
            if !before.is_of(write.object()) {
                return Err(ApiError::internal(format!(
                    "admission link {} changed which object is written",
                    link.name()
                )));
            }
        }
        Ok(())
    }

    /// Lets every link refuse the object.
    pub(crate) async fn validate(
        &self,
        write: &Admission<'_>,
        effects: &mut Effects,
    ) -> Result<(), ApiError> {
        for link in &self.0 {
            if link.handles(write) {
                link.validate(write, effects).await?;
            }
        }
        Ok(())
    }

    /// The names of the links in order.
    #[cfg(test)]
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|link| link.name()).collect()
    }
}

/// What says which object it is; empty where it is removed.
struct Identity([String; 4]);

impl Identity {
    /// Members of the metadata.
    const NAMES: [&str; 4] = ["namespace", "name", "uid", "resourceVersion"];

    fn texts(object: Option<&Value>) -> [&str; 4] {
        // Asked after each link of each write, so the metadata is looked up once.
        let metadata = object.and_then(|object| object.get("metadata"));
        let text = |name| metadata?.get(name)?.as_str();
        Self::NAMES.map(|name| text(name).unwrap_or_default())
    }

    fn of(object: Option<&Value>) -> Self {
        Self(Self::texts(object).map(str::to_owned))
    }

    fn is_of(&self, object: Option<&Value>) -> bool {
        self.0 == Self::texts(object)
    }
}

#[cfg(test)]
mod tests;
