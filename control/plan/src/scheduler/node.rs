// SPDX-License-Identifier: Apache-2.0
//! A node as the scheduler sees it: what it offers, what is taken, and whom it lets in.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_api::labels::Labels;
use knarr_api::quantity::Quantity;

use super::pod::{HostPort, Resources, Term, Wants};
use super::reason::Reason;
use super::taints::{Effect, TaintView, untolerated};

/// Taint of a node whose `Ready` condition is not `True`.
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Taint of a node without heartbeat.
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taint of a node with `spec.unschedulable`.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// A node and what its pods take.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeState {
    /// Its name.
    pub name: Arc<str>,
    /// A fixed pseudo-random number from its name: the order among equally good nodes.
    pub(super) order: u64,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<TaintView>,
    unschedulable: bool,
    pub(super) allocatable: Resources,
    pods_max: i64,
    pub(super) used: Resources,
    pub(super) scored_cpu_millis: i64,
    pub(super) scored_memory: i64,
    pub(super) pods: i64,
    host_ports: Vec<HostPort>,
}

impl NodeState {
    /// The view of `node`; `None` for one without a name, which the API does not store.
    pub fn of(node: &Node) -> Option<Self> {
        let name: Arc<str> = node.metadata.name.as_deref()?.into();
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let allocatable =
            status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let pods_max = allocatable.and_then(|list| list.get("pods"));
        let mut taints: Vec<TaintView> = spec
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten()
            .map(TaintView::of)
            .collect();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let is_told = |taint: &TaintView| matches!(&*taint.key, NOT_READY | UNREACHABLE);
        if !ready && !taints.iter().any(is_told) {
            // Node lifecycle will write this taint; nothing may slip in before.
            taints.push(TaintView {
                key: NOT_READY.into(),
                value: "".into(),
                effect: Effect::NoSchedule,
            });
        }
        Some(Self {
            order: stable_hash(&name),
            name,
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints,
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: Resources::of(allocatable),
            pods_max: pods_max
                .and_then(|amount| amount.0.parse::<Quantity>().ok())
                .map_or(0, |amount| amount.value()),
            used: Resources::default(),
            scored_cpu_millis: 0,
            scored_memory: 0,
            pods: 0,
            host_ports: Vec::new(),
        })
    }

    /// Takes over what `new` offers and keeps what is taken. False when nothing differs.
    pub(super) fn replace(&mut self, new: Self) -> bool {
        let new = Self {
            used: self.used.clone(),
            scored_cpu_millis: self.scored_cpu_millis,
            scored_memory: self.scored_memory,
            pods: self.pods,
            host_ports: std::mem::take(&mut self.host_ports),
            ..new
        };
        let differs = self.labels != new.labels
            || self.taints != new.taints
            || self.unschedulable != new.unschedulable
            || self.allocatable != new.allocatable
            || self.pods_max != new.pods_max;
        *self = new;
        differs
    }

    pub(super) fn add(&mut self, wants: &Wants) {
        self.used.add(&wants.requests);
        self.scored_cpu_millis += wants.scored_cpu_millis;
        self.scored_memory = self.scored_memory.saturating_add(wants.scored_memory);
        self.pods += 1;
        self.host_ports.extend(wants.host_ports.iter().cloned());
    }

    pub(super) fn remove(&mut self, wants: &Wants) {
        self.used.subtract(&wants.requests);
        self.scored_cpu_millis -= wants.scored_cpu_millis;
        self.scored_memory -= wants.scored_memory;
        self.pods -= 1;
        for port in &wants.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
    }

    /// True when the node would take the pod; the same answer as an empty [`NodeState::refusals`], cheaper.
    pub(super) fn admits(&self, wants: &Wants) -> bool {
        self.pods < self.pods_max
            && wants.unsupported.is_none()
            && wants.requests.cpu_millis
                <= room(
                    wants.requests.cpu_millis,
                    self.allocatable.cpu_millis,
                    self.used.cpu_millis,
                )
            && self.refusal_of_place(wants).is_none()
            && !self.has_port_conflict(wants)
            && self.insufficient(wants).next().is_none()
    }

