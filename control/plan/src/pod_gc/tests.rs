// SPDX-License-Identifier: Apache-2.0
//! Which pods go without their node's word.

use knarr_api::names::NamespacedName;
use serde_json::json;

use super::*;
use crate::pods::Phase;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

#[test]
fn a_pod_goes_only_when_its_node_is_gone_or_off() {
    let bound = PodView {
        node: Some("n".into()),
        ..PodView::default()
    };
    let leaving = PodView {
        deleted_at: Some(at(0)),
        ..bound.clone()
    };
    let without_node = PodView {
        deleted_at: Some(at(0)),
        ..PodView::default()
    };
    let gone = NodeFate::GoneSince(at(0));
    let removed = |pod: &PodView, fate, second| {
        matches!(judge(pod, fate, at(second)), Verdict::Remove { .. })
    };
    assert_eq!(judge(&bound, NodeFate::Exists, at(999)), Verdict::Keep);
    assert_eq!(judge(&leaving, NodeFate::Exists, at(999)), Verdict::Keep);
    assert_eq!(
        judge(&bound, gone, at(30)),
        Verdict::LookAgain(Duration::from_secs(10))
    );
    assert!(removed(&bound, gone, 40) && removed(&leaving, gone, 40));
    assert_eq!(
        judge(&bound, NodeFate::OutOfService, at(999)),
        Verdict::Keep
    );
    assert!(removed(&leaving, NodeFate::OutOfService, 0));
    assert!(removed(&without_node, NodeFate::Exists, 0));
    assert_eq!(
        judge(&PodView::default(), NodeFate::Exists, at(0)),
        Verdict::Keep
    );
}

#[test]
fn a_node_is_off_only_while_it_is_not_ready() {
    let node = |ready: &str| {
        serde_json::from_value::<Node>(json!({
            "metadata": {"name": "n"},
            "spec": {"taints": [{"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    };
    assert_eq!(fate_of(&node("Unknown")), NodeFate::OutOfService);
    assert_eq!(fate_of(&node("True")), NodeFate::Exists);
}

#[test]
fn the_oldest_ended_pods_go_beyond_the_limit() {
    let pod = |name: &str, second, phase| PodView {
        name: NamespacedName::new("default", name),
        created_at: Some(at(second)),
        phase,
        ..PodView::default()
    };
    let pods = [
        pod("new", 30, Phase::Succeeded),
        pod("old", 10, Phase::Failed),
        pod("runs", 1, Phase::Running),
        pod("mid", 20, Phase::Succeeded),
    ];
    let pods: Vec<_> = pods.iter().collect();
    let gone: Vec<_> = plan_terminated(&pods, 1)
        .into_iter()
        .map(|pod| pod.name.name)
        .collect();
    assert_eq!(gone, ["old", "mid"]);
    assert_eq!(plan_terminated(&pods, 3), []);
}

#[test]
fn a_node_that_goes_again_has_its_quarantine_anew() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut departures = Departures::default();
    assert_eq!(departures.since("a", |_| true, at(10)), at(10));
    assert_eq!(departures.since("a", |_| true, at(30)), at(10));
    departures.is_back("a");
    assert_eq!(departures.since("a", |_| true, at(100)), at(100));
}

#[test]
fn nodes_that_no_pod_is_bound_to_are_forgotten() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut departures = Departures::default();
    departures.since("a", |_| true, at(10));
    departures.since("b", |_| true, at(11));
    departures.since("c", |node| node == "b", at(12));
    let known: std::collections::BTreeSet<_> =
        departures.since.keys().map(String::as_str).collect();
    assert_eq!(known, ["b", "c"].into());
}
