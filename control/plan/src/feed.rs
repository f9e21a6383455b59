// SPDX-License-Identifier: Apache-2.0
//! The node feed: turns changed objects into the changes that are sent to nodes.
//!
//! [`FeedView`] is the compact picture of everything that any node needs. Each `observe_` function takes one
//! object as it is now (or its absence) and returns only what differs, with the nodes it is for. The feed
//! hub of the control plane is the caller; nothing here knows about connections, versions or time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use knarr_api::feed::{Change, NodeSet, PeerRemove, PeerSet, PodRemove, PodSet, change};
use knarr_api::k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use knarr_api::names::NamespacedName;

pub mod admission;
mod objects;
mod own;
mod pods;
mod reports;
mod services;

pub use objects::{ObjectKey, ObjectKind};
pub use own::{OwnNode, own_event, own_node, plan_event};
pub use pods::PodView;
pub use reports::{NodeWrites, must_show_heartbeat, plan_node, plan_pod_status, show_heartbeat};
pub use services::EndpointKey;

use objects::ObjectViews;
use services::ServiceView;

/// Which nodes a change is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Every node.
    All,
    /// Every node but this one: a node is not its own peer.
    AllExcept(Arc<str>),
    /// This node alone.
    Node(Arc<str>),
}

impl Audience {
    /// Whether the change is sent to `node`.
    pub fn includes(&self, node: &str) -> bool {
        match self {
            Self::All => true,
            Self::AllExcept(name) => &**name != node,
            Self::Node(name) => &**name == node,
        }
    }
}

/// A change and the nodes that it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The nodes that get it.
    pub audience: Audience,
    /// The change.
    pub change: Change,
    /// Where the view keeps what `change` carries, for one that carries an object's whole body; see
    /// [`FeedView::again`].
    pub body: Option<Body>,
}

/// An object whose body the view keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A pod, by its name and uid.
    Pod(NamespacedName, String),
    /// A ConfigMap or Secret.
    Object(ObjectKey),
}

impl Outgoing {
    fn all(change: change::Change) -> Self {
        Self::new(Audience::All, change)
    }

    fn node(node: &Arc<str>, change: change::Change) -> Self {
        Self::new(Audience::Node(node.clone()), change)
    }

    fn body(node: &Arc<str>, change: change::Change, body: Body) -> Self {
        Self {
            body: Some(body),
            ..Self::node(node, change)
        }
    }

    fn new(audience: Audience, change: change::Change) -> Self {
        Self {
            audience,
            change: Change {
                change: Some(change),
            },
            body: None,
        }
    }
}

/// Everything that was sent to nodes, as it was sent last, in maps that shrink when many objects are gone.
#[derive(Debug, Default)]
pub struct FeedView {
    pods: BTreeMap<NamespacedName, PodView>,
    objects: ObjectViews,
    services: BTreeMap<NamespacedName, ServiceView>,
    /// Which Service an EndpointSlice belongs to, so that its removal finds its endpoints again.
    slices: BTreeMap<NamespacedName, NamespacedName>,
    peers: BTreeMap<Arc<str>, PeerSet>,
    /// Nodes that get no new pods.
    unschedulable: BTreeSet<Arc<str>>,
}

impl FeedView {
    /// Takes in a pod as it is now, with its JSON as the API serves it.
    pub fn observe_pod(&mut self, pod: &Pod, json: impl Into<bytes::Bytes>) -> Vec<Outgoing> {
        let name = NamespacedName::new(
            pod.metadata.namespace.clone().unwrap_or_default(),
            pod.metadata.name.clone().unwrap_or_default(),
        );
        let Some(mut view) = PodView::of(pod, json.into()) else {
            return self.forget_pod(&name);
        };
        let mut out = Vec::new();
        if self.pods.get(&name).is_some_and(|old| old.uid != view.uid) {
            out.extend(self.forget_pod(&name));
        }
        let old = self.pods.get(&name);
        view.reported = old.and_then(|old| old.reported);
        // A status that the node did not report is sent to it: the node corrects it, or ends a pod that another client
        // has given a last phase.
        let is_known = |old: &PodView| {
            let status_is_known = old.status == view.status || view.reported == Some(view.status);
            old.digest == view.digest && status_is_known
        };
        if old.is_some_and(is_known) {
            self.pods.insert(name, view);
            return out;
        }
        let before = old.map(|old| old.refers.clone()).unwrap_or_default();
        // What a pod refers to is on its node before the pod is.
        for object in view.refers.difference(&before) {
            out.extend(self.objects.refer(&view.node, object));
        }
        let body = Body::Pod(name.clone(), view.uid.clone());
        out.push(Outgoing::body(&view.node, view.to_change(), body));
        for object in before.difference(&view.refers) {
            out.extend(self.objects.release(&view.node, object));
        }
        self.pods.insert(name, view);
        out
    }

    /// Takes in the status that a pod is about to get from its node's report, so that it is not sent back to the node.
    pub fn report_pod(&mut self, name: &NamespacedName, uid: &str, status: &PodStatus) {
        if let Some(view) = self.pods.get_mut(name).filter(|view| view.uid == uid) {
            view.reported = Some(pods::status_digest(status));
        }
    }

    /// Takes in that there is no such pod any more.
    pub fn forget_pod(&mut self, name: &NamespacedName) -> Vec<Outgoing> {
        let Some(old) = self.pods.remove(name) else {
            return Vec::new();
        };
        let remove = change::Change::PodRemove(PodRemove { uid: old.uid });
        let mut out = vec![Outgoing::node(&old.node, remove)];
        for object in &old.refers {
            out.extend(self.objects.release(&old.node, object));
        }
        out
    }

