// SPDX-License-Identifier: Apache-2.0
//! What the control plane wants of this node: pods, the objects they refer to, Services, endpoints, peers.
//!
//! Only the feed changes it; pod workers and the Service loop read it. A wake-up says "look again"; what
//! was touched since the last look is taken with it, so that one endpoint costs one endpoint. Every change
//! is in the journal (`disk`) before anybody can see it, so whatever a worker made has a reason on disk.
//! Not here: carrying anything out.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use knarr_agent_plan::env::{Objects, ServiceVars};
use knarr_agent_plan::node::Scheduling;
use knarr_api::feed::{
    Change, Delta, EndpointSet, ObjectSet, PeerSet, ServiceSet, Snapshot, Welcome,
    change::Change as Kind, to_node::Message,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

pub mod disk;
mod fresh;
mod packed;
mod touched;
mod weighed;

use disk::{Journal, JournalError};
use fresh::Cursor;
use packed::{PackedEndpoint, PackedKey, PackedService};
pub use touched::{TouchedPods, TouchedServices};
use weighed::Weighed;

/// Namespace and name of a Service.
pub type ServiceKey = (String, String);
/// Namespace, Service, port name, address, port.
pub type EndpointKey = (String, String, String, String, u32);
/// Kind, namespace, name.
pub type ObjectKey = (String, String, String);

struct PodEntry {
    json: bytes::Bytes,
    pod: Arc<Pod>,
}

/// A ConfigMap or Secret: as it came, and read when a pod first needs it. Shared, so that reading it holds
/// nobody up.
struct ObjectEntry {
    set: ObjectSet,
    parsed: OnceLock<Parsed>,
}

/// What an object is.
#[derive(Clone)]
enum Parsed {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    /// Of another kind, or not readable: pods that need it wait for it.
    Unusable,
}

impl ObjectEntry {
    fn parsed(&self) -> &Parsed {
        self.parsed.get_or_init(|| {
            let json = &self.set.object_json;
            let parsed = match self.set.kind.as_str() {
                "ConfigMap" => serde_json::from_slice(json).map(|m| Parsed::ConfigMap(Arc::new(m))),
                "Secret" => serde_json::from_slice(json).map(|s| Parsed::Secret(Arc::new(s))),
                other => {
                    tracing::debug!(kind = other, "an object of an unknown kind is ignored");
                    Ok(Parsed::Unusable)
                }
            };
            parsed.unwrap_or_else(|error| {
                let ObjectSet {
                    kind,
                    namespace,
                    name,
                    ..
                } = &self.set;
                // Not the contents: it may be a Secret.
                tracing::error!(
                    kind,
                    namespace,
                    name,
                    line = error.line(),
                    column = error.column(),
                    "an object that cannot be read is ignored"
                );
                Parsed::Unusable
            })
        })
    }
}

/// The whole desired state.
#[derive(Default)]
pub struct State {
    /// Epoch and version that this state stands for; none before the first complete snapshot.
    resume: Option<(String, u64)>,
    welcome: Option<Welcome>,
    pods: Weighed<String, PodEntry>,
    services: Weighed<ServiceKey, PackedService>,
    endpoints: Weighed<PackedKey, PackedEndpoint>,
    peers: Weighed<String, PeerSet>,
    objects: Weighed<ObjectKey, Arc<ObjectEntry>>,
    /// Whether this node gets new pods.
    scheduling: Scheduling,
    /// What the snapshot that is arriving has named so far.
    snapshot: Option<Seen>,
    touched_pods: TouchedPods,
    touched_services: TouchedServices,
}

#[derive(Default)]
struct Seen {
    pods: BTreeSet<String>,
    services: BTreeSet<ServiceKey>,
    endpoints: BTreeSet<PackedKey>,
    peers: BTreeSet<String>,
    objects: BTreeSet<ObjectKey>,
    scheduling: Scheduling,
}

fn owned(bytes: &bytes::Bytes) -> bytes::Bytes {
    // A slice of a message keeps the whole message alive.
    bytes::Bytes::copy_from_slice(bytes)
}

impl State {
    /// The bytes of a fresh journal of this state, without those of its few frames; rather too many than too few.
    fn journal_bytes(&self) -> u64 {
        let welcome = self.welcome.as_ref().map_or(0, prost::Message::encoded_len);
        welcome as u64
            + self.pods.bytes()
            + self.services.bytes()
            + self.endpoints.bytes()
            + self.peers.bytes()
            + self.objects.bytes()
    }

    /// Takes in a message of the feed; also how the journal is read.
    pub fn apply(&mut self, message: &Message) {
        match message {
            Message::Welcome(welcome) => self.apply_welcome(welcome),
            Message::Delta(delta) => self.apply_delta(delta),
            Message::OpenStream(_) => {}
        }
    }

    fn apply_welcome(&mut self, welcome: &Welcome) {
        if !welcome.resumed {
            self.resume = None;
            self.snapshot = Some(Seen::default());
        }
        if self.welcome.as_ref() != Some(welcome) {
            self.touched_pods.all = true;
        }
        self.welcome = Some(welcome.clone());
    }

    fn apply_delta(&mut self, delta: &Delta) {
        let is_of_snapshot = matches!(
            Snapshot::try_from(delta.snapshot),
            Ok(Snapshot::Part | Snapshot::Last)
        );
        if is_of_snapshot && self.snapshot.is_none() {
            // A snapshot within a connection: the control plane's log no longer had the next change for this node.
            self.resume = None;
            self.snapshot = Some(Seen::default());
        }
        for change in &delta.changes {
            self.apply_change(change);
        }
        let epoch = self.welcome.as_ref().map(|w| w.epoch.clone());
        match (Snapshot::try_from(delta.snapshot), &self.snapshot) {
            (Ok(Snapshot::Part), _) => return,
            (Ok(Snapshot::Last), _) => self.end_snapshot(),
            // An ordinary change in the middle of a snapshot does not complete it.
            (_, Some(_)) => return,
            (_, None) => {}
        }
        self.resume = epoch.map(|epoch| (epoch, delta.version));
    }

    /// Removes a Service with its endpoints: no message names those of a Service that is gone.
    fn remove_service(&mut self, key: ServiceKey) {
        let first = PackedKey::first_of(&key.0, &key.1);
        let own = self.endpoints.range(&first..);
        let own = own.take_while(|(endpoint, _)| endpoint.follows(&first));
        let gone: Vec<PackedKey> = own.map(|(endpoint, _)| endpoint.clone()).collect();
        for endpoint in gone {
            self.endpoints.remove(&endpoint);
            self.touched_services.endpoints.insert(endpoint);
        }
        self.services.remove(&key);
        self.touched_services.services.insert(key);
    }

    fn end_snapshot(&mut self) {
        let seen = self.snapshot.take().unwrap_or_default();
        let gone: Vec<_> = missing(self.pods.keys(), &seen.pods);
        for uid in gone {
            self.pods.remove(&uid);
            self.touched_pods.pod(uid);
        }
        for key in missing(self.services.keys(), &seen.services) {
            self.services.remove(&key);
            self.touched_services.services.insert(key);
        }
        for key in missing(self.endpoints.keys(), &seen.endpoints) {
            self.endpoints.remove(&key);
            self.touched_services.endpoints.insert(key);
        }
        for key in missing(self.peers.keys(), &seen.peers) {
            self.peers.remove(&key);
            self.touched_services.peers = true;
        }
        for key in missing(self.objects.keys(), &seen.objects) {
            self.objects.remove(&key);
            self.touched_pods.namespaces.insert(key.1);
        }
        self.scheduling = seen.scheduling;
        self.touched_pods.complete = true;
        self.touched_services.complete = true;
    }

    fn apply_change(&mut self, change: &Change) {
        let Some(kind) = &change.change else { return };
        let seen = self.snapshot.as_mut();
        match kind {
            Kind::PodSet(set) => {
                if let Some(seen) = seen {
                    seen.pods.insert(set.uid.clone());
                }
                if self
                    .pods
                    .get(&set.uid)
                    .is_some_and(|p| p.json == set.pod_json)
                {
                    return;
                }
                match serde_json::from_slice::<Pod>(&set.pod_json) {
                    Ok(pod) => {
                        let entry = PodEntry {
                            json: owned(&set.pod_json),
                            pod: Arc::new(pod),
                        };
                        self.pods.insert(set.uid.clone(), entry);
                        self.touched_pods.pod(set.uid.clone());
                    }
                    Err(error) => {
                        tracing::error!(uid = set.uid, %error, "a pod that cannot be read is ignored");
                    }
                }
            }
            Kind::PodRemove(remove) => {
                if self.pods.remove(&remove.uid).is_some() {
                    self.touched_pods.pod(remove.uid.clone());
                }
            }
            Kind::ServiceSet(set) => {
                let (key, service) = packed::pack_service(set);
                if let Some(seen) = seen {
                    seen.services.insert(key.clone());
                }
                self.services.insert(key.clone(), service);
                self.touched_services.services.insert(key);
            }
            Kind::ServiceRemove(remove) => {
                self.remove_service((remove.namespace.clone(), remove.name.clone()));
            }
            Kind::EndpointSet(set) => {
                let (key, endpoint) = packed::pack(set);
                if let Some(seen) = seen {
                    seen.endpoints.insert(key.clone());
                }
                self.endpoints.insert(key.clone(), endpoint);
                self.touched_services.endpoints.insert(key);
            }
            Kind::EndpointRemove(remove) => {
                let key = packed::key_of(remove);
                self.endpoints.remove(&key);
                self.touched_services.endpoints.insert(key);
            }
            Kind::PeerSet(set) => {
                if let Some(seen) = seen {
                    seen.peers.insert(set.name.clone());
                }
                self.peers.insert(set.name.clone(), set.clone());
                self.touched_services.peers = true;
            }
            Kind::PeerRemove(remove) => {
                self.peers.remove(&remove.name);
                self.touched_services.peers = true;
            }
            Kind::ObjectSet(set) => {
                let key = (set.kind.clone(), set.namespace.clone(), set.name.clone());
                if let Some(seen) = seen {
                    seen.objects.insert(key.clone());
                }
                let set = ObjectSet {
                    object_json: owned(&set.object_json),
                    ..set.clone()
                };
                self.touched_pods.namespaces.insert(key.1.clone());
                let entry = ObjectEntry {
                    set,
                    parsed: OnceLock::new(),
                };
                self.objects.insert(key, Arc::new(entry));
            }
            Kind::ObjectRemove(remove) => {
                let key = (
                    remove.kind.clone(),
                    remove.namespace.clone(),
                    remove.name.clone(),
                );
                self.objects.remove(&key);
                self.touched_pods.namespaces.insert(key.1);
            }
            Kind::NodeSet(set) => {
                self.scheduling = if set.unschedulable {
                    Scheduling::Unschedulable
                } else {
                    Scheduling::Schedulable
                };
                if let Some(seen) = seen {
                    seen.scheduling = self.scheduling;
                }
            }
        }
    }
}

fn missing<K: Ord + Clone>(
    have: impl Iterator<Item = impl std::borrow::Borrow<K>>,
    seen: &BTreeSet<K>,
) -> Vec<K> {
    have.filter(|k| !seen.contains(k.borrow()))
        .map(|k| k.borrow().clone())
        .collect()
}

/// Whether a fresh journal was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// It was.
    Written,
    /// It cannot be before the snapshot that is arriving has ended.
    SnapshotArrives,
}

