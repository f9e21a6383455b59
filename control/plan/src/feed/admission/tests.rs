// SPDX-License-Identifier: Apache-2.0
//! Tests of which certificates a Node accepts.

use serde_json::{Value, json};

use super::*;

fn node(uid: &str, annotations: Value, status: Value) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n", "uid": uid, "annotations": annotations}, "status": status,
    }))
    .unwrap()
}

fn certificate(uid: Option<&str>, begins: i64) -> Certificate {
    Certificate {
        uid: uid.map(str::to_owned),
        begins,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

#[test]
fn a_certificate_counts_for_its_very_node() {
    let own = certificate(Some("u1"), 0);
    assert_eq!(
        judge("n", Some(&node("u1", json!({}), json!({}))), &own),
        Ok(())
    );
    let gone = judge("n", None, &own).unwrap_err();
    assert!(gone.to_string().contains("was deleted"), "{gone}");
    let other = node("u2", json!({}), json!({}));
    let replaced = judge("n", Some(&other), &own).unwrap_err();
    assert_eq!(replaced, Refusal::Replaced("n".to_owned()));
}

#[test]
fn an_older_certificate_counts_for_a_node_that_has_reported() {
    let info = json!({"nodeInfo": {"kubeletVersion": "v1", "architecture": "", "bootID": "",
        "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "machineID": "",
        "operatingSystem": "", "osImage": "", "systemUUID": ""}});
    let old = certificate(None, 0);
    let reported = node("u1", json!({}), info);
    assert_eq!(judge("n", Some(&reported), &old), Ok(()));
    let by_hand = node("u1", json!({}), json!({}));
    assert!(judge("n", Some(&by_hand), &old).is_err());
}

#[test]
fn certificates_count_from_the_moment_that_the_node_says() {
    let moment = annotation(at(1_700_000_000));
    assert_eq!(moment, "2023-11-14T22:13:20Z");
    let denied = node("u1", json!({SINCE: moment}), json!({}));
    let judged = |begins| judge("n", Some(&denied), &certificate(Some("u1"), begins));
    assert_eq!(judged(1_700_000_000), Ok(()));
    let refused = judged(1_699_999_999).unwrap_err();
    assert!(refused.to_string().contains(&moment), "{refused}");
    let broken = node("u1", json!({SINCE: "yesterday"}), json!({}));
    let judged = judge("n", Some(&broken), &certificate(Some("u1"), i64::MAX));
    assert!(matches!(judged, Err(Refusal::Broken(..))));
}

#[test]
fn taking_certificates_back_leaves_none_however_fast_and_whatever_the_clock() {
    let mut present = node("u1", json!({}), json!({}));
    let mut last = i64::MIN;
    // The clock goes on, stands still, and is set back.
    for now in [100, 100, 101, 50, 50] {
        let next = next_since(&present, at(now));
        assert!(next.as_second() > now && next.as_second() > last);
        present = node("u1", json!({SINCE: annotation(next)}), json!({}));
        let judged = |begins| judge("n", Some(&present), &certificate(Some("u1"), begins));
        assert!(judged(now).is_err() && judged(last).is_err());
        assert_eq!(judged(next.as_second()), Ok(()));
        last = next.as_second();
    }
}
