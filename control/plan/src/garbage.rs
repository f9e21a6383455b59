// SPDX-License-Identifier: Apache-2.0
//! Which objects go because their owners went: background, foreground and orphan deletion.
//!
//! [`Graph`] holds every object's owners and nothing else; the garbage loop feeds it from every cache and
//! asks [`Graph::plan`] about objects whose surroundings changed. Follows kube-controller-manager's
//! `garbage-collector-controller` (v1.37). A deletion for the absence of an owner has to be planned twice:
//! the second time after every cache is known to be up to date.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Finalizer of an object that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to stay.
pub const ORPHAN: &str = "orphan";

/// An object's resource, shared by all objects of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName {
    /// API group, empty for core.
    pub group: Arc<str>,
    /// API version.
    pub version: Arc<str>,
    /// Plural name.
    pub resource: Arc<str>,
}

/// A reference to an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerRef {
    /// Its uid.
    pub uid: Arc<str>,
    /// Its API version, such as `apps/v1`.
    pub api_version: Box<str>,
    /// Its kind.
    pub kind: Box<str>,
    /// The owner's foreground deletion waits for this object.
    pub blocks: bool,
}

/// Whether an object is on its way out, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leaving {
    /// It is not being deleted.
    #[default]
    No,
    /// It is being deleted.
    Plain,
    /// It is being deleted after its dependents.
    Foreground,
    /// It is being deleted; its dependents stay.
    Orphan,
}

/// What the graph knows of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// `metadata.uid`
    pub uid: Arc<str>,
    /// What it is.
    pub resource: ResourceName,
    /// Empty for objects of the cluster.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its owners.
    pub owners: Box<[OwnerRef]>,
    /// Whether it is being deleted.
    pub leaving: Leaving,
    /// It has the `orphan` finalizer while not being deleted: a later deletion is to orphan.
    pub wants: Propagation,
}

/// What happens to the dependents of an object that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They go afterwards.
    #[default]
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

impl Leaving {
    /// Reads deletion mark and finalizers.
    pub fn of<'a>(is_deleting: Deleting, finalizers: impl IntoIterator<Item = &'a str>) -> Self {
        let Deleting(true) = is_deleting else {
            return Self::No;
        };
        match wanted(finalizers) {
            Propagation::Background => Self::Plain,
            Propagation::Foreground => Self::Foreground,
            Propagation::Orphan => Self::Orphan,
        }
    }
}

/// Whether an object has a deletionTimestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleting(pub bool);

/// The propagation that an object's finalizers ask for.
pub fn wanted<'a>(finalizers: impl IntoIterator<Item = &'a str>) -> Propagation {
    let mut wanted = Propagation::Background;
    for finalizer in finalizers {
        match finalizer {
            ORPHAN => return Propagation::Orphan,
            FOREGROUND => wanted = Propagation::Foreground,
            _ => {}
        }
    }
    wanted
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Delete the object, if it still has this uid.
    Delete {
        /// Uid of the object.
        uid: Arc<str>,
        /// What becomes of its own dependents.
        propagation: Propagation,
    },
    /// Take these owners off the object.
    Disown {
        /// Uid of the object.
        uid: Arc<str>,
        /// Uids of the owners.
        owners: Vec<Arc<str>>,
    },
    /// Take a finalizer off the object.
    Unfinalize {
        /// Uid of the object.
        uid: Arc<str>,
        /// [`FOREGROUND`] or [`ORPHAN`].
        finalizer: &'static str,
    },
}

/// Every object with its owners.
#[derive(Debug, Default)]
pub struct Graph {
    items: HashMap<Arc<str>, Arc<Item>>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Graph {
    /// An object as it is now. Returns the uids to plan for.
    pub fn observe(&mut self, item: Arc<Item>) -> Vec<Arc<str>> {
        let uid = item.uid.clone();
        let old = self.items.get(&uid);
        if old == Some(&item) {
            return Vec::new();
        }
        let mut look = Vec::new();
        if let Some(old) = old.cloned() {
            for owner in old.owners.iter() {
                self.unlink(&owner.uid, &uid);
                if !item
                    .owners
                    .iter()
                    .any(|new| new.uid == owner.uid && new.blocks == owner.blocks)
                {
                    look.push(owner.uid.clone());
                }
            }
            if old.leaving != item.leaving && item.leaving == Leaving::Foreground {
                look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
            }
        }
        for owner in item.owners.iter() {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.clone());
        }
        let matters = !item.owners.is_empty() || item.leaving != Leaving::No;
        if item.leaving != Leaving::No {
            // Owners in foreground deletion may be waiting for nothing but this.
            look.extend(item.owners.iter().map(|owner| owner.uid.clone()));
        }
        self.items.insert(uid.clone(), item);
        if matters {
            look.push(uid);
        }
        look
    }