    /// Takes in a ConfigMap or Secret as it is now; `None` when it is gone.
    pub fn observe_object(&mut self, key: &ObjectKey, json: Option<bytes::Bytes>) -> Vec<Outgoing> {
        self.objects.observe(key, json)
    }

    /// Takes in a Node as it is now: an address and pod range that the other nodes route to, and what the node itself gets
    /// of its object.
    pub fn observe_node(&mut self, node: &Node) -> Vec<Outgoing> {
        let name: Arc<str> = node.metadata.name.as_deref().unwrap_or_default().into();
        let mut out = Vec::from_iter(self.observe_own(&name, node));
        out.extend(self.observe_peer(name, node));
        out
    }

    fn observe_own(&mut self, name: &Arc<str>, node: &Node) -> Option<Outgoing> {
        let spec = node.spec.as_ref();
        let unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        let changed = if unschedulable {
            self.unschedulable.insert(name.clone())
        } else {
            self.unschedulable.remove(name)
        };
        let set = change::Change::NodeSet(NodeSet { unschedulable });
        changed.then(|| Outgoing::node(name, set))
    }

    fn observe_peer(&mut self, name: Arc<str>, node: &Node) -> Vec<Outgoing> {
        let addresses = node
            .status
            .iter()
            .flat_map(|status| status.addresses.iter().flatten());
        let peer = PeerSet {
            name: name.to_string(),
            addresses: addresses
                .filter(|address| address.type_ == "InternalIP")
                .map(|address| address.address.clone())
                .collect(),
            pod_cidrs: node
                .spec
                .as_ref()
                .and_then(|spec| spec.pod_cidrs.clone())
                .unwrap_or_default(),
        };
        if peer.addresses.is_empty() || peer.pod_cidrs.is_empty() {
            return self.forget_peer(&name);
        }
        if self.peers.get(&name) == Some(&peer) {
            return Vec::new();
        }
        self.peers.insert(name.clone(), peer.clone());
        vec![Outgoing::new(
            Audience::AllExcept(name),
            change::Change::PeerSet(peer),
        )]
    }

    /// Takes in that there is no such node any more.
    pub fn forget_node(&mut self, name: &str) -> Vec<Outgoing> {
        self.unschedulable.remove(name);
        self.forget_peer(name)
    }

    fn forget_peer(&mut self, name: &str) -> Vec<Outgoing> {
        let Some((name, peer)) = self.peers.remove_entry(name) else {
            return Vec::new();
        };
        let remove = change::Change::PeerRemove(PeerRemove { name: peer.name });
        vec![Outgoing::new(Audience::AllExcept(name), remove)]
    }

    /// The node that a pod of this name and UID is bound to.
    pub fn node_of_pod(&self, name: &NamespacedName, uid: &str) -> Option<&Arc<str>> {
        self.pods
            .get(name)
            .filter(|pod| pod.uid == uid)
            .map(|pod| &pod.node)
    }

    /// The body of an object as it is now, as the change that is sent to `node`. `None` where the node must not
    /// have it any more: the change that took it away comes later than the one that gave it.
    pub fn again(&self, body: &Body, node: &str) -> Option<Change> {
        let change = match body {
            Body::Pod(name, uid) => {
                let pod = self.pods.get(name)?;
                (pod.uid == *uid && &*pod.node == node).then(|| pod.to_change())
            }
            Body::Object(key) => self.objects.again(key, node),
        };
        change.map(|change| Change {
            change: Some(change),
        })
    }

    /// A part of what every node has to know of Services: whole ones after the one named, until there are `enough`
    /// changes. With it the name of the last, where more follow.
    pub fn snapshot_services(
        &self,
        after: Option<&NamespacedName>,
        enough: usize,
    ) -> (Vec<Change>, Option<NamespacedName>) {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self
            .services
            .range::<NamespacedName, _>((first, Bound::Unbounded))
            .peekable();
        let mut changes = Vec::new();
        while let Some((name, service)) = rest.next() {
            let told = service.snapshot().into_iter().map(|change| Change {
                change: Some(change),
            });
            changes.extend(told);
            if changes.len() >= enough && rest.peek().is_some() {
                return (changes, Some(name.clone()));
            }
        }
        (changes, None)
    }

    /// Everything else that `node` has to know, in an order that needs nothing later.
    pub fn snapshot_of_node(&self, node: &str) -> Vec<Change> {
        let peers = self
            .peers
            .iter()
            .filter(|(name, _)| &***name != node)
            .map(|(_, peer)| change::Change::PeerSet(peer.clone()));
        let pods = self
            .pods
            .values()
            .filter(|pod| &*pod.node == node)
            .map(PodView::to_change);
        let unschedulable = self.unschedulable.contains(node);
        let own = unschedulable.then_some(change::Change::NodeSet(NodeSet { unschedulable }));
        own.into_iter()
            .chain(peers)
            .chain(self.objects.snapshot(node))
            .chain(pods)
            .map(|change| Change {
                change: Some(change),
            })
            .collect()
    }
}

/// What a pod's environment refers to.
type References = BTreeSet<ObjectKey>;

impl PodView {
    fn to_change(&self) -> change::Change {
        change::Change::PodSet(PodSet {
            uid: self.uid.clone(),
            pod_json: self.json.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
