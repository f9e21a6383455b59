// SPDX-License-Identifier: Apache-2.0
//! The scheduler as a value: what each change means, which pod is tried next, and what is to be done for it.
//!
//! The controller feeds it with what it watches, carries out its decisions, and reports how they ended. A pod that is being
//! bound counts on its node from the decision on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use knarr_api::k8s_openapi::api::core::v1::{Node, Pod, Service};
use knarr_api::names::NamespacedName;

use super::{Cluster, Effects, Notification, Notifications, PodInfo, SchedulingQueue};
use crate::endpoint_slice::selector_of;

/// A pod to bind to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The pod's uid: a pod that was created again under its name is not bound.
    pub uid: Arc<str>,
    /// The pod's name.
    pub pod: NamespacedName,
    /// The node's name.
    pub node: Arc<str>,
}

/// What the scheduler decided for one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Bind it. [`Scheduler::binding_failed`] has to follow if it was not bound.
    Bind(Binding),
    /// No node fits it now.
    Unschedulable(Arc<str>),
}

/// Nodes, pods and Services, the pods without a node, and the reasons that they get.
#[derive(Debug, Default)]
pub struct Scheduler {
    cluster: Cluster,
    queue: SchedulingQueue,
    notifications: Notifications,
    /// Uids by name, because the end of an object names it only so.
    uids: HashMap<NamespacedName, Arc<str>>,
}

impl Scheduler {
    /// What is known of nodes, pods and Services.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The pods without a node.
    pub fn queue(&self) -> &SchedulingQueue {
        &self.queue
    }

    /// A pod was created or changed.
    pub fn set_pod(&mut self, pod: &Pod) {
        let info = PodInfo::of(pod);
        let uid = info.uid.clone();
        let old = self.uids.insert(info.name.clone(), uid.clone());
        if let Some(old) = old.filter(|old| *old != uid) {
            // It was created again under its name, and no event showed the end of the first.
            self.forget_pod(&old);
        }
        let known = self.cluster.pod(&uid);
        let asks_for_other = known
            .is_none_or(|known| (&known.wants, known.is_gated) != (&info.wants, info.is_gated));
        let effects = self.cluster.set_pod(info);
        self.react(effects);
        let Some(info) = self.cluster.pod(&uid) else {
            return;
        };
        if !info.needs_node() {
            self.dequeue(&uid);
        } else if self.cluster.node_of(&uid).is_none()
            && (asks_for_other || !self.queue.is_unschedulable(&uid))
        {
            self.queue.add(info);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, name: &NamespacedName) {
        if let Some(uid) = self.uids.remove(name) {
            self.forget_pod(&uid);
        }
    }

    /// Every pod is gone of which `exists` is false.
    pub fn retain_pods(&mut self, exists: impl Fn(&NamespacedName) -> bool) {
        let gone = self.uids.keys().filter(|name| !exists(name));
        let gone: Vec<NamespacedName> = gone.cloned().collect();
        for name in gone {
            self.remove_pod(&name);
        }
    }

    fn forget_pod(&mut self, uid: &Arc<str>) {
        self.dequeue(uid);
        let effects = self.cluster.remove_pod(uid);
        self.react(effects);
    }

    fn dequeue(&mut self, uid: &Arc<str>) {
        if let Some(info) = self.cluster.pod(uid) {
            self.queue.remove(info);
        }
        self.notifications.forget(uid);
    }

    /// A node was created or changed.
    pub fn set_node(&mut self, node: &Node) {
        let effects = self.cluster.set_node(node);
        self.react(effects);
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &str) {
        self.cluster.remove_node(name);
    }

    /// Every node is gone of which `exists` is false.
    pub fn retain_nodes(&mut self, exists: impl Fn(&str) -> bool) {
        let gone = self.cluster.node_names().filter(|name| !exists(name));
        let gone: Vec<Arc<str>> = gone.cloned().collect();
        for name in gone {
            self.remove_node(&name);
        }
    }

    /// A Service was created or changed.
    pub fn set_service(&mut self, name: &NamespacedName, service: &Service) {
        self.cluster.set_service(name, selector_of(service));
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, name: &NamespacedName) {
        self.cluster.remove_service(name);
    }

    /// Every Service is gone of which `exists` is false.
    pub fn retain_services(&mut self, exists: impl Fn(&NamespacedName) -> bool) {
        let gone: Vec<_> = self
            .cluster
            .service_names()
            .filter(|name| !exists(name))
            .collect();
        for name in gone {
            self.remove_service(&name);
        }
    }

    fn react(&mut self, effects: Effects) {
        match effects {
            Effects::MayFit => self.queue.activate_all(),
            Effects::Nothing => {}
        }
    }

    /// Decides for the first pod of the queue; `None` when it is empty.
    pub fn schedule_one(&mut self, now: Instant) -> Option<Decision> {
        loop {
            let uid = self.queue.pop()?;
            let Some(pod) = self.cluster.pod(&uid).map(|info| info.name.clone()) else {
                continue;
            };
            return Some(match self.cluster.place(&uid) {
                Ok(node) => {
                    self.cluster.assume(&uid, &node);
                    Decision::Bind(Binding { uid, pod, node })
                }
                Err(refusal) => {
                    if let Some(info) = self.cluster.pod(&uid) {
                        self.queue.add_unschedulable(info);
                    }
                    self.notify(&uid, refusal.to_string(), now);
                    Decision::Unschedulable(uid)
                }
            });
        }
    }

    /// A pod was not bound: the room that it was to take is free again, and it is tried again if it still needs a node. A
    /// pod that others bound or deleted has shown it meanwhile.
    pub fn binding_failed(&mut self, uid: &str) {
        let effects = self.cluster.forget(uid);
        self.react(effects);
        if let Some(info) = self.cluster.pod(uid).filter(|info| info.needs_node()) {
            self.queue.add(info);
        }
    }

    fn notify(&mut self, uid: &Arc<str>, message: String, now: Instant) {
        if let Some(info) = self.cluster.pod(uid) {
            let known = info.unschedulable_message.as_deref();
            self.notifications.unschedulable(uid, message, known, now);
        }
    }

    /// The next reason to write, and the name of its pod. [`Scheduler::notified`] or [`Scheduler::not_notified`] has to
    /// follow.
    pub fn next_notification(&mut self) -> Option<(NamespacedName, Notification)> {
        loop {
            let notification = self.notifications.take_next()?;
            match self.cluster.pod(&notification.uid) {
                Some(info) => return Some((info.name.clone(), notification)),
                None => self.notifications.written(&notification.uid),
            }
        }
    }

    /// A pod has its reason.
    pub fn notified(&mut self, uid: &str) {
        self.notifications.written(uid);
    }

    /// A reason was not written.
    pub fn not_notified(&mut self, uid: &Arc<str>, now: Instant) {
        self.notifications.failed(uid, now);
    }

    /// When [`Scheduler::retry_notifications`] has something to do.
    pub fn retry_at(&self) -> Option<Instant> {
        self.notifications.retry_at()
    }

    /// Looks up the reasons again of unschedulable pods that did not get their last one.
    pub fn retry_notifications(&mut self, now: Instant) {
        for uid in self.notifications.take_postponed() {
            if self.queue.is_unschedulable(&uid)
                && let Err(refusal) = self.cluster.place(&uid)
            {
                self.notify(&uid, refusal.to_string(), now);
            }
        }
    }
}

#[cfg(test)]
mod tests;
