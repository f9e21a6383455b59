// SPDX-License-Identifier: Apache-2.0
//! Which log is read.

use knarr_agent_plan::reason::WaitingReason;

use super::*;

fn pod() -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }))
    .expect("pod")
}

fn request(container: &str, previous: bool) -> LogRequest {
    LogRequest {
        pod: "web".into(),
        container: container.into(),
        previous,
        ..LogRequest::default()
    }
}

#[test]
fn a_container_that_waits_says_so() {
    let mut record = PodRecord::default();
    let error = log_attempt(&pod(), &record, &request("c", false)).expect_err("waits");
    assert_eq!(error.code, 400);
    assert_eq!(
        error.message,
        "container \"c\" in pod \"web\" is waiting to start: ContainerCreating"
    );
    record.refused("c", WaitingReason::ErrImagePull, "no", 0);
    let error = log_attempt(&pod(), &record, &request("c", false)).expect_err("waits");
    assert!(error.message.ends_with("trying and failing to pull image"));
    assert_eq!(
        log_attempt(&pod(), &record, &request("x", false))
            .expect_err("none")
            .code,
        400
    );
}

#[test]
fn previous_means_the_attempt_before() {
    let mut record = PodRecord::default();
    record.started("c", 0, 0, 0);
    assert_eq!(log_attempt(&pod(), &record, &request("c", false)), Ok(0));
    assert!(log_attempt(&pod(), &record, &request("c", true)).is_err());
    record.started("c", 1, 0, 0);
    assert_eq!(log_attempt(&pod(), &record, &request("c", true)), Ok(0));
}
