// SPDX-License-Identifier: Apache-2.0
//! Slices that follow hand-made Endpoints.

use serde_json::{Value, json};

use super::*;
use crate::endpoint_slice::tests::service;

fn endpoints(labels: Value) -> Endpoints {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "e1", "labels": labels},
        "subsets": [{
            "addresses": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"name": "http", "port": 8080}],
        }],
    }))
    .unwrap()
}

#[test]
fn each_address_family_gets_a_slice_with_readiness() {
    let service = service(json!({"selector": null}));
    let endpoints = endpoints(json!({"team": "b"}));
    let actions = plan(Some(&endpoints), Some(&service), &[]);
    let mut slices = Vec::new();
    for action in actions {
        let SliceAction::Create(slice) = action else {
            panic!("{action:?}")
        };
        let labels = slice.metadata.labels.as_ref().unwrap();
        assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], MANAGER);
        assert_eq!(
            (
                labels["kubernetes.io/service-name"].as_str(),
                labels["team"].as_str()
            ),
            ("web", "b")
        );
        assert_eq!(
            slice.metadata.owner_references.as_ref().unwrap()[0].kind,
            "Endpoints"
        );
        let found: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| {
                (
                    e.addresses[0].clone(),
                    e.conditions.as_ref().unwrap().ready.unwrap(),
                )
            })
            .collect();
        slices.push((slice.address_type.clone(), found));
    }
    assert_eq!(
        slices,
        [
            (
                "IPv4".to_owned(),
                vec![
                    ("192.0.2.1".to_owned(), true),
                    ("192.0.2.2".to_owned(), false)
                ]
            ),
            ("IPv6".to_owned(), vec![("2001:db8::1".to_owned(), true)]),
        ]
    );
}

#[test]
fn nothing_is_mirrored_for_a_selector_a_skip_label_or_a_missing_side() {
    let by_hand = service(json!({"selector": null}));
    let made = endpoints(json!({}));
    let SliceAction::Create(slice) = plan(Some(&made), Some(&by_hand), &[]).remove(0) else {
        panic!("a slice is created")
    };
    let old = [*slice];
    let cases = [
        (Some(made.clone()), Some(service(json!({})))),
        (
            Some(endpoints(json!({SKIP_MIRROR: "true"}))),
            Some(by_hand.clone()),
        ),
        (None, Some(by_hand)),
        (Some(made), None),
    ];
    for (endpoints, service) in cases {
        let actions = plan(endpoints.as_ref(), service.as_ref(), &old);
        assert!(
            matches!(actions.as_slice(), [SliceAction::Delete { .. }]),
            "{actions:?}"
        );
        assert_eq!(plan(endpoints.as_ref(), service.as_ref(), &[]), []);
    }
}
