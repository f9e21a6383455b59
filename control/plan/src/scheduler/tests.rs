// SPDX-License-Identifier: Apache-2.0
//! Where pods are bound, and the messages of pods that fit no node.

use std::time::Instant;

use knarr_api::k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

use super::*;

fn node(name: &str, cpu: &str, memory: &str) -> Node {
    node_with(
        name,
        json!({"cpu": cpu, "memory": memory, "pods": "110"}),
        json!({}),
        json!({}),
    )
}

fn node_with(name: &str, allocatable: Value, labels: Value, spec: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": allocatable, "conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap()
}

fn pod(name: &str, spec: Value) -> PodInfo {
    owned_pod(name, "", spec)
}

fn owned_pod(name: &str, owner: &str, spec: Value) -> PodInfo {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    let owners = match owner {
        "" => json!([]),
        uid => {
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "controller": true}])
        }
    };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "ownerReferences": owners},
        "spec": spec,
    }))
    .unwrap();
    PodInfo::of(&pod)
}

fn requests(list: Value) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": list}}]})
}

fn cluster(nodes: &[Node]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        assert_eq!(cluster.set_node(node), Effects::MayFit);
    }
    cluster
}

fn add(cluster: &mut Cluster, pod: PodInfo) -> Result<String, String> {
    let uid = pod.uid.clone();
    let _ = cluster.set_pod(pod);
    match cluster.place(&uid) {
        Ok(node) => {
            cluster.assume(&uid, &node);
            Ok(node.to_string())
        }
        Err(refusal) => Err(refusal.to_string()),
    }
}

fn refusal(nodes: &[Node], spec: Value) -> String {
    add(&mut cluster(nodes), pod("p", spec)).unwrap_err()
}

#[test]
fn a_cluster_without_nodes_says_so() {
    assert_eq!(
        refusal(&[], json!({})),
        "no nodes available to schedule pods"
    );
}

#[test]
fn pods_for_others_or_with_gates_are_left_alone() {
    assert!(pod("p", json!({})).needs_node());
    assert!(!pod("p", json!({"schedulerName": "another"})).needs_node());
    assert!(
        !pod(
            "p",
            json!({"schedulingGates": [{"name": "example.com/wait"}]})
        )
        .needs_node()
    );
}

#[test]
fn a_refusal_counts_the_reasons_of_all_nodes() {
    let nodes = [
        node_with(
            "a",
            json!({"cpu": "1", "memory": "1Gi", "pods": "10"}),
            json!({"disk": "ssd"}),
            json!({}),
        ),
        node("b", "8", "8Gi"),
    ];
    let mut spec = requests(json!({"cpu": "2"}));
    spec["nodeSelector"] = json!({"disk": "ssd"});
    assert_eq!(
        refusal(&nodes, spec),
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector."
    );
}

#[test]
fn each_filter_has_its_own_words() {
    let free = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
    let cases = [
        (
            json!({"unschedulable": true}),
            json!({}),
            "1 node(s) were unschedulable",
        ),
        (
            json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}),
            json!({}),
            "1 node(s) had untolerated taint {k: v}",
        ),
        (
            json!({"taints": [{"key": "k", "effect": "NoExecute"}]}),
            json!({}),
            "1 node(s) had untolerated taint {k: }",
        ),
        (
            json!({}),
            requests(json!({"memory": "5Gi"})),
            "1 Insufficient memory",
        ),
        (
            json!({}),
            requests(json!({"example.com/gpu": "1"})),
            "1 Insufficient example.com/gpu",
        ),
        (
            json!({}),
            requests(json!({"cpu": "5", "memory": "5Gi"})),
            "1 Insufficient cpu, 1 Insufficient memory",
        ),
        (
            json!({}),
            json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname"}]}}}),
            "1 required pod anti-affinity is not supported by this scheduler",
        ),
    ];
    for (node_spec, pod_spec, wanted) in cases {
        let node = node_with("a", free.clone(), json!({}), node_spec);
        assert_eq!(
            refusal(&[node], pod_spec),
            format!("0/1 nodes are available: {wanted}.")
        );
    }
}

