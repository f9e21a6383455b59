// SPDX-License-Identifier: Apache-2.0
//! The desired state as messages that make the same state again, for a fresh journal, some at a time.
//!
//! Not here: the file (`disk`).

use std::collections::BTreeMap;
use std::ops::Bound;

use knarr_api::feed::{
    Change, Delta, NodeSet, PodSet, Snapshot, ToNode, Welcome, change::Change as Kind,
    to_node::Message,
};

use super::{ObjectKey, PackedKey, Scheduling, ServiceKey, State, packed};

/// Changes in one frame of a fresh journal: bounds what a torn frame can cost and what is in memory twice.
const CHANGES_PER_FRAME: usize = 256;

/// How far the state was written: after the last key of each kind that was.
pub(super) struct Cursor {
    version: u64,
    /// Whether the state ends a snapshot. One whose snapshot was cut off must stay so, or the next start would prune by it.
    is_complete: bool,
    next: Next,
}

enum Next {
    Welcome,
    Node,
    Objects(Option<ObjectKey>),
    Pods(Option<String>),
    Services(Option<ServiceKey>),
    Endpoints(Option<PackedKey>),
    Peers(Option<String>),
    Last,
    Nothing,
}

impl Cursor {
    pub(super) fn new(state: &State) -> Cursor {
        Cursor {
            version: state.resume.as_ref().map_or(0, |(_, version)| *version),
            is_complete: state.resume.is_some(),
            next: match state.welcome {
                Some(_) => Next::Welcome,
                // There was no feed yet.
                None => Next::Nothing,
            },
        }
    }

    /// The next message; none after the last one.
    pub(super) fn next(&mut self, state: &State) -> Option<ToNode> {
        loop {
            let (changes, next) = match &self.next {
                Next::Nothing => return None,
                Next::Welcome => {
                    self.next = Next::Node;
                    let welcome = Welcome {
                        resumed: false,
                        ..state.welcome.clone()?
                    };
                    return Some(message(Message::Welcome(welcome)));
                }
                Next::Last => {
                    self.next = Next::Nothing;
                    return self
                        .is_complete
                        .then(|| self.delta(Vec::new(), Snapshot::Last));
                }
                Next::Node => {
                    let unschedulable = state.scheduling == Scheduling::Unschedulable;
                    let change = Change {
                        change: Some(Kind::NodeSet(NodeSet { unschedulable })),
                    };
                    let changes = unschedulable.then_some(change).into_iter().collect();
                    (changes, Next::Objects(None))
                }
                Next::Objects(after) => {
                    let set = |_: &ObjectKey, entry: &_| {
                        let entry: &std::sync::Arc<super::ObjectEntry> = entry;
                        Kind::ObjectSet(entry.set.clone())
                    };
                    some(
                        &state.objects,
                        after.as_ref(),
                        set,
                        Next::Objects,
                        Next::Pods(None),
                    )
                }
                Next::Pods(after) => {
                    let set = |uid: &String, entry: &super::PodEntry| {
                        Kind::PodSet(PodSet {
                            uid: uid.clone(),
                            pod_json: entry.json.clone(),
                        })
                    };
                    some(
                        &state.pods,
                        after.as_ref(),
                        set,
                        Next::Pods,
                        Next::Services(None),
                    )
                }
                Next::Services(after) => some(
                    &state.services,
                    after.as_ref(),
                    |key, service| Kind::ServiceSet(packed::unpack_service(key, service)),
                    Next::Services,
                    Next::Endpoints(None),
                ),
                Next::Endpoints(after) => some(
                    &state.endpoints,
                    after.as_ref(),
                    |key, endpoint| Kind::EndpointSet(packed::unpack(key, endpoint)),
                    Next::Endpoints,
                    Next::Peers(None),
                ),
                Next::Peers(after) => some(
                    &state.peers,
                    after.as_ref(),
                    |_, set| Kind::PeerSet(set.clone()),
                    Next::Peers,
                    Next::Last,
                ),
            };
            self.next = next;
            if !changes.is_empty() {
                return Some(self.delta(changes, Snapshot::Part));
            }
        }
    }

    fn delta(&self, changes: Vec<Change>, snapshot: Snapshot) -> ToNode {
        message(Message::Delta(Delta {
            version: self.version,
            changes,
            snapshot: snapshot.into(),
        }))
    }
}

fn message(message: Message) -> ToNode {
    ToNode {
        message: Some(message),
    }
}

/// Some entries after a key as changes, and where to go on.
fn some<K: Ord + Clone, V>(
    map: &BTreeMap<K, V>,
    after: Option<&K>,
    change: impl Fn(&K, &V) -> Kind,
    again: impl Fn(Option<K>) -> Next,
    then: Next,
) -> (Vec<Change>, Next) {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut changes = Vec::new();
    let mut last = None;
    for (key, value) in map.range((from, Bound::Unbounded)).take(CHANGES_PER_FRAME) {
        changes.push(Change {
            change: Some(change(key, value)),
        });
        last = Some(key);
    }
    let next = match last {
        Some(last) if changes.len() == CHANGES_PER_FRAME => again(Some(last.clone())),
        _ => then,
    };
    (changes, next)
}
