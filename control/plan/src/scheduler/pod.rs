// SPDX-License-Identifier: Apache-2.0
//! What the scheduler keeps of a pod: what it asks of a node, in a form that can be compared and hashed.

use std::collections::BTreeMap;
use std::sync::Arc;

use knarr_api::k8s_openapi::api::core::v1::{
    Container, NodeSelectorTerm, Pod, PodSpec, ResourceRequirements, Toleration,
};
use knarr_api::k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use knarr_api::k8s_openapi::jiff::Timestamp;
use knarr_api::labels::{Operator, Requirement};
use knarr_api::names::NamespacedName;
use knarr_api::quantity::Quantity;

use super::taints::{Effect, TolerationView};
use crate::owners::controller_ref;
use crate::pods::{Phase, name_of};

/// The scheduler that pods get when they name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// Scoring counts a container that requests no CPU as this much, so that such pods spread too
/// (Kubernetes' `DefaultMilliCPURequest`).
const SCORED_CPU_MILLIS: i64 = 100;
/// The same for memory: 200 MB (Kubernetes' `DefaultMemoryRequest`).
const SCORED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources. Extended resources are sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local storage.
    pub ephemeral_storage: i64,
    /// Everything else by its full name, such as `example.com/gpu` or `hugepages-2Mi`.
    pub extended: BTreeMap<Arc<str>, i64>,
}

impl Resources {
    /// Reads a resource list; amounts that cannot be read count as none (the API refuses them before).
    pub fn of(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list.into_iter().flatten() {
            let amount = amount.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => resources.cpu_millis = amount.milli_value(),
                "memory" => resources.memory = amount.value(),
                "ephemeral-storage" => resources.ephemeral_storage = amount.value(),
                "pods" => {}
                other => {
                    resources.extended.insert(other.into(), amount.value());
                }
            }
        }
        resources
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.saturating_add(other.cpu_millis);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self
            .ephemeral_storage
            .saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += amount;
        }
    }

    /// Takes `other` away again.
    pub fn subtract(&mut self, other: &Self) {
        self.cpu_millis -= other.cpu_millis;
        self.memory -= other.memory;
        self.ephemeral_storage -= other.ephemeral_storage;
        for (name, amount) in &other.extended {
            if let Some(own) = self.extended.get_mut(name) {
                *own -= amount;
                if *own == 0 {
                    self.extended.remove(name);
                }
            }
        }
    }

    fn max(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// A port of the node itself that a pod wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The port.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// Empty or `0.0.0.0` means every address of the node.
    pub ip: Box<str>,
}

impl HostPort {
    /// True when both cannot be on one node.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// One alternative of a node affinity: requirements on labels and on fields (`metadata.name`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// Requirements on the node's labels.
    pub labels: Vec<Requirement>,
    /// Requirements on the node's name.
    pub fields: Vec<Requirement>,
}

/// Everything that decides where a pod may go and how well a place suits it. Pods that are equal in this
/// are the scheduler's equivalence class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Wants {
    /// What the pod takes from its node.
    pub requests: Resources,
    /// What it counts as in scoring: requests with the defaults for what is not said.
    pub scored_cpu_millis: i64,
    /// As above, in bytes.
    pub scored_memory: i64,
    /// `spec.nodeSelector`, sorted.
    pub node_selector: Vec<Requirement>,
    /// Required node affinity: one of the terms has to hold. `None`: no affinity.
    pub affinity: Option<Vec<Term>>,
    /// Preferred node affinity with weights.
    pub preferred: Vec<(i32, Term)>,
    /// Tolerated taints.
    pub tolerations: Vec<TolerationView>,
    /// Ports of the node.
    pub host_ports: Vec<HostPort>,
    /// Something in the pod's spec that cannot be honoured by this scheduler: it is refused, not ignored.
    pub unsupported: Option<Box<str>>,
}