    /// Why the node does not take the pod, in the order of kube-scheduler's default filters: only the first
    /// filter that refuses speaks.
    pub(super) fn refusals(&self, wants: &Wants) -> Vec<Reason> {
        if let Some(why) = &wants.unsupported {
            return vec![Reason::Unsupported(why.clone())];
        }
        if let Some(reason) = self.refusal_of_place(wants) {
            return vec![reason];
        }
        if self.has_port_conflict(wants) {
            return vec![Reason::HostPorts];
        }
        let mut reasons = Vec::new();
        if self.pods >= self.pods_max {
            reasons.push(Reason::TooManyPods);
        }
        reasons.extend(
            self.insufficient(wants)
                .map(|name| Reason::Insufficient(name.into())),
        );
        reasons
    }

    fn refusal_of_place(&self, wants: &Wants) -> Option<Reason> {
        if self.unschedulable {
            let taint = TaintView {
                key: UNSCHEDULABLE.into(),
                value: "".into(),
                effect: Effect::NoSchedule,
            };
            if !wants
                .tolerations
                .iter()
                .any(|toleration| toleration.tolerates(&taint))
            {
                return Some(Reason::Unschedulable);
            }
        }
        let effects = [Effect::NoSchedule, Effect::NoExecute];
        if let Some(taint) = untolerated(&self.taints, &wants.tolerations, &effects) {
            return Some(Reason::Taint {
                key: taint.key.clone(),
                value: taint.value.clone(),
            });
        }
        let selected = wants
            .node_selector
            .iter()
            .all(|requirement| requirement.matches(&self.labels));
        let affine = wants
            .affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| self.meets(term)));
        (!selected || !affine).then_some(Reason::Affinity)
    }

    /// True when the node meets every requirement of the term; a term without any matches no node.
    pub(super) fn meets(&self, term: &Term) -> bool {
        (!term.labels.is_empty() || !term.fields.is_empty())
            && term
                .labels
                .iter()
                .all(|requirement| requirement.matches(&self.labels))
            && term
                .fields
                .iter()
                .all(|requirement| requirement.matches(&Fields(&self.name)))
    }

    fn has_port_conflict(&self, wants: &Wants) -> bool {
        wants
            .host_ports
            .iter()
            .any(|port| self.host_ports.iter().any(|taken| port.conflicts(taken)))
    }

    fn insufficient<'a>(&'a self, wants: &'a Wants) -> impl Iterator<Item = &'a str> + 'a {
        let (asked, offer, used) = (&wants.requests, &self.allocatable, &self.used);
        let short = |asked: i64, offer: i64, used: i64| asked > room(asked, offer, used);
        let basic = [
            (
                "cpu",
                short(asked.cpu_millis, offer.cpu_millis, used.cpu_millis),
            ),
            ("memory", short(asked.memory, offer.memory, used.memory)),
            (
                "ephemeral-storage",
                short(
                    asked.ephemeral_storage,
                    offer.ephemeral_storage,
                    used.ephemeral_storage,
                ),
            ),
        ];
        let extended = asked.extended.iter().filter(move |(name, amount)| {
            let of = |resources: &Resources| resources.extended.get(*name).copied().unwrap_or(0);
            short(**amount, of(offer), of(used))
        });
        let basic = basic
            .into_iter()
            .filter(|(_, short)| *short)
            .map(|(name, _)| name);
        basic.chain(extended.map(|(name, _)| name.as_ref()))
    }
}

/// What is left for a pod that asks for `asked`. Asking for nothing fits even where too much is taken.
fn room(asked: i64, offer: i64, used: i64) -> i64 {
    if asked == 0 { 0 } else { offer - used }
}

struct Fields<'a>(&'a str);

impl Labels for Fields<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        (key == "metadata.name").then_some(self.0)
    }
}

/// FNV-1a: the same in every process and version, which `DefaultHasher` does not promise.
fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
