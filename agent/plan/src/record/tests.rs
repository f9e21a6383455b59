// SPDX-License-Identifier: Apache-2.0
//! What is remembered across restarts.
use knarr_pod::Timestamp;
use serde_json::json;

use super::*;
use crate::observed::{SandboxHealth, SandboxView};
use crate::reason::FailureReason;

fn running(attempt: u32) -> Observed {
    Observed {
        sandbox: Some(SandboxView {
            attempt: 0,
            ips: vec![],
            health: SandboxHealth::Alive,
        }),
        containers: vec![ContainerState {
            name: "c".into(),
            attempt,
            id: format!("id{attempt}"),
            image: "i:1".into(),
            image_id: "sha256:1".into(),
            phase: ContainerPhase::Running {
                started_at: Timestamp::from_millis(5),
            },
            pid: Some(7),
            created_at: Timestamp::from_millis(4),
        }],
        ..Observed::default()
    }
}

#[test]
fn a_start_that_was_not_noted_is_learned_with_its_back_off() {
    let mut record = PodRecord::default();
    record.started("c", 0, 0, 0);
    record.absorb(&running(0), 10);
    let mut gone = running(0);
    gone.containers[0].phase = ContainerPhase::Exited {
        exit_code: 3,
        signal: None,
        reason: ExitReason::Error,
        message: String::new(),
        started_at: Timestamp::from_millis(5),
        finished_at: Timestamp::from_millis(20),
    };
    assert_eq!(record.absorb(&gone, 30), Learned::Something);
    assert_eq!(record.absorb(&gone, 40), Learned::Nothing);
    assert_eq!(record.absorb(&running(1), 50), Learned::Something);
    let c = &record.containers["c"];
    assert_eq!(
        (c.attempts, c.last.as_ref().map(|e| e.exit_code)),
        (2, Some(3))
    );
    assert_eq!(c.back_off.map(|b| b.delay_ms), Some(10_000));
}

#[test]
fn an_older_attempt_changes_nothing() {
    let mut record = PodRecord::default();
    record.started("c", 0, 0, 0);
    record.started("c", 1, 0, 0);
    record.absorb(&running(1), 10);
    let before = record.clone();
    let mut both = running(1);
    both.containers.extend(running(0).containers);
    record.absorb(&both, 20);
    assert_eq!(record, before);
}

#[test]
fn restart_counts_continue_from_the_api_when_the_file_is_lost() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p"},
        "status": {"startTime": "2024-01-01T00:00:00Z", "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 4,
            "containerID": "knarr://abc", "state": {"running": {}}}]}}))
    .expect("pod");
    let mut record = PodRecord::new(&pod, 7);
    assert_eq!(record.accepted_ms, Some(1_704_067_200_000));
    assert_eq!(record.containers["c"].attempts, 5);
    record.absorb(&Observed::default(), 9);
    let exit = record.containers["c"].exit.clone().expect("lost");
    assert_eq!((exit.exit_code, exit.id.as_str()), (LOST_EXIT_CODE, "abc"));
}

#[test]
fn refusals_are_looked_at_again_sooner_than_a_person_waits() {
    let mut record = PodRecord::default();
    let mut waits = Vec::new();
    for _ in 0..5 {
        record.refused("c", WaitingReason::ErrImagePull, "no", 0);
        waits.push(
            record.containers["c"]
                .refusal
                .as_ref()
                .expect("refusal")
                .retry_ms,
        );
    }
    assert_eq!(waits, [2_000, 4_000, 8_000, 10_000, 10_000]);
    record.retry_now();
    assert_eq!(
        record.containers["c"].refusal.as_ref().map(|r| r.retry_ms),
        Some(0)
    );
}

#[test]
fn a_record_of_the_first_layout_is_read_with_its_reasons() {
    let text = r#"{
        "acceptedMs": 1, "sandboxes": 1,
        "sandboxRefusal": {"reason": "FailedMount", "message": "m", "times": 1, "retry_ms": 2},
        "containers": {"c": {
            "attempts": 2,
            "last": {"id": "i", "exit_code": 137, "signal": 9, "reason": "OOMKilled",
                     "message": null, "started_ms": 3, "finished_ms": 4},
            "exit": {"id": "j", "exit_code": 1, "signal": null, "reason": "OfAnotherVersion",
                     "message": null, "started_ms": 5, "finished_ms": 6},
            "refusal": {"reason": "ErrImagePull", "message": "m", "times": 1, "retry_ms": 7}}},
        "termination": {"since_ms": 8, "failure": {"reason": "OutOfcpu", "message": "m"}}}"#;
    let record: PodRecord = serde_json::from_str(text).expect("reads");
    let c = &record.containers["c"];
    let reason = |exit: &Option<Exit>| exit.as_ref().map(|e| e.reason);
    assert_eq!(reason(&c.last), Some(ExitReason::OOMKilled));
    assert_eq!(reason(&c.exit), Some(ExitReason::Unknown));
    let refusal = c.refusal.as_ref().map(|r| r.reason);
    assert_eq!(refusal, Some(WaitingReason::ErrImagePull));
    let refusal = record.sandbox_refusal.as_ref().map(|r| r.reason);
    assert_eq!(refusal, Some(SandboxReason::FailedMount));
    let failure = record.termination.and_then(|t| t.failure);
    let reason = failure.map(|f| f.reason);
    assert_eq!(reason, Some(FailureReason::OutOf("cpu".to_owned())));
}
