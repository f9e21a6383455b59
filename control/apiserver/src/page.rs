// SPDX-License-Identifier: Apache-2.0
//! Lists: which objects, as of when, and how much of them on one page.
//!
//! A first page comes from the cache; the pages after it come from the store, as of the first page's revision. How many
//! objects are left is counted once, by the cache, and travels with the client: a page costs what it holds.

use std::sync::Arc;

use knarr_api::fields::{FieldRequirement, FieldSelector};
use knarr_api::labels::Selector;
use knarr_store::{Range, Revision, StoreError, prefix_end};

use crate::ApiError;
use crate::core::Core;
use crate::object::Object;
use crate::registry::{Kind, SelectableMeta};
use token::{Token, When};

mod token;

/// Keys read from the store at once for a page whose selectors leave objects out.
const CHUNK: usize = 500;

/// Which objects a list wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Selector,
    pub(crate) fields: FieldSelector,
}

/// As of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// Everything that was acknowledged.
    Newest,
    /// Whatever is at hand.
    Any,
    /// This revision or a later one.
    AtLeast(u64),
    /// This revision.
    Exactly(u64),
}

/// One page.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) objects: Vec<Arc<Object>>,
    /// Where the next page starts.
    pub(crate) next: Option<String>,
    /// How many objects follow, where that is known.
    pub(crate) remaining: Option<usize>,
}

/// The value of the field that a label of `kind` stands for. A view's label stands for the stored kind's label with the
/// same place.
pub(crate) fn field<'a>(kind: &Kind, object: &'a Object, label: &str) -> Option<&'a str> {
    match label {
        "metadata.name" => Some(&object.meta.name),
        "metadata.namespace" => Some(&object.meta.namespace),
        _ => {
            let wanted = kind.selectable.iter().find(|f| f.label == label)?;
            let stored = &kind.stored().selectable;
            let at = stored.iter().position(|f| f.places().eq(wanted.places()))?;
            object.meta.fields.get(at).map(|v| &**v)
        }
    }
}

/// Whether an object is selected.
pub(crate) fn matches(
    kind: &Kind,
    object: &Object,
    labels: &Selector,
    fields: &FieldSelector,
) -> bool {
    labels.matches(&*object.meta.labels)
        && (fields.is_empty() || fields.matches(|label| field(kind, object, label)))
}

