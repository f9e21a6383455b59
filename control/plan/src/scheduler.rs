// SPDX-License-Identifier: Apache-2.0
//! Which node a pod goes to.
//!
//! [`Scheduler`] is the whole scheduler as a value: changes go in, decisions come out. [`Cluster`] in it is a compact view
//! of nodes, pods and Services, kept up to date change by change; [`SchedulingQueue`] holds the pods without a node.
//! [`Cluster::place`] finds the best node for one pod. Pods that ask for the same form a class; a class remembers its
//! ranking of the nodes and only looks again at nodes that changed since, so that the thousandth replica costs a few
//! comparisons and not a walk over every node.
//!
//! It does not bind, wait or write: the controller does. Nodes are filtered and refusals worded as
//! kube-scheduler v1.37 does with its default plugins; scores are absolute instead of normalised over the
//! nodes of one attempt, so that they can be kept.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::labels::Selector;
use knarr_api::names::NamespacedName;

mod node;
mod notify;
mod pod;
mod queue;
mod reason;
mod score;
mod state;
mod taints;

pub use node::NodeState;
pub use notify::{NOTIFY_EVERY, Notification, Notifications, unschedulable_status};
pub use pod::{DEFAULT_SCHEDULER, HostPort, PodInfo, Resources, Term, Wants};
pub use queue::SchedulingQueue;
pub use reason::{Reason, Unschedulable};
pub use state::{Binding, Decision, Scheduler};
pub use taints::{Effect, TaintView, TolerationView, untolerated};

/// Classes whose ranking is remembered; the least recently used goes. Each holds a few dozen bytes a node,
/// and a scheduler seldom sees more kinds of pods at once.
const CLASSES_MAX: usize = 64;

/// Pods that are spread over nodes together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum GroupKey {
    /// Uid of the ReplicaSet or another controller.
    Controller(Arc<str>),
    /// Pods that a Service selects.
    Service(NamespacedName),
}

type GroupId = u32;
type NodeId = u32;

#[derive(Debug)]
struct Group {
    key: GroupKey,
    pods_on: HashMap<NodeId, u32>,
    members: u32,
}

#[derive(Debug)]
struct PodEntry {
    info: PodInfo,
    /// Where its resources are counted now.
    counted_on: Option<NodeId>,
    /// Bound by this scheduler, not yet seen bound in a change.
    assumed: Option<Arc<str>>,
    groups: Vec<GroupId>,
}

impl PodEntry {
    fn wanted_node(&self) -> Option<&Arc<str>> {
        if self.info.phase.is_terminal() {
            return None;
        }
        self.info.node.as_ref().or(self.assumed.as_ref())
    }
}

/// Best score first, then a fixed pseudo-random order of nodes.
type Rank = (Reverse<i64>, u64, NodeId);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ClassKey {
    wants: Arc<Wants>,
    groups: Vec<GroupId>,
}

#[derive(Debug, Default)]
struct Class {
    /// Position in the change log up to which the ranking holds.
    synced: u64,
    last_used: u64,
    rank_of: Vec<Option<Rank>>,
    feasible: BTreeSet<Rank>,
    /// The refusal of the last attempt, as of `synced`.
    refusal: Option<Arc<Unschedulable>>,
}

/// Nodes, pods and Services as the scheduler sees them.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: Vec<Option<NodeState>>,
    free: Vec<NodeId>,
    node_ids: HashMap<Arc<str>, NodeId>,
    pods: HashMap<Arc<str>, PodEntry>,
    pods_in: HashMap<Box<str>, HashSet<Arc<str>>>,
    services: HashMap<Box<str>, HashMap<Box<str>, Selector>>,
    group_ids: HashMap<GroupKey, GroupId>,
    groups: HashMap<GroupId, Group>,
    last_group: GroupId,
    classes: HashMap<ClassKey, Class>,
    /// Nodes that changed, oldest first; `log_start` is the position of its first entry.
    log: VecDeque<NodeId>,
    log_start: u64,
    ticks: u64,
}

/// What a change means for pods that fit nowhere before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Effects {
    /// No pod can fit better than before.
    Nothing,
    /// There is more room or another node: unschedulable pods are tried again.
    MayFit,
}