/// The desired state, shared.
pub struct Desired {
    state: Mutex<State>,
    pods: watch::Sender<u64>,
    services: watch::Sender<u64>,
    scheduling: watch::Sender<Scheduling>,
}

impl Desired {
    /// Reads the last state from disk. What is found there is to be carried out at once.
    pub fn open(dir: &Path) -> Result<(Arc<Desired>, Journal), JournalError> {
        let mut state = State::default();
        let journal = Journal::open(dir, |message| {
            state.apply(message);
            // A follower begins with everything. What came and went meanwhile is not kept.
            state.touched_services = TouchedServices::default();
            state.touched_pods = TouchedPods::default();
        })?;
        if let Some(seen) = state.snapshot.take() {
            // Cut off in the middle of a snapshot: good to run by, not to prune by.
            state.resume = None;
            if seen.scheduling == Scheduling::Unschedulable {
                state.scheduling = seen.scheduling;
            }
        }
        state.touched_pods.all = true;
        state.touched_pods.complete = state.resume.is_some();
        state.touched_services.complete = state.resume.is_some();
        let desired = Desired {
            scheduling: watch::Sender::new(state.scheduling),
            state: Mutex::new(state),
            pods: watch::Sender::new(0),
            services: watch::Sender::new(0),
        };
        Ok((Arc::new(desired), journal))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes in a message and wakes whoever it concerns.
    pub fn apply(&self, message: &Message) {
        let (pods, services, scheduling) = {
            let mut state = self.lock();
            state.apply(message);
            (
                !state.touched_pods.is_empty(),
                !state.touched_services.is_empty(),
                state.scheduling,
            )
        };
        self.scheduling.send_if_modified(|known| {
            let changed = *known != scheduling;
            *known = scheduling;
            changed
        });
        if pods {
            self.pods.send_modify(|n| *n = n.wrapping_add(1));
        }
        if services {
            self.services.send_modify(|n| *n = n.wrapping_add(1));
        }
    }

    /// Writes a fresh journal from the whole state, unless a snapshot is arriving. Some changes at a time are copied, so
    /// that neither the state is in memory twice nor anybody waits for the disk. Nothing may be taken in meanwhile.
    pub fn compact(&self, journal: &mut Journal) -> Result<Compacted, JournalError> {
        let mut cursor = {
            let state = self.lock();
            if state.snapshot.is_some() {
                return Ok(Compacted::SnapshotArrives);
            }
            Cursor::new(&state)
        };
        journal.rewrite(std::iter::from_fn(|| cursor.next(&self.lock())))?;
        Ok(Compacted::Written)
    }

    /// The bytes of a fresh journal, without those of its few frames; rather too many than too few.
    pub fn journal_bytes(&self) -> u64 {
        self.lock().journal_bytes()
    }

    /// Epoch and version to resume from.
    pub fn resume(&self) -> Option<(String, u64)> {
        self.lock().resume.clone()
    }

    /// The last Welcome, also one from before a restart.
    pub fn welcome(&self) -> Option<Welcome> {
        self.lock().welcome.clone()
    }

    /// Wakes when pods or what they refer to may have changed.
    pub fn watch_pods(&self) -> watch::Receiver<u64> {
        let mut receiver = self.pods.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Wakes when Services, endpoints or peers may have changed.
    pub fn watch_services(&self) -> watch::Receiver<u64> {
        let mut receiver = self.services.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Whether this node gets new pods: what was last told, also before a restart.
    pub fn watch_scheduling(&self) -> watch::Receiver<Scheduling> {
        self.scheduling.subscribe()
    }

    /// What was touched since the last call.
    pub fn take_touched_pods(&self) -> TouchedPods {
        std::mem::take(&mut self.lock().touched_pods)
    }

    /// What was touched since the last call, with the values that hold now.
    pub fn take_touched_services(&self) -> ServiceChanges {
        let mut state = self.lock();
        let touched = std::mem::take(&mut state.touched_services);
        let services = touched.services.into_iter().map(|key| {
            let service = state.services.get(&key);
            let value = service.map(|s| packed::unpack_service(&key, s));
            (key, value)
        });
        let services = services.collect();
        let endpoints = touched.endpoints.into_iter().map(|key| {
            let value = state.endpoints.get(&key).map(|e| packed::unpack(&key, e));
            (packed::unpack_key(&key), value)
        });
        ServiceChanges {
            services,
            endpoints: endpoints.collect(),
            peers: touched
                .peers
                .then(|| state.peers.values().cloned().collect()),
            complete: touched.complete,
        }
    }

    /// Marks everything as touched, for a consumer that starts.
    pub fn touch_services(&self) {
        let mut state = self.lock();
        let services = state.services.keys().cloned().collect();
        let endpoints = state.endpoints.keys().cloned().collect();
        state.touched_services.services = services;
        state.touched_services.endpoints = endpoints;
        state.touched_services.peers = true;
    }

    /// UIDs of all pods.
    pub fn pod_uids(&self) -> Vec<String> {
        self.lock().pods.keys().cloned().collect()
    }

    /// One pod.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.lock().pods.get(uid).map(|entry| entry.pod.clone())
    }

    /// The ConfigMaps and Secrets of a namespace that this node has.
    pub fn objects(&self, namespace: &str) -> Objects {
        let found: Vec<Arc<ObjectEntry>> = {
            let state = self.lock();
            ["ConfigMap", "Secret"]
                .into_iter()
                .flat_map(|kind| {
                    let first = (kind.to_owned(), namespace.to_owned(), String::new());
                    let from = state.objects.range(first..);
                    from.take_while(move |((k, ns, _), _)| k == kind && ns == namespace)
                })
                .map(|(_, entry)| entry.clone())
                .collect()
        };
        let mut objects = Objects::default();
        for entry in found {
            let name = entry.set.name.clone();
            match entry.parsed().clone() {
                Parsed::ConfigMap(map) => {
                    objects.config_maps.insert(name, map);
                }
                Parsed::Secret(secret) => {
                    objects.secrets.insert(name, secret);
                }
                Parsed::Unusable => {}
            }
        }
        objects
    }

    /// The Services that a pod of this namespace finds in its environment.
    pub fn service_vars(&self, namespace: &str) -> Vec<ServiceVars> {
        let state = self.lock();
        let of_namespace = state
            .services
            .range((namespace.to_owned(), String::new())..)
            .take_while(|((ns, _), _)| ns == namespace);
        let master = state
            .services
            .get_key_value(&("default".to_owned(), "kubernetes".to_owned()))
            .filter(|_| namespace != "default");
        of_namespace
            .chain(master)
            .map(|(key, service)| packed::unpack_service(key, service))
            .filter_map(|set| {
                let ip = set.cluster_ips.first()?;
                let ports = set.ports.iter().filter_map(|p| {
                    let port = u16::try_from(p.port).ok()?;
                    Some((p.name.clone(), protocol_name(p.protocol()), port))
                });
                Some(ServiceVars {
                    name: set.name.clone(),
                    cluster_ip: ip.clone(),
                    ports: ports.collect(),
                })
            })
            .collect()
    }
}

fn protocol_name(protocol: knarr_api::feed::Protocol) -> &'static str {
    use knarr_api::feed::Protocol;
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Services, endpoints and peers that were touched; an absent value means that it is gone.
#[derive(Debug, Default)]
pub struct ServiceChanges {
    /// Services.
    pub services: Vec<(ServiceKey, Option<ServiceSet>)>,
    /// Endpoints.
    pub endpoints: Vec<(EndpointKey, Option<EndpointSet>)>,
    /// All peers, when one of them was touched.
    pub peers: Option<Vec<PeerSet>>,
    /// The desired set is complete: what nobody asked for may go.
    pub complete: bool,
}

#[cfg(test)]
mod tests;