#[test]
fn a_node_that_is_not_ready_takes_no_pod_even_before_it_is_tainted() {
    let mut node = node("a", "4", "4Gi");
    node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "Unknown".into();
    assert_eq!(
        refusal(std::slice::from_ref(&node), json!({})),
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
    );
    let tolerant =
        json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}]});
    assert_eq!(
        add(&mut cluster(&[node]), pod("p", tolerant)),
        Ok("a".to_owned())
    );
}

#[test]
fn tolerations_match_by_key_value_and_effect() {
    let tainted = node_with(
        "a",
        json!({"cpu": "4", "memory": "4Gi", "pods": "10"}),
        json!({}),
        json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}),
    );
    let cases = [
        (json!({"key": "k", "value": "v"}), true),
        (
            json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}),
            true,
        ),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
        (
            json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
            false,
        ),
    ];
    for (toleration, fits) in cases {
        let spec = json!({"tolerations": [toleration]});
        let placed = add(&mut cluster(std::slice::from_ref(&tainted)), pod("p", spec));
        assert_eq!(placed.is_ok(), fits, "{toleration}");
    }
}

#[test]
fn node_affinity_reads_labels_fields_and_alternatives() {
    let offer = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
    let nodes = [
        node_with(
            "a",
            offer.clone(),
            json!({"zone": "1", "size": "5"}),
            json!({}),
        ),
        node_with("b", offer, json!({"zone": "2", "size": "50"}), json!({})),
    ];
    let required = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": terms}}}})
    };
    let cases = [
        (
            json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2"]}]}]),
            Some("b"),
        ),
        (
            json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["10"]}]}]),
            Some("b"),
        ),
        (
            json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["2"]}]}]),
            Some("a"),
        ),
        (
            json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]),
            Some("a"),
        ),
        (
            json!([
                {"matchExpressions": [{"key": "none", "operator": "Exists"}]},
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]},
            ]),
            Some("a"),
        ),
        (json!([{}]), None),
    ];
    for (terms, wanted) in cases {
        let placed = add(&mut cluster(&nodes), pod("p", required(terms.clone())));
        assert_eq!(placed.as_deref().ok(), wanted, "{terms}");
    }
}

#[test]
fn preferred_affinity_outweighs_an_emptier_node() {
    let offer = json!({"cpu": "4", "memory": "4Gi", "pods": "10"});
    let nodes = [
        node_with("a", offer.clone(), json!({"fast": "yes"}), json!({})),
        node_with("b", offer, json!({}), json!({})),
    ];
    let mut cluster = cluster(&nodes);
    let on_a = json!({"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
    let _ = cluster.set_pod(pod("there", on_a));
    assert_eq!(
        add(&mut cluster, pod("plain", json!({}))),
        Ok("b".to_owned())
    );
    let wish = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 100, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}]}}});
    assert_eq!(add(&mut cluster, pod("wishful", wish)), Ok("a".to_owned()));
}

#[test]
fn host_ports_exclude_each_other_on_a_node() {
    let mut cluster = cluster(&[node("a", "4", "4Gi"), node("b", "4", "4Gi")]);
    let spec =
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let first = add(&mut cluster, pod("p1", spec.clone())).unwrap();
    let second = add(&mut cluster, pod("p2", spec.clone())).unwrap();
    assert_ne!(first, second);
    assert_eq!(
        add(&mut cluster, pod("p3", spec.clone())).unwrap_err(),
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."
    );
    let udp = json!({"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": 80, "protocol": "UDP"}]}]});
    assert!(add(&mut cluster, pod("p4", udp)).is_ok());
    assert_eq!(cluster.remove_pod("p1"), Effects::MayFit);
    assert_eq!(add(&mut cluster, pod("p5", spec)), Ok(first));
}