/// A pod as the scheduler sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `metadata.uid`
    pub uid: Arc<str>,
    /// The node it is bound to.
    pub node: Option<Arc<str>>,
    /// Ended pods hold nothing of their node.
    pub phase: Phase,
    /// It is on its way out and needs no place any more.
    pub is_terminating: bool,
    /// Higher goes first.
    pub priority: i32,
    /// Older goes first among the same priority.
    pub created_at: Option<Timestamp>,
    /// Labels, to tell which Services it belongs to.
    pub labels: Arc<[(String, String)]>,
    /// Uid of the controlling owner: its pods are spread.
    pub controller_uid: Option<Arc<str>>,
    /// Which scheduler is to place it.
    pub scheduler_name: Arc<str>,
    /// `spec.schedulingGates` is not empty: it must wait.
    pub is_gated: bool,
    /// The message of its `PodScheduled=False` condition, so that the same one is not written again.
    pub unschedulable_message: Option<Box<str>>,
    /// What it asks of a node.
    pub wants: Arc<Wants>,
}

impl PodInfo {
    /// The scheduler's view of `pod`.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let labels = meta.labels.iter().flatten();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let scheduled = crate::pods::condition(pod, "PodScheduled");
        Self {
            name: name_of(meta),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            node: spec
                .node_name
                .as_deref()
                .filter(|node| !node.is_empty())
                .map(Into::into),
            phase: Phase::parse(phase),
            is_terminating: meta.deletion_timestamp.is_some(),
            priority: spec.priority.unwrap_or(0),
            created_at: meta.creation_timestamp.as_ref().map(|time| time.0),
            labels: labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            controller_uid: controller_ref(meta).map(|owner| owner.uid.as_str().into()),
            scheduler_name: spec
                .scheduler_name
                .as_deref()
                .unwrap_or(DEFAULT_SCHEDULER)
                .into(),
            is_gated: spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|gates| !gates.is_empty()),
            unschedulable_message: scheduled
                .filter(|condition| condition.status == "False")
                .and_then(|condition| condition.message.as_deref())
                .map(Into::into),
            wants: Arc::new(Wants::of(spec)),
        }
    }

    /// True when this scheduler has to find a node for it.
    pub fn needs_node(&self) -> bool {
        self.node.is_none()
            && !self.is_terminating
            && !self.is_gated
            && !self.phase.is_terminal()
            && &*self.scheduler_name == DEFAULT_SCHEDULER
    }

    /// True when it takes room on the node it is bound to.
    pub fn holds_node(&self) -> bool {
        self.node.is_some() && !self.phase.is_terminal()
    }
}

impl Wants {
    /// What `spec` asks of a node.
    pub fn of(spec: &PodSpec) -> Self {
        let requests = requests(spec);
        let (scored_cpu_millis, scored_memory) = scored(spec, &requests);
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let preferred = affinity.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let (terms, refused): (Vec<_>, Vec<_>) = required
            .into_iter()
            .flat_map(|selector| &selector.node_selector_terms)
            .map(term)
            .partition(Result::is_ok);
        let unsupported = refused
            .into_iter()
            .find_map(Result::err)
            .or(unsupported(spec));
        let mut host_ports: Vec<HostPort> = spec.containers.iter().flat_map(host_ports).collect();
        host_ports.sort();
        Self {
            requests,
            scored_cpu_millis,
            scored_memory,
            node_selector: spec
                .node_selector
                .iter()
                .flatten()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::In,
                    values: [value.clone()].into(),
                })
                .collect(),
            affinity: required.map(|_| terms.into_iter().filter_map(Result::ok).collect()),
            preferred: preferred
                .into_iter()
                .flatten()
                .filter_map(|wish| Some((wish.weight, term(&wish.preference).ok()?)))
                .collect(),
            tolerations: tolerations(spec.tolerations.iter().flatten()),
            host_ports,
            unsupported,
        }
    }
}

fn tolerations<'a>(all: impl Iterator<Item = &'a Toleration>) -> Vec<TolerationView> {
    // Only what bears on placing: pods of one template that differ in nothing else stay one class.
    all.map(TolerationView::of)
        .filter(|toleration| {
            matches!(
                toleration.effect,
                None | Some(Effect::NoSchedule | Effect::NoExecute | Effect::PreferNoSchedule)
            )
        })
        .collect()
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    container.ports.iter().flatten().filter_map(|port| {
        Some(HostPort {
            port: port.host_port.filter(|port| *port > 0)?,
            protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
            ip: port.host_ip.as_deref().unwrap_or_default().into(),
        })
    })
}

