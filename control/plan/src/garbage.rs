// SPDX-License-Identifier: Apache-2.0
//! Which objects go because their owners went: background, foreground and orphan deletion.
//!
//! [`Graph`] holds every object's owners and nothing else; the garbage loop feeds it from every cache and
//! asks [`Graph::plan`] about objects whose surroundings changed. Follows kube-controller-manager's
//! `garbage-collector-controller` (v1.37). A deletion for the absence of an owner has to be planned twice:
//! the second time after every cache is known to be up to date.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::reason::EventReason;

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
    /// Its name, in the namespace of the object that refers to it.
    pub name: Box<str>,
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
    /// Keep these owners' foreground deletion from waiting for the object.
    Unblock {
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

/// What is known of a kind that an owner reference names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// No object of it can be in the graph.
    Unknown,
    /// Its objects live in namespaces.
    Namespaced,
    /// Its objects are the cluster's.
    Cluster,
}

/// A reference to an owner that lives in another namespace, or in a namespace while the object does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// The object that refers.
    pub item: Arc<Item>,
    /// The reference.
    pub owner: OwnerRef,
}

impl Misplaced {
    /// Reason of the warning about it.
    pub const REASON: EventReason = EventReason::OwnerRefInvalidNamespace;

    /// Text of the warning, as Kubernetes has it: the owner is looked for in the object's own namespace.
    #[must_use]
    pub fn message(&self) -> String {
        let OwnerRef {
            uid,
            api_version,
            kind,
            name,
            ..
        } = &self.owner;
        let namespace = &self.item.namespace;
        format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in \
             namespace {namespace:?}"
        )
    }
}

/// Every object with its owners, in maps that shrink when many objects are gone.
#[derive(Debug, Default)]
pub struct Graph {
    items: BTreeMap<Arc<str>, Arc<Item>>,
    dependents: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    misplaced: Vec<Misplaced>,
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
        let old_owners = old.map(|old| old.owners.clone());
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
        self.find_misplaced(&item, old_owners.as_deref());
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

    /// References that were found to be misplaced since the last call, each once for an observation.
    pub fn take_misplaced(&mut self) -> Vec<Misplaced> {
        std::mem::take(&mut self.misplaced)
    }

    /// Notes misplaced references of `item`, which is not in the graph yet as it is now, and those to it.
    fn find_misplaced(&mut self, item: &Arc<Item>, old_owners: Option<&[OwnerRef]>) {
        for owner in item.owners.iter() {
            let is_old = old_owners
                .unwrap_or_default()
                .iter()
                .any(|old| old.uid == owner.uid);
            let known = self.items.get(&owner.uid);
            if !is_old && known.is_some_and(|known| !may_own(known, item)) {
                self.misplaced.push(Misplaced {
                    item: item.clone(),
                    owner: owner.clone(),
                });
            }
        }
        if old_owners.is_some() {
            return;
        }
        let dependents = self.dependents.get(&item.uid).into_iter().flatten();
        let dependents = dependents.filter_map(|uid| self.items.get(uid));
        let misplaced = dependents.filter(|dependent| !may_own(item, dependent));
        let found: Vec<_> = misplaced
            .filter_map(|dependent| {
                let mut owners = dependent.owners.iter();
                Some(Misplaced {
                    item: dependent.clone(),
                    owner: owners.find(|owner| owner.uid == item.uid)?.clone(),
                })
            })
            .collect();
        self.misplaced.extend(found);
    }

    /// The objects with an owner reference that is `wanted`.
    pub fn owned_by(&self, wanted: &dyn Fn(&OwnerRef) -> bool) -> Vec<Arc<str>> {
        let items = self.items.values();
        let owned = items.filter(|item| item.owners.iter().any(wanted));
        owned.map(|item| item.uid.clone()).collect()
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

    /// Decides about one object. `kind_of` says whether an owner's kind could be in the graph at all: an owner of an
    /// unknown kind does not count as absent.
    pub fn plan(&self, uid: &str, kind_of: &dyn Fn(&OwnerRef) -> OwnerKind) -> Vec<Action> {
        let Some(item) = self.items.get(uid) else {
            return Vec::new();
        };
        match item.leaving {
            Leaving::No => self.plan_dependent(item, kind_of).into_iter().collect(),
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
        let circular = self.owners_in_a_circle(item);
        if !circular.is_empty() {
            return vec![Action::Unblock {
                uid: item.uid.clone(),
                owners: circular,
            }];
        }
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

    /// Owners whose foreground deletion waits for `item` while that of `item` waits, by way of others, for them. The
    /// object that closes such a circle finds it here, because it is planned when it changes.
    fn owners_in_a_circle(&self, item: &Item) -> Vec<Arc<str>> {
        let mut circular = Vec::new();
        for owner in self.waiting_owners(item) {
            let mut seen = HashSet::from([&owner.uid]);
            let mut ahead = vec![owner];
            while let Some(ancestor) = ahead.pop() {
                if ancestor.uid == item.uid {
                    circular.push(owner.uid.clone());
                    break;
                }
                let further = self.waiting_owners(ancestor);
                ahead.extend(further.filter(|further| seen.insert(&further.uid)));
            }
        }
        circular
    }

    /// Owners of `item` whose foreground deletion waits for it.
    fn waiting_owners<'a>(&'a self, item: &'a Item) -> impl Iterator<Item = &'a Item> + 'a {
        let blocked = item.owners.iter().filter(|owner| owner.blocks);
        let owners = blocked.filter_map(|owner| self.items.get(&owner.uid).map(Arc::as_ref));
        owners.filter(|owner| owner.leaving == Leaving::Foreground)
    }

    fn plan_dependent(
        &self,
        item: &Item,
        kind_of: &dyn Fn(&OwnerRef) -> OwnerKind,
    ) -> Option<Action> {
        let (mut solid, mut waiting, mut dangling) = (false, Vec::new(), Vec::new());
        for owner in item.owners.iter() {
            let known = self.items.get(&owner.uid);
            // An owner in another namespace does not count, as in Kubernetes.
            let known = known.filter(|known| may_own(known, item));
            match known.map(|owner| owner.leaving) {
                Some(Leaving::Foreground) => waiting.push(owner.uid.clone()),
                Some(_) => solid = true,
                None => match kind_of(owner) {
                    OwnerKind::Unknown => solid = true,
                    // Where such an owner should be looked for cannot be known, so it is never known to be gone.
                    OwnerKind::Namespaced if item.namespace.is_empty() => solid = true,
                    OwnerKind::Namespaced | OwnerKind::Cluster => dangling.push(owner.uid.clone()),
                },
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

/// Whether `owner` lives where an owner of `item` can: in the same namespace, or in none.
fn may_own(owner: &Item, item: &Item) -> bool {
    owner.namespace.is_empty() || owner.namespace == item.namespace
}

#[cfg(test)]
mod tests;
