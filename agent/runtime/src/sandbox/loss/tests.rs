// SPDX-License-Identifier: Apache-2.0
//! Tests of what is said of a lost sandbox.

use knarr_pod::ContainerState;

use super::*;

fn container(name: &str, phase: ContainerPhase) -> ContainerState {
    ContainerState {
        name: name.to_owned(),
        attempt: 0,
        id: String::new(),
        image: String::new(),
        image_id: String::new(),
        pid: Some(7),
        phase,
        created_at: Timestamp(1),
    }
}

fn exited(reason: ExitReason, exit_code: i32, message: &str) -> ContainerPhase {
    ContainerPhase::Exited {
        exit_code,
        signal: None,
        reason,
        message: message.to_owned(),
        started_at: Timestamp(2),
        finished_at: Timestamp(9),
    }
}

#[test]
fn what_ran_is_over_and_what_was_over_stays_as_it_was() {
    let known = Snapshot {
        version: 5,
        dead: None,
        containers: vec![
            container(
                "ran",
                ContainerPhase::Running {
                    started_at: Timestamp(2),
                },
            ),
            container("done", exited(ExitReason::Error, 3, "")),
        ],
    };
    let last = ended(known, "it broke", Timestamp(9));
    let unknown = ExitReason::ContainerStatusUnknown;
    let message = "The container's end was not seen: it broke";
    let mut ran = container("ran", exited(unknown, 137, message));
    ran.pid = None;
    let expected = Snapshot {
        version: 6,
        dead: Some("it broke".to_owned()),
        containers: vec![ran, container("done", exited(ExitReason::Error, 3, ""))],
    };
    assert_eq!(last, expected);
    assert_eq!(ended(last.clone(), "again", Timestamp(10)), last);
}

#[test]
fn what_a_shim_told_and_could_not_write_counts() {
    let version = |version| Snapshot {
        version,
        ..Snapshot::default()
    };
    assert_eq!(newer(version(3), version(8)), version(8));
    assert_eq!(newer(version(8), version(3)), version(8));
}
