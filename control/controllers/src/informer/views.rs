// SPDX-License-Identifier: Apache-2.0
//! The views of an informer by name, and the groups of its index. Plain data; the informer locks it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use knarr_api::names::NamespacedName;

use super::IndexOf;

#[derive(Debug)]
pub(super) struct Views<V> {
    index_of: IndexOf<V>,
    by_name: BTreeMap<NamespacedName, Arc<V>>,
    /// No group is empty.
    groups: BTreeMap<String, BTreeSet<NamespacedName>>,
}

impl<V> Views<V> {
    pub(super) fn new(index_of: IndexOf<V>) -> Self {
        Self {
            index_of,
            by_name: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    pub(super) fn get(&self, name: &NamespacedName) -> Option<&Arc<V>> {
        self.by_name.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<V>)> {
        self.by_name.iter()
    }

    pub(super) fn in_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&NamespacedName, &Arc<V>)> {
        let first = NamespacedName::new(namespace, "");
        let from_first = self.by_name.range(first..);
        from_first.take_while(move |(name, _)| name.namespace == namespace)
    }

    pub(super) fn group(&self, group: &str) -> impl Iterator<Item = &NamespacedName> {
        self.groups.get(group).into_iter().flatten()
    }

    /// Puts in the view of an object, or takes it out, and returns what was there.
    pub(super) fn set(&mut self, name: &NamespacedName, new: Option<&Arc<V>>) -> Option<Arc<V>> {
        let old = match new {
            Some(new) => self.by_name.insert(name.clone(), new.clone()),
            None => self.by_name.remove(name),
        };
        let index_of = self.index_of;
        let groups = |view: Option<&Arc<V>>| view.map(|view| index_of(view)).unwrap_or_default();
        let (before, after) = (groups(old.as_ref()), groups(new));
        for group in before.iter().filter(|group| !after.contains(group)) {
            if let Some(names) = self.groups.get_mut(group) {
                names.remove(name);
                if names.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
        for group in after {
            self.groups.entry(group).or_default().insert(name.clone());
        }
        old
    }
}

#[cfg(test)]
mod tests;