impl Cluster {
    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.node_ids.len()
    }

    /// The names of all nodes.
    pub fn node_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.node_ids.keys()
    }

    /// The names of all Services that select pods.
    pub fn service_names(&self) -> impl Iterator<Item = NamespacedName> {
        let namespaces = self.services.iter();
        namespaces.flat_map(|(namespace, services)| {
            let names = services.keys();
            names.map(|name| NamespacedName::new(&**namespace, &**name))
        })
    }

    /// The pod with this uid, if it is known.
    pub fn pod(&self, uid: &str) -> Option<&PodInfo> {
        self.pods.get(uid).map(|entry| &entry.info)
    }

    /// The node that a pod is bound to or about to be bound to.
    pub fn node_of(&self, uid: &str) -> Option<&Arc<str>> {
        self.pods.get(uid).and_then(PodEntry::wanted_node)
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, node: &Node) -> Effects {
        let Some(state) = NodeState::of(node) else {
            return Effects::Nothing;
        };
        match self.node_ids.get(&state.name) {
            Some(&id) => {
                let Some(known) = &mut self.nodes[id as usize] else {
                    return Effects::Nothing;
                };
                if !known.replace(state) {
                    return Effects::Nothing;
                }
                self.changed(id);
            }
            None => {
                let name = state.name.clone();
                let id = self.free.pop().unwrap_or_else(|| {
                    self.nodes.push(None);
                    NodeId::try_from(self.nodes.len() - 1).unwrap_or(NodeId::MAX)
                });
                self.nodes[id as usize] = Some(state);
                self.node_ids.insert(name.clone(), id);
                self.changed(id);
                self.recount(|entry| entry.wanted_node() == Some(&name));
            }
        }
        Effects::MayFit
    }

    /// A node is gone. Pods that are bound to it stay known; they count nowhere.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.node_ids.remove(name) else {
            return;
        };
        self.nodes[id as usize] = None;
        for entry in self.pods.values_mut() {
            if entry.counted_on == Some(id) {
                entry.counted_on = None;
            }
        }
        for group in self.groups.values_mut() {
            group.pods_on.remove(&id);
        }
        self.free.push(id);
        self.changed(id);
    }

    /// A pod appeared or changed.
    pub fn set_pod(&mut self, info: PodInfo) -> Effects {
        let uid = info.uid.clone();
        let mut freed = Effects::Nothing;
        let mut assumed = None;
        if let Some(old) = self.pods.get(&uid) {
            let same = old.info.holds_node() == info.holds_node()
                && old.info.node == info.node
                && old.info.wants == info.wants
                && old.info.labels == info.labels
                && old.info.phase.is_terminal() == info.phase.is_terminal();
            if same {
                // Only what does not count changed, such as conditions.
                if let Some(old) = self.pods.get_mut(&uid) {
                    old.info = info;
                }
                return Effects::Nothing;
            }
            if info.node.is_none() && !info.is_terminating {
                assumed = old.assumed.clone();
            }
            freed = self.remove_pod(&uid);
        }
        let namespace: Box<str> = info.name.namespace.as_str().into();
        self.pods_in
            .entry(namespace)
            .or_default()
            .insert(uid.clone());
        let groups = self.join_groups(&info);
        let entry = PodEntry {
            info,
            counted_on: None,
            assumed,
            groups,
        };
        self.pods.insert(uid.clone(), entry);
        self.count(&uid);
        match self.pods.get(&uid) {
            // It gave room back and did not take it again.
            Some(entry) if entry.counted_on.is_none() => freed,
            _ => Effects::Nothing,
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) -> Effects {
        let freed = self.uncount(uid);
        let Some(entry) = self.pods.remove(uid) else {
            return Effects::Nothing;
        };
        let namespace = entry.info.name.namespace.as_str();
        if let Some(pods) = self.pods_in.get_mut(namespace) {
            pods.remove(uid);
            if pods.is_empty() {
                self.pods_in.remove(namespace);
            }
        }
        self.leave_groups(&entry.groups);
        freed
    }

    /// A Service appeared or changed; pods that it selects are spread.
    pub fn set_service(&mut self, name: &NamespacedName, selector: Option<Selector>) {
        let Some(selector) = selector else {
            self.remove_service(name);
            return;
        };
        let services = self
            .services
            .entry(name.namespace.as_str().into())
            .or_default();
        let old = services.insert(name.name.as_str().into(), selector.clone());
        if old.as_ref() != Some(&selector) {
            self.regroup(&name.namespace);
        }
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, name: &NamespacedName) {
        let Some(services) = self.services.get_mut(name.namespace.as_str()) else {
            return;
        };
        if services.remove(name.name.as_str()).is_some() {
            if services.is_empty() {
                self.services.remove(name.namespace.as_str());
            }
            self.regroup(&name.namespace);
        }
    }

    /// The best node for a pod that is known, or why there is none.
    pub fn place(&mut self, uid: &str) -> Result<Arc<str>, Arc<Unschedulable>> {
        let Some(entry) = self.pods.get(uid) else {
            return Err(Arc::new(Unschedulable::default()));
        };
        let key = ClassKey {
            wants: entry.info.wants.clone(),
            groups: entry.groups.clone(),
        };
        self.ticks += 1;
        let mut class = match self.classes.remove(&key) {
            Some(class) => class,
            None => {
                self.evict_class();
                Class::default()
            }
        };
        class.last_used = self.ticks;
        self.refresh(&key, &mut class);
        let best = class
            .feasible
            .first()
            .and_then(|rank| self.nodes[rank.2 as usize].as_ref());
        let found = match best {
            Some(node) => Ok(node.name.clone()),
            None => Err(match &class.refusal {
                Some(refusal) => refusal.clone(),
                None => {
                    let refusal = Arc::new(self.explain(&key));
                    class.refusal = Some(refusal.clone());
                    refusal
                }
            }),
        };
        self.classes.insert(key, class);
        found
    }

    /// Counts the pod on `node` until a change shows it bound or [`Cluster::forget`] takes it back.
    pub fn assume(&mut self, uid: &str, node: &Arc<str>) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.assumed = Some(node.clone());
            self.count(uid);
        }
    }

    /// Binding failed: the room it was to take is free again.
    pub fn forget(&mut self, uid: &str) -> Effects {
        let Some(entry) = self.pods.get_mut(uid) else {
            return Effects::Nothing;
        };
        if entry.info.node.is_some() || entry.assumed.take().is_none() {
            return Effects::Nothing;
        }
        self.uncount(uid)
    }

    fn changed(&mut self, id: NodeId) {
        self.log.push_back(id);
        // A class that is further behind walks over all nodes anyway.
        while self.log.len() > self.nodes.len().max(64) {
            self.log.pop_front();
            self.log_start += 1;
        }
    }

    fn recount(&mut self, which: impl Fn(&PodEntry) -> bool) {
        let uids: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, e)| which(e))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in uids {
            self.count(&uid);
        }
    }

    fn count(&mut self, uid: &str) {
        let Some(entry) = self.pods.get_mut(uid) else {
            return;
        };
        if entry.counted_on.is_some() {
            return;
        }
        let Some(&id) = entry.wanted_node().and_then(|name| self.node_ids.get(name)) else {
            return;
        };
        let Some(node) = self.nodes[id as usize].as_mut() else {
            return;
        };
        node.add(&entry.info.wants);
        entry.counted_on = Some(id);
        for group in &entry.groups {
            if let Some(group) = self.groups.get_mut(group) {
                *group.pods_on.entry(id).or_default() += 1;
            }
        }
        self.changed(id);
    }

    fn uncount(&mut self, uid: &str) -> Effects {
        let Some(entry) = self.pods.get_mut(uid) else {
            return Effects::Nothing;
        };
        let Some(id) = entry.counted_on.take() else {
            return Effects::Nothing;
        };
        if let Some(node) = self.nodes[id as usize].as_mut() {
            node.remove(&entry.info.wants);
        }
        for group in &entry.groups {
            if let Some(pods_on) = self.groups.get_mut(group).map(|group| &mut group.pods_on)
                && let Some(count) = pods_on.get_mut(&id)
            {
                *count -= 1;
                if *count == 0 {
                    pods_on.remove(&id);
                }
            }
        }
        self.changed(id);
        Effects::MayFit
    }

    fn join_groups(&mut self, info: &PodInfo) -> Vec<GroupId> {
        let mut keys = Vec::new();
        if let Some(uid) = &info.controller_uid {
            keys.push(GroupKey::Controller(uid.clone()));
        }
        let namespace = info.name.namespace.as_str();
        for (service, selector) in self.services.get(namespace).into_iter().flatten() {
            if selector.matches(&*info.labels) {
                let name = NamespacedName::new(namespace, service.as_ref());
                keys.push(GroupKey::Service(name));
            }
        }
        let mut ids: Vec<GroupId> = Vec::new();
        for key in keys {
            let id = *self.group_ids.entry(key.clone()).or_insert_with(|| {
                self.last_group += 1;
                self.last_group
            });
            let group = self.groups.entry(id).or_insert_with(|| Group {
                key,
                pods_on: HashMap::new(),
                members: 0,
            });
            group.members += 1;
            ids.push(id);
        }
        ids.sort_unstable();
        ids
    }

    fn leave_groups(&mut self, groups: &[GroupId]) {
        for id in groups {
            let Some(group) = self.groups.get_mut(id) else {
                continue;
            };
            group.members -= 1;
            if group.members == 0
                && let Some(group) = self.groups.remove(id)
            {
                self.group_ids.remove(&group.key);
            }
        }
    }

    /// The Services of a namespace changed: computes its pods' groups again.
    fn regroup(&mut self, namespace: &str) {
        let uids: Vec<_> = self
            .pods_in
            .get(namespace)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        for uid in uids {
            let Some(info) = self.pods.get(&uid).map(|entry| entry.info.clone()) else {
                continue;
            };
            let _ = self.uncount(&uid);
            let groups = self.join_groups(&info);
            if let Some(entry) = self.pods.get_mut(&uid) {
                let old = std::mem::replace(&mut entry.groups, groups);
                self.leave_groups(&old);
            }
            self.count(&uid);
        }
    }

    fn evict_class(&mut self) {
        if self.classes.len() < CLASSES_MAX {
            return;
        }
        let oldest = self.classes.iter().min_by_key(|(_, class)| class.last_used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.classes.remove(&key);
        }
    }

    fn refresh(&self, key: &ClassKey, class: &mut Class) {
        let end = self.log_start + self.log.len() as u64;
        if class.synced == end && !class.rank_of.is_empty() {
            return;
        }
        let first = class.rank_of.is_empty() || class.synced < self.log_start;
        class.rank_of.resize(self.nodes.len(), None);
        if first {
            for id in 0..self.nodes.len() {
                self.rank(key, class, NodeId::try_from(id).unwrap_or(NodeId::MAX));
            }
        } else {
            let skip = usize::try_from(class.synced - self.log_start).unwrap_or(usize::MAX);
            for &id in self.log.iter().skip(skip) {
                self.rank(key, class, id);
            }
        }
        class.synced = end;
        class.refusal = None;
    }

    fn rank(&self, key: &ClassKey, class: &mut Class, id: NodeId) {
        let index = id as usize;
        let rank = self.nodes[index].as_ref().and_then(|node| {
            node.admits(&key.wants).then(|| {
                let score = score::score(node, &key.wants, self.peers(key, id));
                (Reverse(score), node.order, id)
            })
        });
        let old = std::mem::replace(&mut class.rank_of[index], rank);
        if old != rank {
            if let Some(old) = old {
                class.feasible.remove(&old);
            }
            if let Some(rank) = rank {
                class.feasible.insert(rank);
            }
        }
    }

    /// Pods on the node that belong to the same groups.
    fn peers(&self, key: &ClassKey, id: NodeId) -> u32 {
        let groups = key.groups.iter().filter_map(|group| self.groups.get(group));
        groups
            .map(|group| group.pods_on.get(&id).copied().unwrap_or(0))
            .sum()
    }

    fn explain(&self, key: &ClassKey) -> Unschedulable {
        let mut refusal = Unschedulable::default();
        for node in self.nodes.iter().flatten() {
            refusal.add_node(node.refusals(&key.wants));
        }
        refusal
    }
}

#[cfg(test)]
mod tests;
