// SPDX-License-Identifier: Apache-2.0
//! Events about pods and the node, in Kubernetes' words: the same event again counts up, and an object
//! that has much to say is heard a little less (client-go's EventCorrelator: 25 at once, then one in five
//! minutes).
//!
//! Not here: when something is worth an event (the callers), sending (`outbox`).

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_agent_plan::Millis;
use knarr_agent_plan::status::time;
use parking_lot::Mutex;

use crate::outbox::Outbox;

mod reason;

pub use reason::EventReason;

/// Events of one object at once.
const BURST: f64 = 25.0;
/// After that, one in this time.
const REFILL_MS: f64 = 300_000.0;
/// Objects and events that are remembered; then all are forgotten, which costs a few repetitions.
const REMEMBERED_MAX: usize = 1024;

/// Kubernetes' event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As expected.
    Normal,
    /// Somebody should look.
    Warning,
}

struct Known {
    name: String,
    first_ms: Millis,
    count: i32,
}

struct Bucket {
    tokens: f64,
    at_ms: Millis,
}

#[derive(Default)]
struct Memory {
    known: HashMap<(String, String, String, String), Known>,
    buckets: HashMap<String, Bucket>,
    /// What the last name ended in.
    last_stamp: u64,
}

impl Memory {
    /// What the next event's name ends in: nanoseconds since 1970, each later than the one before. Events of the same
    /// second are shown in the order of their names (client-go names them likewise).
    fn stamp(&mut self, now_ms: Millis) -> u64 {
        let now_ns = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1_000_000);
        self.last_stamp = now_ns.max(self.last_stamp + 1);
        self.last_stamp
    }
}

/// Makes events and puts them into the outbox.
pub struct Events {
    outbox: Arc<Outbox>,
    node_name: String,
    memory: Mutex<Memory>,
}

impl Events {
    /// For this node.
    pub fn new(outbox: Arc<Outbox>, node_name: &str) -> Events {
        Events {
            outbox,
            node_name: node_name.to_owned(),
            memory: Mutex::default(),
        }
    }

    /// An event about a pod, or about one of its containers.
    pub fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        kind: Kind,
        reason: &EventReason,
        message: &str,
    ) {
        let meta = &pod.metadata;
        let field_path = container.map(|name| {
            let init = pod
                .spec
                .iter()
                .flat_map(|s| s.init_containers.iter().flatten());
            if init.into_iter().any(|c| c.name == name) {
                format!("spec.initContainers{{{name}}}")
            } else {
                format!("spec.containers{{{name}}}")
            }
        });
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path,
        };
        self.send(about, kind, reason, message, crate::clock::now_ms());
    }

    /// An event about the node.
    pub fn node(&self, kind: Kind, reason: &EventReason, message: &str) {
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        self.send(about, kind, reason, message, crate::clock::now_ms());
    }

    fn send(
        &self,
        about: ObjectReference,
        kind: Kind,
        reason: &EventReason,
        message: &str,
        now_ms: Millis,
    ) {
        let Some(event) = self.event(about, kind, reason, message, now_ms) else {
            return;
        };
        match serde_json::to_vec(&event) {
            Ok(json) => self.outbox.event(json.into()),
            Err(error) => tracing::debug!(%error, "an event cannot be written"),
        }
    }

    fn event(
        &self,
        about: ObjectReference,
        kind: Kind,
        reason: &EventReason,
        message: &str,
        now_ms: Millis,
    ) -> Option<Event> {
        let reason = reason.as_str();
        let object = about.uid.clone().unwrap_or_default();
        let mut memory = self.memory.lock();
        if memory.known.len() > REMEMBERED_MAX || memory.buckets.len() > REMEMBERED_MAX {
            *memory = Memory {
                last_stamp: memory.last_stamp,
                ..Memory::default()
            };
        }
        let bucket = memory.buckets.entry(object.clone()).or_insert(Bucket {
            tokens: BURST,
            at_ms: now_ms,
        });
        let passed_ms = now_ms.saturating_sub(bucket.at_ms).max(0);
        bucket.tokens = (bucket.tokens + passed_ms as f64 / REFILL_MS).min(BURST);
        bucket.at_ms = now_ms;
        if bucket.tokens < 1.0 {
            return None;
        }
        bucket.tokens -= 1.0;
        let key = (
            object,
            about.field_path.clone().unwrap_or_default(),
            reason.clone().into_owned(),
            message.to_owned(),
        );
        let name_of_object = about.name.clone().unwrap_or_default();
        let stamp = memory.stamp(now_ms);
        let known = memory.known.entry(key).or_insert_with(|| Known {
            name: format!("{name_of_object}.{stamp:x}"),
            first_ms: now_ms,
            count: 0,
        });
        known.count += 1;
        let namespace = about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        Some(Event {
            metadata: ObjectMeta {
                name: Some(known.name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.into_owned()),
            message: Some(message.to_owned()),
            type_: Some(match kind {
                Kind::Normal => "Normal".to_owned(),
                Kind::Warning => "Warning".to_owned(),
            }),
            count: Some(known.count),
            first_timestamp: Some(time(known.first_ms)),
            last_timestamp: Some(time(now_ms)),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node_name.clone()),
            }),
            ..Event::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c"}]},
        }))
        .expect("pod")
    }

    fn events() -> (Arc<Outbox>, Events) {
        let outbox = Arc::new(Outbox::default());
        (outbox.clone(), Events::new(outbox, "n1"))
    }

    fn next(outbox: &Outbox) -> Option<Event> {
        match outbox.next()? {
            knarr_api::feed::from_node::Message::Event(e) => {
                Some(serde_json::from_slice(&e.event_json).expect("event"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_same_event_again_counts_up_under_one_name() {
        let (outbox, events) = events();
        events.pod(
            &pod(),
            Some("c"),
            Kind::Warning,
            &EventReason::BackOff,
            "again",
        );
        events.pod(
            &pod(),
            Some("c"),
            Kind::Warning,
            &EventReason::BackOff,
            "again",
        );
        let (first, second) = (next(&outbox).expect("one"), next(&outbox).expect("two"));
        assert_eq!(first.metadata.name, second.metadata.name);
        assert_eq!((first.count, second.count), (Some(1), Some(2)));
        assert_eq!(
            first.involved_object.field_path.as_deref(),
            Some("spec.containers{c}")
        );
    }

    #[test]
    fn events_of_one_moment_have_names_in_their_order() {
        let (outbox, events) = events();
        let reasons = [
            EventReason::Pulled,
            EventReason::Created,
            EventReason::Started,
            EventReason::Killing,
        ];
        for reason in &reasons {
            events.pod(&pod(), Some("c"), Kind::Normal, reason, "m");
        }
        let mut heard: Vec<Event> = std::iter::from_fn(|| next(&outbox)).collect();
        heard.sort_by_key(|event| event.metadata.name.clone());
        let sorted: Vec<_> = heard.iter().filter_map(|e| e.reason.as_deref()).collect();
        assert_eq!(sorted, ["Pulled", "Created", "Started", "Killing"]);
    }

    #[test]
    fn an_object_that_says_too_much_is_heard_less() {
        let (outbox, events) = events();
        for n in 0..100 {
            events.pod(
                &pod(),
                None,
                Kind::Normal,
                &EventReason::Pulled,
                &n.to_string(),
            );
        }
        let other = "another object is not held back";
        events.node(Kind::Normal, &EventReason::Starting, other);
        let mut heard = 0;
        while next(&outbox).is_some() {
            heard += 1;
        }
        assert_eq!(heard, 25 + 1);
    }
}