impl Wanted {
    pub(crate) fn matches(&self, kind: &Kind, object: &Object) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|n| *n == *object.meta.namespace)
            && matches(kind, object, &self.labels, &self.fields)
    }

    fn selects_all(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Refuses fields that the kind has no selector for. kubectl puts what it was looking for before the message.
    pub(crate) fn check(&self, kind: &Kind) -> Result<(), ApiError> {
        let meta = kind.selectable_meta();
        for FieldRequirement { field: label, .. } in &self.fields.requirements {
            let known = match label.as_str() {
                "metadata.name" => true,
                "metadata.namespace" => meta != SelectableMeta::Name,
                label => kind.selectable.iter().any(|f| f.label == label),
            };
            if known {
                continue;
            }
            return Err(ApiError::bad_request(match meta {
                SelectableMeta::Only => format!(
                    "{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                ),
                _ => format!("field label not supported: {label}"),
            }));
        }
        Ok(())
    }
}

impl Core {
    /// One page of a list. `limit` 0 is no limit.
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        wanted: &Wanted,
        as_of: AsOf,
        limit: usize,
        token: Option<&str>,
    ) -> Result<Page, ApiError> {
        wanted.check(kind)?;
        if let Some(token) = token {
            let token = Token::parse(token)?;
            let revision = match token.when {
                When::At(revision) => revision,
                When::Now => self.fresh().await?,
            };
            return self
                .page(
                    kind,
                    wanted,
                    revision,
                    token.start.clone(),
                    token.left,
                    limit,
                )
                .await
                .map_err(|error| unless_too_old(error, || expired_token(&token)));
        }
        match as_of {
            AsOf::Newest => {
                self.fresh().await?;
            }
            AsOf::Any => {}
            AsOf::AtLeast(revision) => self.wait_for(revision).await?,
            AsOf::Exactly(revision) => {
                self.wait_for(revision).await?;
                // As many as there are now, which is what clients use the number for: an estimate.
                let namespace = wanted.namespace.as_deref();
                let total = self.cache(kind)?.0.count(namespace);
                return self
                    .page(kind, wanted, revision, String::new(), Some(total), limit)
                    .await
                    .map_err(|error| unless_too_old(error, too_old_list));
            }
        }
        let applied = self.applied();
        let cache = self.cache(kind)?;
        let namespace = wanted.namespace.as_deref();
        let (snapshot, total) = if limit > 0 && wanted.selects_all() {
            cache.0.first(namespace, limit)
        } else {
            let mut all = cache.0.list(namespace);
            all.objects.retain(|o| wanted.matches(kind, o));
            let total = all.objects.len();
            if limit > 0 {
                all.objects.truncate(limit);
            }
            (all, total)
        };
        let revision = applied.max(snapshot.revision);
        let mut page = Page {
            revision,
            objects: snapshot.objects,
            next: None,
            remaining: None,
        };
        let left = total - page.objects.len();
        if left > 0 {
            page.end_with(revision, wanted.selects_all().then_some(left));
        }
        Ok(page)
    }

    /// One page from the store, as of `revision`; `left` objects are there from `start` (a key below the resource's
    /// prefix) on, where that is known.
    async fn page(
        &self,
        kind: &Kind,
        wanted: &Wanted,
        revision: u64,
        start: String,
        left: Option<usize>,
        limit: usize,
    ) -> Result<Page, PageError> {
        let stored = kind.stored();
        let mut start = format!("{}{start}", stored.prefix);
        let chunk = if limit > 0 && wanted.selects_all() {
            limit.min(CHUNK)
        } else {
            CHUNK
        };
        let prefix = match &wanted.namespace {
            Some(namespace) => format!("{}{namespace}/", stored.prefix),
            None => stored.prefix.to_string(),
        };
        if start < prefix {
            start.clone_from(&prefix);
        }
        let end = prefix_end(prefix.as_bytes());
        let mut page = Page {
            revision,
            objects: Vec::new(),
            next: None,
            remaining: None,
        };
        loop {
            let found = self
                .store
                .range(Range {
                    start: start.clone().into(),
                    end: end.clone(),
                    revision: Some(Revision(revision)),
                    limit: Some(chunk),
                })
                .await?;
            let last_index = found.kvs.len().saturating_sub(1);
            for (index, kv) in found.kvs.iter().enumerate() {
                let object = Object::from_stored(stored, &kv.value, kv.mod_revision.0)
                    .map_err(ApiError::internal)?;
                if !wanted.matches(kind, &object) {
                    continue;
                }
                page.objects.push(Arc::new(object));
                if limit > 0 && page.objects.len() == limit {
                    if found.more || index < last_index {
                        let left = left
                            .and_then(|left| left.checked_sub(limit))
                            .filter(|left| *left > 0 && wanted.selects_all());
                        page.end_with(revision, left);
                    }
                    return Ok(page);
                }
            }
            let Some(last) = found.kvs.last().filter(|_| found.more) else {
                return Ok(page);
            };
            start = format!("{}\0", String::from_utf8_lossy(&last.key));
        }
    }
}

impl Page {
    /// More follows: `left` objects, where that is known.
    fn end_with(&mut self, revision: u64, left: Option<usize>) {
        self.remaining = left;
        self.next = self.objects.last().map(|last| {
            let token = Token {
                when: When::At(revision),
                start: format!("{}\0", last.meta.key()),
                left,
            };
            token.encode()
        });
    }
}

/// Why a page could not be read from the store.
enum PageError {
    Store(StoreError),
    Api(ApiError),
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ApiError> for PageError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

fn unless_too_old(error: PageError, too_old: impl FnOnce() -> ApiError) -> ApiError {
    match error {
        PageError::Store(StoreError::Compacted { .. }) => too_old(),
        PageError::Store(StoreError::FutureRevision { requested, newest }) => {
            ApiError::too_large_version(requested.0, newest.0)
        }
        PageError::Store(other) => other.into(),
        PageError::Api(error) => error,
    }
}

/// 410 for `resourceVersionMatch=Exact`.
fn too_old_list() -> ApiError {
    ApiError::expired("The resourceVersion for the provided list is too old.")
}

/// 410 for a page whose list has left the history, with a token by which the client may go on all the same.
fn expired_token(token: &Token) -> ApiError {
    let now = Token {
        when: When::Now,
        start: token.start.clone(),
        left: None,
    };
    ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    )
    .continued_by(now.encode())
}
