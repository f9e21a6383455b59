// SPDX-License-Identifier: Apache-2.0
//! Lists: which objects, as of when, and how much of them on one page.
//!
//! A first page comes from the cache; the pages after it come from the store, as of the first page's revision.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use knarr_api::fields::{FieldRequirement, FieldSelector};
use knarr_api::labels::Selector;
use knarr_store::{Range, Revision, StoreError, prefix_end};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::object::Object;
use crate::registry::{Kind, SelectableMeta};
use crate::{ApiError, Reason};

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

#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: u64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// The value of the field that a label of `kind` stands for. A view's label stands for the stored kind's label with the
/// same place.
pub(crate) fn field<'a>(kind: &'static Kind, object: &'a Object, label: &str) -> Option<&'a str> {
    match label {
        "metadata.name" => Some(&object.meta.name),
        "metadata.namespace" => Some(&object.meta.namespace),
        _ => {
            let wanted = kind.selectable.iter().find(|f| f.label == label)?;
            let stored = kind.stored().selectable;
            let at = stored.iter().position(|f| f.places().eq(wanted.places()))?;
            object.meta.fields.get(at).map(|v| &**v)
        }
    }
}

/// Whether an object is selected.
pub(crate) fn matches(
    kind: &'static Kind,
    object: &Object,
    labels: &Selector,
    fields: &FieldSelector,
) -> bool {
    labels.matches(&*object.meta.labels)
        && (fields.is_empty() || fields.matches(|label| field(kind, object, label)))
}

impl Wanted {
    pub(crate) fn matches(&self, kind: &'static Kind, object: &Object) -> bool {
        self.namespace
            .as_deref()
            .is_none_or(|n| *n == *object.meta.namespace)
            && matches(kind, object, &self.labels, &self.fields)
    }

    fn selects_all(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Refuses fields that the kind has no selector for. kubectl puts what it was looking for before the message.
    pub(crate) fn check(&self, kind: &'static Kind) -> Result<(), ApiError> {
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
        kind: &'static Kind,
        wanted: &Wanted,
        as_of: AsOf,
        limit: usize,
        token: Option<&str>,
    ) -> Result<Page, ApiError> {
        wanted.check(kind)?;
        if let Some(token) = token {
            let token = parse_token(token)?;
            let start = format!("{}{}", kind.stored().prefix(), token.start);
            return self.page(kind, wanted, token.rv, start, limit).await;
        }
        match as_of {
            AsOf::Newest => {
                self.fresh().await?;
            }
            AsOf::Any => {}
            AsOf::AtLeast(revision) => self.wait_for(revision).await?,
            AsOf::Exactly(revision) => {
                self.wait_for(revision).await?;
                let start = kind.stored().prefix();
                return self.page(kind, wanted, revision, start, limit).await;
            }
        }
        let applied = self.applied();
        let snapshot = self.cache(kind).0.list(wanted.namespace.as_deref());
        let revision = applied.max(snapshot.revision);
        let mut objects = snapshot.objects;
        if !wanted.selects_all() {
            objects.retain(|o| wanted.matches(kind, o));
        }
        let mut page = Page {
            revision,
            objects,
            next: None,
            remaining: None,
        };
        if limit > 0 && page.objects.len() > limit {
            page.remaining = wanted.selects_all().then(|| page.objects.len() - limit);
            page.objects.truncate(limit);
            page.next = page.objects.last().map(|o| make_token(revision, o));
        }
        Ok(page)
    }

    /// One page from the store, as of `revision`.
    async fn page(
        &self,
        kind: &'static Kind,
        wanted: &Wanted,
        revision: u64,
        mut start: String,
        limit: usize,
    ) -> Result<Page, ApiError> {
        let stored = kind.stored();
        let prefix = match &wanted.namespace {
            Some(namespace) => format!("{}{namespace}/", stored.prefix()),
            None => stored.prefix(),
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
                    limit: Some(CHUNK),
                })
                .await
                .map_err(too_old)?;
            let total = found.count;
            for (index, kv) in found.kvs.iter().enumerate() {
                let object = Object::from_stored(stored, &kv.value, kv.mod_revision.0)
                    .map_err(ApiError::internal)?;
                if !wanted.matches(kind, &object) {
                    continue;
                }
                page.objects.push(Arc::new(object));
                if limit > 0 && page.objects.len() == limit {
                    let left = total - index - 1;
                    if left > 0 {
                        page.remaining = wanted.selects_all().then_some(left);
                        page.next = page.objects.last().map(|o| make_token(revision, o));
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

fn too_old(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        ),
        StoreError::FutureRevision { requested, newest } => ApiError::new(
            Reason::Timeout,
            format!("Too large resource version: {requested}, current: {newest}"),
        ),
        other => other.into(),
    }
}

fn make_token(revision: u64, last: &Object) -> String {
    let token = Token {
        v: TOKEN_VERSION.to_owned(),
        rv: revision,
        start: format!("{}\0", last.meta.key()),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn parse_token(text: &str) -> Result<Token, ApiError> {
    let refuse = || ApiError::bad_request("continue key is not valid: cannot be decoded");
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| refuse())?;
    let token: Token = serde_json::from_slice(&json).map_err(|_| refuse())?;
    if token.v != TOKEN_VERSION || token.rv == 0 {
        return Err(ApiError::bad_request(
            "continue key is not valid: server does not recognize this encoded version",
        ));
    }
    Ok(token)
}
