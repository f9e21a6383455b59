// SPDX-License-Identifier: Apache-2.0
//! Which slices a Service gets and how little changes when its pods do.

use knarr_api::names::NamespacedName;
use serde_json::{Value, json};

use super::*;
use crate::pods::{NamedPort, Phase, Ready};

pub(crate) fn service(more: Value) -> Service {
    let mut spec = json!({
        "clusterIP": "10.96.0.5", "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "svc", "labels": {"team": "a"}},
        "spec": spec,
    }))
    .unwrap()
}

pub(crate) fn pod(index: usize) -> PodView {
    PodView {
        name: NamespacedName::new("default", format!("web-{index:03}")),
        uid: format!("u{index}").into(),
        labels: Box::new([("app".to_owned(), "web".to_owned())]),
        node: Some("node-1".into()),
        phase: Phase::Running,
        ready: Some(Ready {
            is_true: true,
            since: None,
            is_lost: false,
        }),
        ips: Box::new([format!("10.244.{}.{}", index / 200, index % 200 + 1).into()]),
        ..PodView::default()
    }
}

fn planned(service: &Service, pods: &[PodView], slices: &[EndpointSlice]) -> Vec<SliceAction> {
    let pods: Vec<_> = pods.iter().collect();
    let zone_of = |node: &str| (node == "node-1").then(|| "zone-a".to_owned());
    plan(View {
        service,
        pods: &pods,
        zone_of: &zone_of,
        slices,
    })
}

/// Applies actions as the API would.
fn apply(slices: &mut Vec<EndpointSlice>, actions: &[SliceAction]) {
    for action in actions {
        match action {
            SliceAction::Create(slice) => {
                let mut slice = slice.clone();
                let number = slices.len();
                slice.metadata.name = Some(format!("web-{number}"));
                slice.metadata.uid = Some(format!("slice-{number}"));
                slices.push(*slice);
            }
            SliceAction::Update(slice) => {
                let known = slices
                    .iter_mut()
                    .find(|known| known.metadata.uid == slice.metadata.uid);
                *known.unwrap() = (**slice).clone();
            }
            SliceAction::Delete { uid, .. } => {
                slices.retain(|slice| slice.metadata.uid.as_ref() != Some(uid));
            }
        }
    }
}

fn settled(service: &Service, pods: &[PodView]) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    apply(&mut slices, &planned(service, pods, &[]));
    assert_eq!(planned(service, pods, &slices), [], "nothing is left to do");
    slices
}

fn addresses(slice: &EndpointSlice) -> Vec<&str> {
    slice
        .endpoints
        .iter()
        .flatten()
        .map(|endpoint| endpoint.addresses[0].as_str())
        .collect()
}

#[test]
fn a_slice_says_everything_about_its_endpoints() {
    let slices = settled(&service(json!({})), &[pod(0)]);
    let slice = serde_json::to_value(&slices[0]).unwrap();
    assert_eq!(
        slice,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": "web-0", "uid": "slice-0", "namespace": "default", "generateName": "web-",
                "labels": {"team": "a", "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "svc",
                    "controller": true, "blockOwnerDeletion": true}],
            },
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.244.0.1"], "nodeName": "node-1", "zone": "zone-a",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-000", "uid": "u0"},
            }],
        })
    );
}

#[test]
fn conditions_follow_readiness_termination_and_the_services_wish() {
    let ready = pod(0);
    let mut unready = pod(0);
    unready.ready = None;
    let mut leaving = pod(0);
    leaving.deleted_at = Some(knarr_api::k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let cases = [
        (&ready, false, (true, true, false)),
        (&unready, false, (false, false, false)),
        (&leaving, false, (false, true, true)),
        (&unready, true, (true, false, false)),
        (&leaving, true, (true, true, true)),
    ];
    for (pod, publish, (ready, serving, terminating)) in cases {
        let service = service(json!({"publishNotReadyAddresses": publish}));
        let slices = settled(&service, std::slice::from_ref(pod));
        let conditions = slices[0].endpoints.as_ref().unwrap()[0]
            .conditions
            .clone()
            .unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(ready), Some(serving), Some(terminating))
        );
    }
}

#[test]
fn pods_that_ended_or_have_no_address_or_other_labels_are_left_out() {
    let mut ended = pod(1);
    ended.phase = Phase::Failed;
    let mut starting = pod(2);
    starting.ips = Box::default();
    let mut other = pod(3);
    other.labels = Box::default();
    let slices = settled(&service(json!({})), &[ended, starting, other, pod(4)]);
    assert_eq!(addresses(&slices[0]), ["10.244.0.5"]);
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let service = service(json!({}));
    let mut slices = settled(&service, &[]);
    assert_eq!((slices.len(), addresses(&slices[0]).len()), (1, 0));
    // The first pod takes the empty slice over.
    let actions = planned(&service, &[pod(0)], &slices);
    assert!(
        matches!(actions.as_slice(), [SliceAction::Update(_)]),
        "{actions:?}"
    );
    apply(&mut slices, &actions);
    let actions = planned(&service, &[], &slices);
    assert!(
        matches!(actions.as_slice(), [SliceAction::Update(_)]),
        "{actions:?}"
    );
    apply(&mut slices, &actions);
    assert_eq!(planned(&service, &[], &slices), []);
}

