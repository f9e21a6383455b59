// SPDX-License-Identifier: Apache-2.0
//! Containers that are replaced or restarted while they run, and starts that are held back.
use super::*;
use crate::reason::SandboxReason;

#[test]
fn a_changed_image_replaces_the_container_whatever_the_restart_policy_says() {
    for policy in ["Always", "Never"] {
        let mut w = World::new(pod(json!({
            "restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]})));
        w.settle();
        w.set_image("i:2");
        assert_eq!(
            w.plan().actions,
            [PodAction::Stop {
                name: "c".into(),
                attempt: 0,
                signal: None,
                grace_ms: 30_000,
                cause: StopCause::Changed,
                message: Some("Container c definition changed, will be restarted".into()),
            }]
        );
        assert_eq!(w.settle(), Some(NOW + 30_000), "{policy}");
        let shown = |w: &mut World| w.status().container_statuses.expect("statuses").remove(0);
        assert_eq!(shown(&mut w).image, "i:1", "what runs is shown");
        w.exit("c", 143);
        assert_eq!(w.phase(), "Running", "{policy}");
        assert_eq!(w.settle(), None, "{policy}: at once");
        assert_eq!(
            w.log[2..],
            ["stop c 30000", "start c 1", "remove c 0"],
            "{policy}"
        );
        let status = shown(&mut w);
        assert_eq!((status.image.as_str(), status.restart_count), ("i:2", 1));
        // From here on its own end counts again.
        w.exit("c", 1);
        w.settle();
        let expect = if policy == "Never" {
            "Failed"
        } else {
            "Running"
        };
        assert_eq!(w.phase(), expect);
    }
}

#[test]
fn a_changed_image_does_not_revive_a_container_that_has_ended() {
    let mut w = World::new(pod(json!({"restartPolicy": "Never", "containers": [
        {"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]})));
    w.settle();
    w.exit("c", 0);
    w.settle();
    w.set_image("i:2");
    assert_eq!(w.plan().actions, []);
}

#[test]
fn pre_stop_sleep_comes_before_the_signal_of_a_restart() {
    let mut w = World::new(pod(json!({"containers": [{"name": "c", "image": "i:1",
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}]})));
    w.settle();
    let failed = ProbeView {
        failed: Some(crate::probe::ProbeFailure {
            probe: "liveness",
            grace_ms: Some(5_000),
        }),
        ..ProbeView::default()
    };
    w.observed.probes.insert("c".into(), failed);
    assert_eq!(w.settle(), Some(NOW + 3_000));
    assert_eq!(w.log[2..], ["sleep c 3000"]);
    w.now += 3_000;
    assert_eq!(w.settle(), Some(NOW + 5_000));
    w.now += 2_000;
    let kill = w.plan().actions;
    w.apply(&kill[0]);
    w.observed.probes.clear();
    w.settle();
    assert_eq!(
        w.log[3..],
        ["stop c 2000", "kill c", "start c 1", "remove c 0"]
    );
}

#[test]
fn a_pod_deleted_during_the_sleep_of_a_restart_still_gets_its_signal() {
    let mut w = World::new(pod(json!({"containers": [{"name": "c", "image": "i:1",
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}}}]})));
    w.settle();
    w.set_image("i:2");
    w.settle();
    w.now += 1_000;
    w.delete(30);
    assert_eq!(w.settle(), Some(NOW + 3_000));
    w.now = NOW + 3_000;
    w.settle();
    assert_eq!(w.log[2..], ["sleep c 3000", "stop c 28000"]);
}

#[test]
fn nothing_is_started_while_the_record_cannot_be_written() {
    let mut w = World::new(simple());
    w.observed.record = RecordStore::Failing("no space left".into());
    assert_eq!(w.settle(), Some(NOW + 2_000));
    assert_eq!(w.log, ["sandbox 0", "refuse c CreateContainerError"]);
    assert_eq!(w.waiting_reason(0), "CreateContainerError");
    w.observed.record = RecordStore::Kept;
    w.now += 2_000;
    assert_eq!(w.settle(), None);
    assert_eq!(w.phase(), "Running");
}

#[test]
fn a_sandbox_without_its_network_is_destroyed_before_another_is_made_and_at_the_end() {
    let broken = || {
        let mut w = World::new(simple());
        w.sandbox = Some(SimulatedSandbox::new(0));
        w.health = SandboxHealth::Dead;
        let reason = SandboxReason::FailedCreatePodSandBox;
        w.record.sandbox_refused(reason, "no link", NOW);
        w
    };
    let mut w = broken();
    assert_eq!(w.settle(), Some(NOW + 2_000));
    assert_eq!(w.log, ["destroy"]);
    w.now += 2_000;
    w.settle();
    assert_eq!(w.log, ["destroy", "sandbox 1", "start c 0"]);
    let mut w = broken();
    w.delete(30);
    w.settle();
    assert_eq!(w.log, ["destroy", "release"]);
}

#[test]
fn the_pulled_event_says_when_a_pull_was_asked_for_and_not_made() {
    for (image, policy, says) in [
        ("a/i:1", None, false),
        ("a/i:1", Some("IfNotPresent"), false),
        ("a/i:1", Some("Always"), true),
        ("a/i", None, true),
        ("host:5000/i:latest", None, true),
        ("host:5000/i", None, true),
        ("a/i@sha256:12", None, false),
        ("a/i", Some("Never"), false),
    ] {
        let container = Container {
            image: Some(image.into()),
            image_pull_policy: policy.map(str::to_owned),
            ..Container::default()
        };
        let message = pulled_message(&container);
        assert!(message.contains("already present on machine"), "{message}");
        assert_eq!(
            message.contains("was not pulled"),
            says,
            "{image} {policy:?}"
        );
    }
}

#[test]
fn a_pod_that_was_not_admitted_fails_without_a_sandbox_and_says_why() {
    let mut w = World::new(simple());
    w.record.termination = Some(crate::record::Termination {
        since_ms: NOW,
        failure: Some(PodFailure {
            reason: FailureReason::OutOf("cpu".into()),
            message: "Pod was rejected: no".into(),
        }),
    });
    assert_eq!(w.settle(), None);
    assert!(w.log.is_empty(), "{:?}", w.log);
    let status = w.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.container_statuses, None);
    w.delete(30);
    w.settle();
    assert_eq!(w.released, 1);
}

#[test]
fn seconds_beyond_all_time_never_end_and_never_wrap() {
    let longest = i64::MAX;
    let mut deleted = pod(json!({"terminationGracePeriodSeconds": longest}));
    assert_eq!(grace_ms(&deleted, Wanted::Yes), Millis::MAX);
    deleted.metadata.deletion_grace_period_seconds = Some(longest);
    for wanted in [Wanted::Yes, Wanted::Removed] {
        assert_eq!(grace_ms(&deleted, wanted), Millis::MAX);
    }
    // The least is none at all.
    deleted.metadata.deletion_grace_period_seconds = Some(i64::MIN);
    assert_eq!(grace_ms(&deleted, Wanted::Yes), 0);

    let mut w = World::new(pod(json!({"activeDeadlineSeconds": longest,
        "containers": [{"name": "c", "image": "i:1"}]})));
    assert_eq!(w.settle(), Some(Millis::MAX), "it has no deadline");
    assert_eq!(w.phase(), "Running");
}

#[test]
fn a_pod_deleted_with_a_grace_beyond_all_time_is_asked_to_stop_and_not_killed() {
    let mut w = World::new(pod(json!({"terminationGracePeriodSeconds": i64::MAX,
        "containers": [{"name": "c", "image": "i:1"}]})));
    w.settle();
    w.pod.metadata.deletion_timestamp = Some(crate::status::time(NOW));
    w.pod.metadata.deletion_grace_period_seconds = Some(i64::MAX);
    assert_eq!(w.settle(), Some(Millis::MAX));
    assert_eq!(w.log[2..], [format!("stop c {}", Millis::MAX - NOW)]);
    w.now += 1_000_000_000_000;
    assert_eq!(w.settle(), Some(Millis::MAX));
    // A shorter one, set later, holds from the beginning.
    w.pod.metadata.deletion_grace_period_seconds = Some(30);
    w.settle();
    assert_eq!(w.log[3..], ["kill c", "destroy", "release"]);
}

#[test]
fn a_sleep_beyond_all_time_lasts_as_long_as_the_grace() {
    let sleeping = json!({"preStop": {"sleep": {"seconds": i64::MAX}}});
    let mut w = World::new(pod(json!({"terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": "i:1", "lifecycle": sleeping}]})));
    w.settle();
    w.delete(30);
    assert_eq!(w.settle(), Some(NOW + 30_000));
    assert_eq!(w.log.len(), 2, "{:?}", w.log);
    w.now += 30_000;
    w.settle();
    assert_eq!(w.log[2..], ["kill c", "destroy", "release"]);

    // Before a restart, sleep and grace both go on for ever.
    let mut w = World::new(pod(json!({"terminationGracePeriodSeconds": i64::MAX,
        "containers": [{"name": "c", "image": "i:1", "lifecycle": sleeping}]})));
    w.settle();
    w.set_image("i:2");
    assert_eq!(w.settle(), Some(Millis::MAX));
    assert_eq!(w.log[2..], [format!("sleep c {}", Millis::MAX)]);
    w.now += 1_000_000_000_000;
    assert_eq!(w.settle(), Some(Millis::MAX));
}

#[test]
fn a_restart_with_a_grace_beyond_all_time_is_waited_for() {
    let mut w = World::new(simple());
    w.settle();
    let failed = ProbeView {
        failed: Some(crate::probe::ProbeFailure {
            probe: "liveness",
            grace_ms: Some(Millis::MAX),
        }),
        ..ProbeView::default()
    };
    w.observed.probes.insert("c".into(), failed);
    assert_eq!(w.settle(), Some(Millis::MAX));
    assert_eq!(w.log[2..], [format!("stop c {}", Millis::MAX)]);
    w.now += 1_000_000_000_000;
    assert_eq!(w.settle(), Some(Millis::MAX));
}
