// SPDX-License-Identifier: Apache-2.0
//! A pod's class and what may be changed of it.

use serde_json::{Value, json};

use super::{Pod, kind, qos};
use crate::field::FieldErrors;
use crate::registry::{Candidate, Rules};

fn pod(resources: Value) -> Value {
    json!({"spec": {"containers": [{"name": "a", "image": "x:1", "resources": resources}]}})
}

#[test]
fn the_class_follows_from_requests_and_limits() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "0"}}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}),
            "Burstable",
        ),
    ] {
        assert_eq!(qos::class(&pod(resources.clone())), class, "{resources}");
    }
}

fn update(change: impl Fn(&mut Value)) -> String {
    let mut old = pod(json!({}));
    kind().strategy.default(&mut old);
    let mut new = old.clone();
    change(&mut new);
    let mut errors = FieldErrors::default();
    let changed = Candidate::Changed {
        new: &new,
        old: &old,
    };
    let rules = Pod.check(changed, &mut errors);
    rules.expect("both are pods");
    if errors.is_empty() {
        String::new()
    } else {
        errors.aggregate()
    }
}

#[test]
fn only_images_deadline_and_more_tolerations_may_change() {
    assert_eq!(
        update(|pod| pod["spec"]["containers"][0]["image"] = "y:2".into()),
        ""
    );
    assert_eq!(
        update(|pod| pod["spec"]["activeDeadlineSeconds"] = 5.into()),
        ""
    );
    assert_eq!(
        update(|pod| pod["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}])),
        ""
    );
    for (forbidden, value) in [
        ("nodeName", "n2"),
        ("hostname", "other"),
        ("dnsPolicy", "Default"),
    ] {
        let message = update(|pod| pod["spec"][forbidden] = value.into());
        assert!(
            message.contains("pod updates may not change fields other than"),
            "{forbidden}: {message}"
        );
    }
}
