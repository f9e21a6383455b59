// SPDX-License-Identifier: Apache-2.0
//! Events of the control plane. An Event that is repeated is one object with a count.
//!
//! [`Correlator`] follows client-go's `EventCorrelator` (v1.37): the same event again only counts up, many
//! similar ones become one, and a source that talks too much about one object is not heard. Its memory is
//! bounded.

use std::collections::{HashMap, VecDeque};

use knarr_api::k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use knarr_api::k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::reason::EventReason;

/// Events remembered (client-go's `maxLruCacheEntries`); an older one that is repeated is a new object.
const REMEMBERED_MAX: usize = 4096;
/// Events about one object from one source at once (`defaultSpamBurst`).
const BURST: f64 = 25.0;
/// And as many a second after that: one in five minutes (`defaultSpamQPS`).
const REFILL_PER_S: f64 = 1.0 / 300.0;
/// Events that differ only in their message, within [`SIMILAR_WINDOW`], before they are combined into one
/// (`defaultAggregateMaxEvents`).
const SIMILAR_MAX: u32 = 10;
/// See [`SIMILAR_MAX`] (`defaultAggregateIntervalInSeconds`).
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);

/// How serious an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Things go their way.
    Normal,
    /// Something does not.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Something worth telling about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The object.
    pub about: ObjectReference,
    /// Normal or warning.
    pub severity: Severity,
    /// Why.
    pub reason: EventReason,
    /// A sentence.
    pub message: String,
    /// The part of the control plane that reports it, such as `default-scheduler`.
    pub source: &'static str,
}

/// What to write for a note.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// A new Event.
    Create(Box<Event>),
    /// A known Event happened again: replace count, time and message.
    Count {
        /// Namespace of the Event.
        namespace: String,
        /// Name of the Event.
        name: String,
        /// How often it happened.
        count: i32,
        /// When it happened last.
        last: Timestamp,
        /// Its message, which changes for similar events that are combined.
        message: String,
    },
    /// Nothing: the object has had too many events.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    source: &'static str,
    namespace: String,
    kind: String,
    name: String,
    uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Similar {
    subject: Subject,
    severity: Severity,
    reason: EventReason,
}

#[derive(Debug)]
struct Told {
    namespace: String,
    name: String,
    count: i32,
}

/// Remembers the events that were written.
#[derive(Debug, Default)]
pub struct Correlator {
    told: Bounded<(Similar, String), Told>,
    similar: Bounded<Similar, (u32, Timestamp)>,
    budget: Bounded<Subject, (f64, Timestamp)>,
}

impl Correlator {
    /// Decides what to write for `note`.
    pub fn correlate(&mut self, note: &Note, now: Timestamp) -> Write {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let subject = Subject {
            source: note.source,
            namespace: text(&note.about.namespace),
            kind: text(&note.about.kind),
            name: text(&note.about.name),
            uid: text(&note.about.uid),
        };
        if !self.pays(&subject, now) {
            return Write::Nothing;
        }
        let similar = Similar {
            subject,
            severity: note.severity,
            reason: note.reason,
        };
        let (key, message) = self.key_and_message(similar, note, now);
        if let Some(told) = self.told.get(&key) {
            told.count += 1;
            let Told {
                namespace,
                name,
                count,
            } = told;
            return Write::Count {
                namespace: namespace.clone(),
                name: name.clone(),
                count: *count,
                last: now,
                message,
            };
        }
        let event = new_event(note, message, now);
        let told = Told {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 1,
        };
        self.told.insert(key, told);
        Write::Create(Box::new(event))
    }

    /// The Event written for `note` is gone: the next time it is a new one.
    pub fn forget(&mut self, namespace: &str, name: &str) {
        self.told
            .retain(|told| told.namespace != namespace || told.name != name);
    }

    fn pays(&mut self, subject: &Subject, now: Timestamp) -> bool {
        let (mut left, since) = self.budget.get(subject).copied().unwrap_or((BURST, now));
        left = (left + now.duration_since(since).as_secs_f64().max(0.0) * REFILL_PER_S).min(BURST);
        let pays = left >= 1.0;
        self.budget
            .insert(subject.clone(), (if pays { left - 1.0 } else { left }, now));
        pays
    }

    fn key_and_message(
        &mut self,
        similar: Similar,
        note: &Note,
        now: Timestamp,
    ) -> ((Similar, String), String) {
        let exact = (similar.clone(), note.message.clone());
        if self.told.get(&exact).is_some() {
            return (exact, note.message.clone());
        }
        let (mut count, mut since) = self.similar.get(&similar).copied().unwrap_or((0, now));
        if now.duration_since(since) > SIMILAR_WINDOW {
            (count, since) = (0, now);
        }
        count += 1;
        self.similar.insert(similar.clone(), (count, since));
        if count < SIMILAR_MAX {
            (exact, note.message.clone())
        } else {
            (
                (similar, String::new()),
                format!("(combined from similar events): {}", note.message),
            )
        }
    }
}

fn new_event(note: &Note, message: String, now: Timestamp) -> Event {
    let about = note.about.clone();
    let name = about.name.clone().unwrap_or_default();
    // Events of objects of the cluster live in `default`, as in Kubernetes.
    let namespace = about
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about,
        type_: Some(note.severity.as_str().to_owned()),
        reason: Some(note.reason.as_str().to_owned()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(note.source.to_owned()),
            host: None,
        }),
        reporting_component: Some(note.source.to_owned()),
        reporting_instance: Some(String::new()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

/// A map that forgets its oldest entries.
#[derive(Debug)]
struct Bounded<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Clone + Eq + std::hash::Hash, V> Bounded<K, V> {
    fn get(&mut self, key: &K) -> Option<&mut V> {
        self.map.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
        while self.map.len() > REMEMBERED_MAX {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.map.remove(&oldest);
        }
    }

    fn retain(&mut self, keeps: impl Fn(&V) -> bool) {
        self.map.retain(|_, value| keeps(value));
        let map = &self.map;
        self.order.retain(|key| map.contains_key(key));
    }
}

#[cfg(test)]
mod tests;
