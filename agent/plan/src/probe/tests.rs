// SPDX-License-Identifier: Apache-2.0
//! Rows of answers.
use serde_json::json;

use super::*;

fn container(extra: serde_json::Value) -> Container {
    let mut value = json!({"name": "c", "ports": [{"name": "http", "containerPort": 8080}]});
    for (key, v) in extra.as_object().expect("object") {
        value[key] = v.clone();
    }
    serde_json::from_value(value).expect("container")
}

#[test]
fn probes_are_read_with_kubernetes_defaults() {
    let specs = probe_specs(&container(json!({
        "readinessProbe": {"httpGet": {"port": "http", "path": "ready"}}})))
    .expect("specs");
    assert_eq!(
        specs,
        [ProbeSpec {
            kind: ProbeKind::Readiness,
            check: Check::Http(HttpGet {
                scheme: Scheme::Http,
                host: None,
                port: 8080,
                path: "/ready".into(),
                headers: vec![],
            }),
            initial_delay_ms: 0,
            period_ms: 10_000,
            timeout_ms: 1_000,
            success_threshold: 1,
            failure_threshold: 3,
            grace_ms: None,
        }]
    );
}

#[test]
fn a_scheme_is_one_of_two() {
    let scheme = |name: &str| {
        let probe = json!({"livenessProbe": {"httpGet": {"port": 1, "scheme": name}}});
        probe_specs(&container(probe)).map(|specs| match &specs[0].check {
            Check::Http(get) => get.scheme,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(scheme("HTTP"), Ok(Scheme::Http));
    assert_eq!(scheme("HTTPS"), Ok(Scheme::Https));
    let refused = scheme("https").expect_err("it is no scheme");
    assert_eq!(refused.field, "livenessProbe.httpGet.scheme");
}

#[test]
fn a_threshold_of_failures_in_a_row_changes_the_verdict() {
    let specs = probe_specs(&container(json!({
        "livenessProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 2,
                          "terminationGracePeriodSeconds": 5}})))
    .expect("specs");
    let mut state = ProbeState::default();
    let mut see = |outcome| {
        state.take(&specs[0], outcome);
        probe_view(&[(specs[0].clone(), state)]).failed
    };
    assert_eq!(see(Outcome::Fail), None);
    assert_eq!(see(Outcome::Pass), None);
    assert_eq!(see(Outcome::Fail), None);
    let failure = see(Outcome::Fail).expect("failed");
    assert_eq!((failure.probe, failure.grace_ms), ("liveness", Some(5_000)));
}

#[test]
fn a_container_with_probes_is_neither_started_nor_ready_before_an_answer() {
    let specs = probe_specs(&container(json!({
        "startupProbe": {"tcpSocket": {"port": 1}}, "readinessProbe": {"tcpSocket": {"port": 1}}})))
    .expect("specs");
    let fresh: Vec<_> = specs
        .into_iter()
        .map(|s| (s, ProbeState::default()))
        .collect();
    let view = probe_view(&fresh);
    assert_eq!(
        (view.started, view.ready, view.failed),
        (Some(false), Some(false), None)
    );
}

#[test]
fn seconds_of_a_probe_are_as_large_as_they_may_be_written() {
    let specs = probe_specs(&container(json!({
        "livenessProbe": {"tcpSocket": {"port": 1}, "terminationGracePeriodSeconds": i64::MAX,
                          "initialDelaySeconds": i32::MAX, "periodSeconds": i32::MAX,
                          "timeoutSeconds": i32::MAX}})))
    .expect("specs");
    let most = i64::from(i32::MAX) * 1_000;
    assert_eq!(specs[0].grace_ms, Some(Millis::MAX));
    assert_eq!(specs[0].initial_delay_ms, most);
    assert_eq!(specs[0].period_ms, most);
    assert_eq!(specs[0].timeout_ms, most);
}