#[test]
fn start_up_steps_sidecars_and_overhead_count_as_kubernetes_counts_them() {
    let container =
        |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
    let sidecar = |cpu: &str| {
        let mut sidecar = container("s", cpu);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    };
    let cases = [
        (
            json!({"containers": [container("a", "1"), container("b", "500m")]}),
            1500,
        ),
        (
            json!({"containers": [container("a", "1")], "initContainers": [container("i", "3")]}),
            3000,
        ),
        (
            json!({"containers": [container("a", "1")], "initContainers": [sidecar("2"), container("i", "3")]}),
            5000,
        ),
        (
            json!({"containers": [container("a", "1")], "initContainers": [container("i", "1"), sidecar("2")]}),
            3000,
        ),
        (
            json!({"containers": [container("a", "1")], "overhead": {"cpu": "250m"}}),
            1250,
        ),
        (
            json!({"containers": [container("a", "1")], "resources": {"requests": {"cpu": "2"}}}),
            2000,
        ),
    ];
    for (spec, millis) in cases {
        let parsed: PodSpec = serde_json::from_value(spec.clone()).unwrap();
        assert_eq!(Wants::of(&parsed).requests.cpu_millis, millis, "{spec}");
    }
}

#[test]
fn replicas_of_one_set_are_spread_over_the_nodes() {
    for replicas in [2, 3, 4, 9] {
        let mut cluster = cluster(&[node("a", "4", "4Gi"), node("b", "8", "16Gi")]);
        let mut on = HashMap::<String, i32>::new();
        for index in 0..replicas {
            let placed = add(
                &mut cluster,
                owned_pod(&format!("p{index}"), "rs", json!({})),
            );
            *on.entry(placed.unwrap()).or_default() += 1;
        }
        let (a, b) = (
            on.get("a").copied().unwrap_or(0),
            on.get("b").copied().unwrap_or(0),
        );
        assert!((a - b).abs() <= 1, "{replicas} replicas: {a} and {b}");
    }
}

#[test]
fn pods_behind_one_service_are_spread_even_without_an_owner() {
    let mut cluster = cluster(&[node("a", "4", "4Gi"), node("b", "400", "400Gi")]);
    let name = NamespacedName::new("default", "web");
    let selector = Selector::parse("app=web").unwrap();
    let big = |name: &str| pod(name, requests(json!({"cpu": "10m", "memory": "10Mi"})));
    let first = add(&mut cluster, big("p1")).unwrap();
    let second = add(&mut cluster, big("p2")).unwrap();
    assert_eq!(
        (first.as_str(), second.as_str()),
        ("b", "b"),
        "the big node is emptier"
    );
    // Now that a Service selects them, the third belongs to the same group as the other two.
    cluster.set_service(&name, Some(selector));
    assert_eq!(add(&mut cluster, big("p3")), Ok("a".to_owned()));
    cluster.remove_service(&name);
    assert_eq!(add(&mut cluster, big("p4")), Ok("b".to_owned()));
}

#[test]
fn an_assumed_pod_counts_until_it_is_forgotten() {
    let mut cluster = cluster(&[node("a", "1", "4Gi")]);
    let whole = || requests(json!({"cpu": "1"}));
    assert_eq!(add(&mut cluster, pod("p1", whole())), Ok("a".to_owned()));
    assert!(add(&mut cluster, pod("p2", whole())).is_err());
    assert_eq!(cluster.forget("p1"), Effects::MayFit);
    assert!(cluster.place("p2").is_ok());
    // Once it is seen bound, it can be forgotten no more.
    let mut bound = pod("p1", whole());
    bound.node = Some("a".into());
    let _ = cluster.set_pod(bound);
    assert_eq!(cluster.forget("p1"), Effects::Nothing);
    assert!(cluster.place("p2").is_err());
}

#[test]
fn a_change_of_conditions_alone_keeps_an_assumption() {
    let mut cluster = cluster(&[node("a", "1", "4Gi")]);
    let whole = || requests(json!({"cpu": "1"}));
    assert!(add(&mut cluster, pod("p1", whole())).is_ok());
    let mut again = pod("p1", whole());
    again.unschedulable_message = Some("old news".into());
    assert_eq!(cluster.set_pod(again), Effects::Nothing);
    assert_eq!(cluster.node_of("p1").map(|node| &**node), Some("a"));
    assert!(add(&mut cluster, pod("p2", whole())).is_err());
}

