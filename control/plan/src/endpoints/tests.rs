// SPDX-License-Identifier: Apache-2.0
//! The Endpoints object that follows a Service's pods.

use serde_json::json;

use super::*;
use crate::endpoint_slice::tests::{pod, service};
use crate::trigger_time::TRIGGER_TIME;

fn planned(
    service: &Service,
    pods: &[PodView],
    current: Option<&Endpoints>,
) -> Option<EndpointsAction> {
    let pods: Vec<_> = pods.iter().collect();
    plan(service, &pods, current)
}

fn created(service: &Service, pods: &[PodView]) -> Endpoints {
    match planned(service, pods, None) {
        Some(EndpointsAction::Create(endpoints)) => *endpoints,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ready_and_unready_pods_are_told_apart_and_leaving_ones_left_out() {
    let mut unready = pod(1);
    unready.ready = None;
    let mut leaving = pod(2);
    leaving.deleted_at = Some(knarr_api::k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
    let service = service(json!({}));
    let endpoints = created(&service, &[pod(0), unready, leaving]);
    assert_eq!(
        serde_json::to_value(&endpoints.subsets).unwrap(),
        json!([{
            "addresses": [{"ip": "10.244.0.1", "nodeName": "node-1",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-000", "uid": "u0"}}],
            "notReadyAddresses": [{"ip": "10.244.0.2", "nodeName": "node-1",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-001", "uid": "u1"}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }])
    );
    assert_eq!(endpoints.metadata.labels.as_ref().unwrap()["team"], "a");
}

#[test]
fn the_same_pods_in_another_order_change_nothing() {
    let service = service(json!({}));
    let endpoints = created(&service, &[pod(0), pod(1)]);
    assert_eq!(planned(&service, &[pod(1), pod(0)], Some(&endpoints)), None);
    assert!(matches!(
        planned(&service, &[pod(1)], Some(&endpoints)),
        Some(EndpointsAction::Update(changed)) if changed.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len() == 1
    ));
    let empty = created(&service, &[]);
    assert_eq!(empty.subsets, None);
    assert_eq!(planned(&service, &[], Some(&empty)), None);
}

#[test]
fn more_than_a_thousand_addresses_are_cut_with_a_note_ready_ones_first() {
    let service = service(json!({}));
    let mut pods: Vec<_> = (0..1200).map(pod).collect();
    for pod in &mut pods[..300] {
        pod.ready = None;
    }
    let endpoints = created(&service, &pods);
    let subset = &endpoints.subsets.as_ref().unwrap()[0];
    let sizes = (
        subset.addresses.as_ref().unwrap().len(),
        subset.not_ready_addresses.as_ref().unwrap().len(),
    );
    assert_eq!(sizes, (900, 100));
    assert_eq!(
        endpoints.metadata.annotations.as_ref().unwrap()[OVER_CAPACITY],
        "truncated"
    );
    let Some(EndpointsAction::Update(fewer)) = planned(&service, &pods[..500], Some(&endpoints))
    else {
        panic!("fewer pods are a change")
    };
    assert!(
        !fewer
            .metadata
            .annotations
            .unwrap()
            .contains_key(OVER_CAPACITY)
    );
}

#[test]
fn endpoints_of_a_service_without_selector_are_not_touched() {
    assert_eq!(
        planned(&service(json!({"selector": null})), &[pod(0)], None),
        None
    );
    assert_eq!(
        planned(&service(json!({"type": "ExternalName"})), &[pod(0)], None),
        None
    );
}

#[test]
fn an_object_says_when_that_happened_which_it_changed_for() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let ready_at = |mut pod: PodView, seconds| {
        pod.ready = pod.ready.map(|ready| crate::pods::Ready {
            since: Some(at(seconds)),
            ..ready
        });
        pod
    };
    let time = |endpoints: &Endpoints| {
        let annotations = endpoints.metadata.annotations.as_ref().unwrap();
        annotations.get(TRIGGER_TIME).cloned()
    };
    let updated = |pods: &[PodView], current: &Endpoints| match planned(
        &service(json!({})),
        pods,
        Some(current),
    ) {
        Some(EndpointsAction::Update(endpoints)) => *endpoints,
        other => panic!("{other:?}"),
    };
    let mut made = service(json!({}));
    made.metadata.creation_timestamp =
        Some(knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(100)));
    let first = created(&made, &[ready_at(pod(0), 50)]);
    assert_eq!(time(&first).as_deref(), Some("1970-01-01T00:01:40Z"));
    // Of several new pods the first change counts; the pod that was there does not.
    let pods = [
        ready_at(pod(0), 50),
        ready_at(pod(1), 130),
        ready_at(pod(2), 120),
    ];
    let second = updated(&pods, &first);
    assert_eq!(time(&second).as_deref(), Some("1970-01-01T00:02:00Z"));
    // The annotation alone is no difference.
    assert_eq!(planned(&service(json!({})), &pods, Some(&second)), None);
    // What no pod that is left says has no time.
    let third = updated(&pods[..1], &second);
    assert_eq!(time(&third), None);
    // A pod that is no longer ready.
    let mut lost = ready_at(pod(0), 200);
    lost.ready = lost.ready.map(|ready| crate::pods::Ready {
        is_true: false,
        ..ready
    });
    let fourth = updated(&[lost], &third);
    assert_eq!(time(&fourth).as_deref(), Some("1970-01-01T00:03:20Z"));
}
