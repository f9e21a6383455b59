// SPDX-License-Identifier: Apache-2.0
//! What this node has to say: the latest status of each pod, pods that are gone, the Node, events.
//!
//! Keeps the latest of each, not a history, so it is bounded by the number of pods and nothing is lost by
//! a broken connection: everything is said again on the next one. Events are the exception: they are a
//! bounded queue, and the oldest go first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use knarr_api::feed::{EventReport, NodeReport, PodGone, PodReport, from_node::Message};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

/// Events that wait for a connection. More than this many are not worth memory.
const EVENTS_MAX: usize = 512;

#[derive(Default)]
struct Inner {
    node: Bytes,
    node_unsaid: bool,
    statuses: BTreeMap<String, PodReport>,
    unsaid: BTreeSet<String>,
    gone: BTreeMap<String, PodGone>,
    gone_unsaid: BTreeSet<String>,
    events: VecDeque<Bytes>,
}

/// See the module's comment.
pub struct Outbox {
    inner: Mutex<Inner>,
    wake: watch::Sender<u64>,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            inner: Mutex::default(),
            wake: watch::Sender::new(0),
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    fn changed(&self) {
        self.wake.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Wakes when there may be something to say.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.wake.subscribe()
    }

    /// The Node as it is; said when it differs from what was said.
    pub fn node(&self, json: Bytes) {
        {
            let mut inner = self.lock();
            if inner.node == json {
                return;
            }
            inner.node = json;
            inner.node_unsaid = true;
        }
        self.changed();
    }

    /// The Node for Hello.
    pub fn node_json(&self) -> Bytes {
        let mut inner = self.lock();
        inner.node_unsaid = false;
        inner.node.clone()
    }

    /// A pod's status; said when it differs from the last one.
    pub fn pod(&self, report: PodReport) {
        {
            let mut inner = self.lock();
            if inner.statuses.get(&report.uid) == Some(&report) {
                return;
            }
            inner.unsaid.insert(report.uid.clone());
            inner.statuses.insert(report.uid.clone(), report);
        }
        self.changed();
    }

    /// The control plane may hold another status of this pod than the last one that was said.
    pub fn say_again(&self, uid: &str) {
        {
            let mut inner = self.lock();
            if !inner.statuses.contains_key(uid) {
                return;
            }
            inner.unsaid.insert(uid.to_owned());
        }
        self.changed();
    }

    /// A pod is gone. Said until [`Outbox::forget`].
    pub fn gone(&self, gone: PodGone) {
        {
            let mut inner = self.lock();
            inner.gone_unsaid.insert(gone.uid.clone());
            inner.gone.insert(gone.uid.clone(), gone);
        }
        self.changed();
    }

    /// The control plane does not know the pod any more.
    pub fn forget(&self, uid: &str) {
        let mut inner = self.lock();
        inner.statuses.remove(uid);
        inner.unsaid.remove(uid);
        inner.gone.remove(uid);
        inner.gone_unsaid.remove(uid);
    }

    /// An event.
    pub fn event(&self, json: Bytes) {
        {
            let mut inner = self.lock();
            if inner.events.len() >= EVENTS_MAX {
                inner.events.pop_front();
            }
            inner.events.push_back(json);
        }
        self.changed();
    }

    /// A new connection knows nothing.
    pub fn say_all_again(&self) {
        let mut inner = self.lock();
        inner.unsaid = inner.statuses.keys().cloned().collect();
        inner.gone_unsaid = inner.gone.keys().cloned().collect();
    }

    /// The next thing to say. Ends come last: the control plane forgets a pod at its end, and takes no status and no
    /// event of it afterwards.
    pub fn next(&self) -> Option<Message> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.node_unsaid) {
            let node_json = inner.node.clone();
            return Some(Message::Node(NodeReport { node_json }));
        }
        while let Some(uid) = inner.unsaid.pop_first() {
            if let Some(report) = inner.statuses.get(&uid) {
                return Some(Message::Pod(report.clone()));
            }
        }
        if let Some(event_json) = inner.events.pop_front() {
            return Some(Message::Event(EventReport { event_json }));
        }
        while let Some(uid) = inner.gone_unsaid.pop_first() {
            if let Some(gone) = inner.gone.get(&uid) {
                return Some(Message::PodGone(gone.clone()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(uid: &str, status: &'static str) -> PodReport {
        PodReport {
            uid: uid.to_owned(),
            status_json: Bytes::from_static(status.as_bytes()),
            ..PodReport::default()
        }
    }

    #[test]
    fn a_status_is_said_once_for_each_change_and_again_on_a_new_connection() {
        let outbox = Outbox::default();
        outbox.pod(report("a", "1"));
        outbox.pod(report("a", "2"));
        assert_eq!(outbox.next(), Some(Message::Pod(report("a", "2"))));
        outbox.pod(report("a", "2"));
        assert_eq!(outbox.next(), None);
        outbox.say_all_again();
        assert_eq!(outbox.next(), Some(Message::Pod(report("a", "2"))));
        outbox.say_again("a");
        outbox.say_again("b");
        assert_eq!(outbox.next(), Some(Message::Pod(report("a", "2"))));
        assert_eq!(outbox.next(), None);
    }

    #[test]
    fn a_last_status_and_events_are_said_before_the_end() {
        let outbox = Outbox::default();
        outbox.gone(PodGone {
            uid: "a".into(),
            ..PodGone::default()
        });
        outbox.event(Bytes::from_static(b"{}"));
        outbox.pod(report("a", "1"));
        assert!(matches!(outbox.next(), Some(Message::Pod(_))));
        assert!(matches!(outbox.next(), Some(Message::Event(_))));
        assert!(matches!(outbox.next(), Some(Message::PodGone(_))));
        outbox.say_all_again();
        outbox.forget("a");
        assert_eq!(outbox.next(), None);
    }

    #[test]
    fn events_are_bounded_and_the_oldest_go_first() {
        let outbox = Outbox::default();
        for n in 0..EVENTS_MAX + 1 {
            outbox.event(Bytes::from(n.to_string()));
        }
        let Some(Message::Event(first)) = outbox.next() else {
            panic!("no event");
        };
        assert_eq!(&first.event_json[..], b"1");
    }
}