#[test]
fn an_ended_pod_and_a_removed_node_give_their_room_back() {
    let mut cluster = cluster(&[node("a", "1", "4Gi")]);
    let mut running = pod("p1", requests(json!({"cpu": "1"})));
    running.node = Some("a".into());
    let _ = cluster.set_pod(running.clone());
    assert!(add(&mut cluster, pod("p2", requests(json!({"cpu": "1"})))).is_err());
    running.phase = crate::pods::Phase::Succeeded;
    assert_eq!(cluster.set_pod(running.clone()), Effects::MayFit);
    assert!(cluster.place("p2").is_ok());
    running.phase = crate::pods::Phase::Running;
    let _ = cluster.set_pod(running);
    cluster.remove_node("a");
    assert!(cluster.place("p2").is_err());
    // The bound pod is counted on the node as soon as the node is known again.
    let _ = cluster.set_node(&node("a", "1", "4Gi"));
    assert!(cluster.place("p2").is_err());
    assert_eq!(cluster.remove_pod("p1"), Effects::MayFit);
    assert!(cluster.place("p2").is_ok());
}

#[test]
fn the_kept_ranking_gives_the_same_answers_as_a_fresh_one() {
    // A small generator of fixed pseudo-random numbers drives changes of every kind.
    let mut state = 7u64;
    let mut next = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut kept = Cluster::default();
    let mut nodes: BTreeSet<u64> = BTreeSet::new();
    let mut placed: Vec<(PodInfo, Arc<str>)> = Vec::new();
    for step in 0..3000 {
        match next(10) {
            0 => {
                let id = next(40);
                nodes.insert(id);
                let cpu = format!("{}", 2 + next(6));
                let _ = kept.set_node(&node(&format!("n{id}"), &cpu, "16Gi"));
            }
            1 if step % 7 == 0 => {
                let id = next(40);
                nodes.remove(&id);
                kept.remove_node(&format!("n{id}"));
            }
            2 if !placed.is_empty() => {
                let at = usize::try_from(next(placed.len() as u64)).unwrap();
                let (pod, _) = placed.swap_remove(at);
                let _ = kept.remove_pod(&pod.uid);
            }
            _ => {
                let cpu = format!("{}m", 100 * (1 + next(8)));
                let owner = format!("rs{}", next(3));
                let info = owned_pod(&format!("p{step}"), &owner, requests(json!({"cpu": cpu})));
                let _ = kept.set_pod(info.clone());
                let answer = kept.place(&info.uid);
                kept.classes.clear();
                let fresh = kept.place(&info.uid);
                assert_eq!(answer, fresh, "step {step}");
                match answer {
                    Ok(node) => {
                        kept.assume(&info.uid, &node);
                        placed.push((info, node));
                    }
                    Err(_) => {
                        let _ = kept.remove_pod(&info.uid);
                    }
                }
            }
        }
        for state in kept.nodes.iter().flatten() {
            assert!(state.used.cpu_millis <= 8000 && state.used.cpu_millis >= 0);
        }
    }
    assert!(
        placed.len() > 50,
        "the test must have placed pods: {}",
        placed.len()
    );
}

#[test]
fn no_node_is_promised_more_than_it_has() {
    let mut cluster = cluster(&[node("a", "3", "4Gi"), node("b", "2500m", "4Gi")]);
    let placed = (0..10)
        .filter(|i| {
            add(
                &mut cluster,
                owned_pod(&format!("p{i}"), "rs", requests(json!({"cpu": "1"}))),
            )
            .is_ok()
        })
        .count();
    assert_eq!(placed, 5);
}

/// The bound is far below the target of 5,000 pods/s so that a busy machine and a build without optimisation
/// do not fail it; `knarr-control`'s bench measures the real figure.
#[test]
fn thousands_of_nodes_do_not_slow_one_pod_down() {
    let mut cluster = Cluster::default();
    for index in 0..5000 {
        let _ = cluster.set_node(&node(&format!("node-{index}"), "32", "128Gi"));
    }
    let pods: Vec<_> = (0..4000)
        .map(|i| {
            let owner = format!("rs{}", i % 20);
            owned_pod(
                &format!("p{i}"),
                &owner,
                requests(json!({"cpu": "100m", "memory": "128Mi"})),
            )
        })
        .collect();
    let started = Instant::now();
    for pod in pods {
        assert!(add(&mut cluster, pod).is_ok());
    }
    let rate = 4000.0 / started.elapsed().as_secs_f64();
    assert!(rate > 1000.0, "only {rate:.0} pods/s");
}