#[test]
fn a_hundred_endpoints_fill_a_slice() {
    let pods: Vec<_> = (0..250).map(pod).collect();
    let slices = settled(&service(json!({})), &pods);
    let mut sizes: Vec<_> = slices.iter().map(|slice| addresses(slice).len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
}

#[test]
fn one_pod_changing_changes_one_slice() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..250).map(pod).collect();
    let slices = settled(&service, &pods);
    pods[30].ready = None;
    let actions = planned(&service, &pods, &slices);
    let [SliceAction::Update(slice)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    let changed = slice.endpoints.iter().flatten().zip(
        slices
            .iter()
            .find(|s| s.metadata.uid == slice.metadata.uid)
            .unwrap()
            .endpoints
            .iter()
            .flatten(),
    );
    assert_eq!(changed.filter(|(new, old)| new != old).count(), 1);
    // A pod replaced by another is one change too: the new one takes the room.
    pods[30] = pod(300);
    let actions = planned(&service, &pods, &slices);
    assert!(
        matches!(actions.as_slice(), [SliceAction::Update(_)]),
        "{actions:?}"
    );
    // And one pod more goes to the slice with room.
    let mut pods: Vec<_> = (0..251).map(pod).collect();
    let actions = planned(&service, &pods, &slices);
    let [SliceAction::Update(slice)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(addresses(slice).len(), 51);
    pods.truncate(200);
    let mut slices = slices;
    let actions = planned(&service, &pods, &slices);
    apply(&mut slices, &actions);
    assert_eq!(slices.len(), 2, "an empty slice goes when others are there");
}

#[test]
fn any_series_of_changes_leads_to_exactly_the_wanted_endpoints() {
    let service = service(json!({}));
    let mut state = 11u64;
    let mut slices = Vec::new();
    let mut here: Vec<usize> = Vec::new();
    for _ in 0..200 {
        for _ in 0..30 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let index = usize::try_from(state >> 33).unwrap() % 400;
            match here.iter().position(|known| *known == index) {
                Some(at) => {
                    here.swap_remove(at);
                }
                None => here.push(index),
            }
        }
        let pods: Vec<_> = here.iter().map(|index| pod(*index)).collect();
        let actions = planned(&service, &pods, &slices);
        apply(&mut slices, &actions);
        let mut found: Vec<_> = slices
            .iter()
            .flat_map(|slice| addresses(slice))
            .map(str::to_owned)
            .collect();
        let mut wanted: Vec<_> = pods.iter().map(|pod| pod.ips[0].to_string()).collect();
        found.sort();
        wanted.sort();
        assert_eq!(found, wanted);
        assert!(
            slices
                .iter()
                .all(|slice| addresses(slice).len() <= ENDPOINTS_MAX)
        );
        assert_eq!(planned(&service, &pods, &slices), []);
    }
}

#[test]
fn a_named_port_is_looked_up_in_each_pod() {
    let service = service(json!({"ports": [
        {"name": "http", "port": 80, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}));
    let named = |index, port| {
        let mut pod = pod(index);
        pod.named_ports = Box::new([NamedPort {
            name: "web".into(),
            protocol: "TCP".into(),
            port,
        }]);
        pod
    };
    let slices = settled(
        &service,
        &[named(0, 8080), named(1, 9090), named(2, 8080), pod(3)],
    );
    let mut found: Vec<_> = slices
        .iter()
        .map(|slice| {
            let ports = slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| port.port)
                .collect::<Vec<_>>();
            (ports, addresses(slice).len())
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [(vec![53], 1), (vec![53, 8080], 2), (vec![53, 9090], 1)]
    );
}

#[test]
fn slices_of_a_service_that_lost_its_selector_go() {
    let slices = settled(&service(json!({})), &[pod(0)]);
    let actions = planned(&service(json!({"selector": null})), &[pod(0)], &slices);
    assert!(
        matches!(actions.as_slice(), [SliceAction::Delete { .. }]),
        "{actions:?}"
    );
}

#[test]
fn a_change_of_port_uses_the_slice_again_and_labels_follow_the_service() {
    let slices = settled(&service(json!({})), &[pod(0)]);
    let moved = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": 9090}]}));
    let actions = planned(&moved, &[pod(0)], &slices);
    let [SliceAction::Update(slice)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(9090));
    assert_eq!(slice.metadata.uid, slices[0].metadata.uid);
    let headless = service(json!({"clusterIP": "None"}));
    let actions = planned(&headless, &[pod(0)], &slices);
    let [SliceAction::Update(slice)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert!(
        slice
            .metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key(HEADLESS)
    );
}

#[test]
fn a_slice_says_when_that_happened_which_it_changed_for() {
    use crate::trigger_time::TRIGGER_TIME;
    use knarr_api::k8s_openapi::jiff::Timestamp;
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let pod_at = |index, seconds, is_true| PodView {
        ready: Some(Ready {
            is_true,
            since: Some(at(seconds)),
            is_lost: false,
        }),
        ..pod(index)
    };
    let times = |actions: &[SliceAction]| -> Vec<Option<String>> {
        let written = actions.iter().filter_map(|action| match action {
            SliceAction::Create(slice) | SliceAction::Update(slice) => Some(&slice.metadata),
            SliceAction::Delete { .. } => None,
        });
        written
            .map(|meta| meta.annotations.as_ref()?.get(TRIGGER_TIME).cloned())
            .collect()
    };
    let some = |text: &str| vec![Some(text.to_owned())];
    let service = service(json!({}));
    let mut slices = Vec::new();
    let mut step = |pods: &[PodView]| {
        let actions = planned(&service, pods, &slices);
        apply(&mut slices, &actions);
        times(&actions)
    };
    assert_eq!(
        step(&[pod_at(0, 50, true)]),
        [None],
        "the Service has no time"
    );
    let two = [pod_at(0, 50, true), pod_at(1, 120, true)];
    assert_eq!(step(&two), some("1970-01-01T00:02:00Z"));
    assert_eq!(step(&two), []);
    let lost = [pod_at(0, 180, false), pod_at(1, 120, true)];
    assert_eq!(step(&lost), some("1970-01-01T00:03:00Z"));
    assert_eq!(step(&lost[..1]), [None], "a pod that is gone has no time");
}
