// SPDX-License-Identifier: Apache-2.0
//! Requests and limits in numbers.
use serde_json::json;

use super::*;

fn spec(containers: serde_json::Value) -> PodSpec {
    serde_json::from_value(json!({"containers": containers})).expect("spec")
}

#[test]
fn the_class_follows_requests_and_limits() {
    let none = spec(json!([{"name": "a"}]));
    assert_eq!(qos(&none), QosClass::BestEffort);
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(
        qos(&spec(json!([{"name": "a", "resources": full}]))),
        QosClass::Guaranteed
    );
    let mixed = spec(json!([{"name": "a", "resources": full}, {"name": "b"}]));
    assert_eq!(qos(&mixed), QosClass::Burstable);
    let unequal = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
    assert_eq!(
        qos(&spec(json!([{"name": "a", "resources": unequal}]))),
        QosClass::Burstable
    );
    let written_apart = json!({"limits": {"cpu": "1000m", "memory": "1024Mi"},
                               "requests": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(
        qos(&spec(json!([{"name": "a", "resources": written_apart}]))),
        QosClass::Guaranteed
    );
}

#[test]
fn cpu_becomes_shares_and_quota() {
    assert_eq!(cpu_shares(0), 2);
    assert_eq!(cpu_shares(1000), 1024);
    assert_eq!(cpu_shares(i64::MAX), CPU_SHARES_MAX);
    assert_eq!(cpu_quota_us(0), None);
    assert_eq!(cpu_quota_us(500), Some(50_000));
    assert_eq!(cpu_quota_us(1), Some(CPU_QUOTA_US_MIN));
}

#[test]
fn a_container_gets_its_own_limits() {
    let spec = spec(json!([{"name": "a", "resources": {
        "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]));
    assert_eq!(
        container_values(&spec.containers[0], Some(100)),
        Resources {
            cpu_shares: Some(256),
            cpu_quota_us: Some(150_000),
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        }
    );
}

#[test]
fn a_pod_is_limited_only_where_all_its_containers_are() {
    let limited = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let both =
        spec(json!([{"name": "a", "resources": limited}, {"name": "b", "resources": limited}]));
    let values = pod_values(&both, None);
    assert_eq!(values.memory_bytes, Some(2 << 30));
    assert_eq!(values.cpu_quota_us, Some(200_000));
    let one = spec(json!([{"name": "a", "resources": limited}, {"name": "b"}]));
    let values = pod_values(&one, None);
    assert_eq!((values.memory_bytes, values.cpu_quota_us), (None, None));
    assert_eq!(values.cpu_shares, Some(1024));
}

#[test]
fn an_init_container_that_needs_more_raises_the_pod() {
    let spec: PodSpec = serde_json::from_value(json!({
        "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
            {"name": "i", "resources": {"requests": {"cpu": "2"}}}],
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}))
    .expect("spec");
    assert_eq!(pod_values(&spec, None).cpu_shares, Some(cpu_shares(2100)));
}

#[test]
fn the_oom_score_protects_what_asked_for_memory() {
    let score = |resources: serde_json::Value| {
        let spec = spec(json!([{"name": "a", "resources": resources}]));
        oom_score_adj(&spec, &spec.containers[0], 10_000)
    };
    assert_eq!(score(json!({})), 1000);
    assert_eq!(score(json!({"limits": {"cpu": "1", "memory": "1k"}})), -997);
    assert_eq!(score(json!({"requests": {"memory": "1k"}})), 900);
    assert_eq!(score(json!({"requests": {"memory": "10k"}})), 3);
    assert_eq!(score(json!({"requests": {"cpu": "1"}})), 999);
}