fn term(term: &NodeSelectorTerm) -> Result<Term, Box<str>> {
    let read = |requirements: &Option<Vec<_>>| -> Result<Vec<Requirement>, Box<str>> {
        let requirements: &Option<
            Vec<knarr_api::k8s_openapi::api::core::v1::NodeSelectorRequirement>,
        > = requirements;
        let mut read = Vec::new();
        for requirement in requirements.iter().flatten() {
            let operator = match requirement.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                "Gt" => Operator::GreaterThan,
                "Lt" => Operator::LessThan,
                other => {
                    return Err(format!("{other:?} is not a valid node selector operator").into());
                }
            };
            let values = requirement.values.iter().flatten().cloned().collect();
            read.push(Requirement {
                key: requirement.key.clone(),
                operator,
                values,
            });
        }
        Ok(read)
    };
    Ok(Term {
        labels: read(&term.match_expressions)?,
        fields: read(&term.match_fields)?,
    })
}

/// What a pod may say that decides about its place and that this scheduler does not know.
fn unsupported(spec: &PodSpec) -> Option<Box<str>> {
    let affinity = spec.affinity.as_ref();
    let required_pods = affinity
        .and_then(|a| a.pod_affinity.as_ref())
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let required_anti = affinity
        .and_then(|a| a.pod_anti_affinity.as_ref())
        .and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let constraints = spec.topology_spread_constraints.iter().flatten();
    let hard = constraints
        .into_iter()
        .any(|c| c.when_unsatisfiable == "DoNotSchedule");
    if required_pods.is_some_and(|terms| !terms.is_empty()) {
        Some("required pod affinity is not supported by this scheduler".into())
    } else if required_anti.is_some_and(|terms| !terms.is_empty()) {
        Some("required pod anti-affinity is not supported by this scheduler".into())
    } else if hard {
        Some(
            "topology spread constraints with DoNotSchedule are not supported by this scheduler"
                .into(),
        )
    } else if spec
        .resource_claims
        .as_ref()
        .is_some_and(|claims| !claims.is_empty())
    {
        Some("resource claims are not supported by this scheduler".into())
    } else {
        None
    }
}

/// What a pod requests, as Kubernetes counts it (`k8s.io/component-helpers/resource`, v1.37): containers
/// and sidecars together, or a start-up step that needs more, plus the overhead of its runtime.
fn requests(spec: &PodSpec) -> Resources {
    let of = |resources: &Option<ResourceRequirements>| {
        Resources::of(
            resources
                .as_ref()
                .and_then(|resources| resources.requests.as_ref()),
        )
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(&container.resources));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let own = of(&container.resources);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&own);
            sidecars.add(&own);
            peak.max(&sidecars);
        } else {
            let mut step = sidecars.clone();
            step.add(&own);
            peak.max(&step);
        }
    }
    total.max(&peak);
    // Requests of the whole pod, where given, stand for those of its containers.
    let whole = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    if let Some(list) = whole {
        let pod = Resources::of(Some(list));
        if list.contains_key("cpu") {
            total.cpu_millis = pod.cpu_millis;
        }
        if list.contains_key("memory") {
            total.memory = pod.memory;
        }
        for (name, amount) in pod.extended {
            total.extended.insert(name, amount);
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total.extended.retain(|_, amount| *amount != 0);
    total
}

fn scored(spec: &PodSpec, requests: &Resources) -> (i64, i64) {
    let missing = |name: &str| {
        let silent = |container: &&Container| {
            let resources = container.resources.as_ref();
            let list = resources.and_then(|resources| resources.requests.as_ref());
            !list.is_some_and(|list| list.contains_key(name))
        };
        i64::try_from(spec.containers.iter().filter(silent).count()).unwrap_or(i64::MAX)
    };
    (
        requests.cpu_millis + missing("cpu") * SCORED_CPU_MILLIS,
        requests.memory + missing("memory").saturating_mul(SCORED_MEMORY_BYTES),
    )
}