    /// An object is gone. Returns the uids to plan for.
    pub fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let Some(item) = self.items.remove(uid) else {
            return Vec::new();
        };
        let mut look: Vec<Arc<str>> = Vec::new();
        for owner in item.owners.iter() {
            self.unlink(&owner.uid, uid);
            look.push(owner.uid.clone());
        }
        look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        look
    }

    /// What is known of an object.
    pub fn get(&self, uid: &str) -> Option<&Arc<Item>> {
        self.items.get(uid)
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    /// Decides about one object. `is_served` tells whether a kind could be in the graph at all: an owner of an
    /// unknown kind is not taken for gone.
    pub fn plan(&self, uid: &str, is_served: &dyn Fn(&OwnerRef) -> bool) -> Vec<Action> {
        let Some(item) = self.items.get(uid) else {
            return Vec::new();
        };
        match item.leaving {
            Leaving::No => self.plan_dependent(item, is_served).into_iter().collect(),
            Leaving::Plain => Vec::new(),
            Leaving::Orphan => self.plan_orphaning(item),
            Leaving::Foreground => self.plan_foreground(item),
        }
    }

    fn dependents_of<'a>(
        &'a self,
        item: &'a Item,
    ) -> impl Iterator<Item = (&'a Item, &'a OwnerRef)> + 'a {
        let uids = self.dependents.get(&item.uid).into_iter().flatten();
        let items = uids.filter_map(|uid| self.items.get(uid).map(Arc::as_ref));
        items.filter_map(|dependent| {
            let reference = dependent
                .owners
                .iter()
                .find(|owner| owner.uid == item.uid)?;
            Some((dependent, reference))
        })
    }

    fn plan_orphaning(&self, item: &Item) -> Vec<Action> {
        let disown: Vec<_> = self
            .dependents_of(item)
            .map(|(dependent, _)| Action::Disown {
                uid: dependent.uid.clone(),
                owners: vec![item.uid.clone()],
            })
            .collect();
        if disown.is_empty() {
            return vec![Action::Unfinalize {
                uid: item.uid.clone(),
                finalizer: ORPHAN,
            }];
        }
        disown
    }

    fn plan_foreground(&self, item: &Item) -> Vec<Action> {
        let blocked = self
            .dependents_of(item)
            .any(|(_, reference)| reference.blocks);
        if blocked {
            // The dependents are planned for themselves: observing the deletion asked for that.
            Vec::new()
        } else {
            vec![Action::Unfinalize {
                uid: item.uid.clone(),
                finalizer: FOREGROUND,
            }]
        }
    }

    fn plan_dependent(&self, item: &Item, is_served: &dyn Fn(&OwnerRef) -> bool) -> Option<Action> {
        let (mut solid, mut waiting, mut dangling) = (false, Vec::new(), Vec::new());
        for owner in item.owners.iter() {
            let known = self.items.get(&owner.uid);
            // An owner in another namespace does not count, as in Kubernetes.
            let known = known.filter(|o| o.namespace.is_empty() || o.namespace == item.namespace);
            match known.map(|owner| owner.leaving) {
                Some(Leaving::Foreground) => waiting.push(owner.uid.clone()),
                Some(_) => solid = true,
                None if is_served(owner) => dangling.push(owner.uid.clone()),
                None => solid = true,
            }
        }
        if item.owners.is_empty() {
            return None;
        }
        let uid = item.uid.clone();
        if solid {
            dangling.append(&mut waiting);
            return (!dangling.is_empty()).then_some(Action::Disown {
                uid,
                owners: dangling,
            });
        }
        let has_dependents = self.dependents_of(item).next().is_some();
        let propagation = if !waiting.is_empty() && has_dependents {
            Propagation::Foreground
        } else {
            item.wants
        };
        Some(Action::Delete { uid, propagation })
    }
}

/// The plural resource name of a kind, by Kubernetes' rule of thumb.
pub fn guess_resource(kind: &str) -> String {
    let lower = kind.to_lowercase();
    if lower == "endpoints" {
        return lower;
    }
    if let Some(stem) = lower.strip_suffix('y') {
        return format!("{stem}ies");
    }
    if lower.ends_with('s') {
        return format!("{lower}es");
    }
    format!("{lower}s")
}

#[cfg(test)]
mod tests;
