// SPDX-License-Identifier: Apache-2.0
//! ConfigMaps and Secrets for the nodes whose pods refer to them, and for no other node.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use knarr_api::feed::{ObjectRemove, ObjectSet, change};

use super::{Body, Outgoing};

/// The kinds that a pod's environment can refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// core/v1 ConfigMap
    ConfigMap,
    /// core/v1 Secret
    Secret,
}

impl ObjectKind {
    /// The kind as Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// A ConfigMap or Secret by name; it need not exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Which kind.
    pub kind: ObjectKind,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

#[derive(Debug, Default)]
struct ObjectView {
    /// `None` while it does not exist.
    json: Option<Bytes>,
    /// How many pods of each node refer to it.
    referrers: BTreeMap<Arc<str>, usize>,
}

/// All ConfigMaps and Secrets, with the nodes that know them.
#[derive(Debug, Default)]
pub(super) struct ObjectViews {
    views: BTreeMap<ObjectKey, ObjectView>,
}

impl ObjectViews {
    pub(super) fn observe(&mut self, key: &ObjectKey, json: Option<Bytes>) -> Vec<Outgoing> {
        let view = self.views.entry(key.clone()).or_default();
        if view.json == json {
            return Vec::new();
        }
        view.json = json;
        let told = view.referrers.keys();
        let out = told
            .map(|node| match &view.json {
                Some(json) => set_for(node, key, json),
                None => Outgoing::node(node, remove(key)),
            })
            .collect();
        if view.json.is_none() && view.referrers.is_empty() {
            self.views.remove(key);
        }
        out
    }

    /// One more pod of `node` refers to the object.
    pub(super) fn refer(&mut self, node: &Arc<str>, key: &ObjectKey) -> Option<Outgoing> {
        let view = self.views.entry(key.clone()).or_default();
        let count = view.referrers.entry(node.clone()).or_default();
        *count += 1;
        let first = *count == 1;
        let json = view.json.as_ref().filter(|_| first)?;
        Some(set_for(node, key, json))
    }

    /// One pod of `node` fewer refers to the object.
    pub(super) fn release(&mut self, node: &Arc<str>, key: &ObjectKey) -> Option<Outgoing> {
        let view = self.views.get_mut(key)?;
        let count = view.referrers.get_mut(node)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        view.referrers.remove(node);
        let known = view.json.is_some();
        if !known && view.referrers.is_empty() {
            self.views.remove(key);
        }
        known.then(|| Outgoing::node(node, remove(key)))
    }

    /// The object as it is now, for a node that refers to it.
    pub(super) fn again(&self, key: &ObjectKey, node: &str) -> Option<change::Change> {
        let view = self.views.get(key)?;
        let json = view.json.as_ref()?;
        view.referrers.contains_key(node).then(|| set(key, json))
    }

    pub(super) fn snapshot(&self, node: &str) -> impl Iterator<Item = change::Change> {
        self.views
            .iter()
            .filter(move |(_, view)| view.referrers.contains_key(node))
            .filter_map(|(key, view)| Some(set(key, view.json.as_ref()?)))
    }
}

fn set_for(node: &Arc<str>, key: &ObjectKey, json: &Bytes) -> Outgoing {
    Outgoing::body(node, set(key, json), Body::Object(key.clone()))
}

fn set(key: &ObjectKey, json: &Bytes) -> change::Change {
    change::Change::ObjectSet(ObjectSet {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        object_json: json.clone(),
    })
}

fn remove(key: &ObjectKey) -> change::Change {
    change::Change::ObjectRemove(ObjectRemove {
        kind: key.kind.as_str().to_owned(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    })
}
