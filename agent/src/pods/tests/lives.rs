// SPDX-License-Identifier: Apache-2.0
//! Whole lives of pods: made, run, crashed, probed, evicted, deleted, taken over by the next agent.

use super::*;
use crate::edges::fake::Broken;

fn simple() -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

fn deleted(mut pod: Value, grace_seconds: i64) -> Value {
    pod["metadata"] = json!({
        "deletionTimestamp": "2023-11-14T22:13:50Z",
        "deletionGracePeriodSeconds": grace_seconds,
    });
    pod
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_made_runs_and_leaves_nothing_when_it_is_deleted() {
    let mut lab = Lab::new().await;
    lab.set("a", simple());
    lab.until_phase("a", "Running").await;
    assert_eq!(lab.node.log(), ["sandbox a 0", "start c 0"]);
    assert_eq!(lab.node.network(), (1, 1));
    let ip = lab.statuses["a"].pod_ip.clone().expect("an address");
    assert!(ip.starts_with("10.244.1."), "{ip}");
    assert_eq!(lab.events, ["Pulled", "Created", "Started"]);
    lab.node.clear_log();
    lab.set("a", deleted(simple(), 30));
    lab.until("the end", |lab| lab.gone == ["a"]).await;
    assert_eq!(lab.node.log(), ["signal c 15", "destroy a", "remove a"]);
    assert_eq!(lab.node.network(), (0, 0));
    lab.forget("a");
    lab.stop().await;
    let left = |dir: &str| {
        std::fs::read_dir(lab.dir.path().join(dir))
            .expect("there")
            .count()
    };
    assert_eq!((left("records"), left("addresses")), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_is_restarted_later_and_later() {
    let mut lab = Lab::new().await;
    lab.set("a", simple());
    lab.until_phase("a", "Running").await;
    lab.end("a", "c", 1);
    lab.until("the first restart", |lab| lab.restarts("a") == 1)
        .await;
    let mut waits = Vec::new();
    for restart in 2..=4 {
        lab.end("a", "c", 1);
        let crashed = Instant::now();
        lab.until("the back-off", |lab| {
            lab.waiting("a") == Some("CrashLoopBackOff")
        })
        .await;
        lab.until("a restart", |lab| lab.restarts("a") == restart)
            .await;
        waits.push(crashed.elapsed().as_secs());
    }
    assert_eq!(waits, [10, 20, 40]);
    let told = lab.events.iter().filter(|reason| *reason == "BackOff");
    assert_eq!(told.count(), 3);
    let last = lab.statuses["a"]
        .container_statuses
        .as_ref()
        .expect("statuses")[0]
        .clone();
    let ended = last
        .last_state
        .and_then(|s| s.terminated)
        .expect("it ended before");
    assert_eq!(
        (ended.exit_code, ended.reason.as_deref()),
        (1, Some("Error"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_liveness_probe_fails_is_killed_after_its_grace_and_restarted() {
    let mut lab = Lab::new().await;
    lab.node.ignore_signals("c");
    lab.set(
        "a",
        json!({"spec": {
        "terminationGracePeriodSeconds": 7,
        "containers": [{"name": "c", "image": "i:1",
            "livenessProbe": {"tcpSocket": {"port": 81}, "periodSeconds": 1, "failureThreshold": 2},
            "readinessProbe": {"tcpSocket": {"port": 82}, "periodSeconds": 1}}]}}),
    );
    lab.until("readiness", |lab| lab.is_ready("a")).await;
    lab.node.clear_log();
    lab.node.fail_probes(81);
    lab.until("a signal", |lab| !lab.node.log().is_empty())
        .await;
    let asked = Instant::now();
    lab.until("a restart", |lab| lab.restarts("a") == 1).await;
    assert_eq!(asked.elapsed().as_secs(), 7);
    assert_eq!(lab.node.log()[..3], ["signal c 15", "kill c", "start c 1"]);
    assert!(
        lab.events.contains(&"Unhealthy".to_owned()),
        "{:?}",
        lab.events
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_ready_makes_its_pod_unready_and_runs_on() {
    let mut lab = Lab::new().await;
    lab.node.fail_probes(82);
    lab.set(
        "a",
        json!({"spec": {"containers": [{"name": "c", "image": "i:1",
        "readinessProbe": {"tcpSocket": {"port": 82}, "periodSeconds": 1}}]}}),
    );
    lab.until_phase("a", "Running").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    lab.listen();
    assert!(!lab.is_ready("a"));
    assert_eq!(lab.restarts("a"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fills_the_disk_is_evicted() {
    let mut lab = Lab::new().await;
    lab.set(
        "a",
        json!({"spec": {
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "4Ki"}}],
        "containers": [{"name": "c", "image": "i:1",
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}}),
    );
    lab.until_phase("a", "Running").await;
    let volume = lab.dir.path().join("pods/a/kubernetes.io~empty-dir/v");
    std::fs::write(volume.join("big"), vec![1; 64 << 10]).expect("the volume is a directory");
    lab.until_phase("a", "Failed").await;
    assert_eq!(lab.statuses["a"].reason.as_deref(), Some("Evicted"));
    assert!(lab.node.sandbox("a").is_none(), "nothing of it runs");
    assert!(lab.gone.is_empty(), "its object stays until it is deleted");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_that_ignores_its_signal_is_killed_after_its_grace() {
    let mut lab = Lab::new().await;
    lab.node.ignore_signals("c");
    lab.set("a", simple());
    lab.until_phase("a", "Running").await;
    lab.node.clear_log();
    let asked = Instant::now();
    lab.set("a", deleted(simple(), 12));
    lab.until("the end", |lab| lab.gone == ["a"]).await;
    assert_eq!(asked.elapsed().as_secs(), 12);
    assert_eq!(
        lab.node.log(),
        ["signal c 15", "kill c", "destroy a", "remove a"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_over_what_runs_and_what_ended_meanwhile() {
    let mut lab = Lab::new().await;
    lab.set("runs", simple());
    let once = json!({"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i:1"}]}});
    lab.set("ends", once.clone());
    lab.set("leaves", simple());
    for name in ["runs", "ends", "leaves"] {
        lab.until_phase(name, "Running").await;
    }
    let ip = lab.statuses["runs"].pod_ip.clone();
    lab.stop().await;
    lab.node.clear_log();
    lab.end("ends", "c", 3);
    lab.snapshot(vec![("runs", simple()), ("ends", once)]);
    lab.start().await;
    lab.until_phase("ends", "Failed").await;
    lab.until("the pruning", |lab| lab.node.sandbox("leaves").is_none())
        .await;
    let log = lab.node.log();
    assert!(
        !log.iter()
            .any(|l| l.starts_with("start") || l.starts_with("sandbox")),
        "{log:?}"
    );
    assert_eq!(
        (lab.phase("runs"), lab.restarts("runs")),
        (Some("Running"), 0)
    );
    assert_eq!(lab.statuses["runs"].pod_ip, ip);
    assert_eq!(lab.node.network(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_dies_is_replaced_and_its_containers_follow() {
    let mut lab = Lab::new().await;
    lab.set("a", simple());
    lab.until_phase("a", "Running").await;
    lab.node.clear_log();
    lab.node.sandbox("a").expect("there").die();
    lab.until("a restart", |lab| lab.restarts("a") == 1).await;
    assert_eq!(lab.node.log(), ["destroy a", "sandbox a 1", "start c 1"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_told_and_tried_again() {
    let mut lab = Lab::new().await;
    lab.node.break_it(Broken::Sandboxes);
    lab.set("a", simple());
    lab.until("an event", |lab| {
        lab.events.contains(&"FailedCreatePodSandBox".to_owned())
    })
    .await;
    assert_eq!(lab.waiting("a"), Some("ContainerCreating"));
    lab.node.mend(Broken::Sandboxes);
    lab.node.break_it(Broken::Links);
    lab.until("a sandbox without a link", |lab| lab.node.log().len() > 1)
        .await;
    assert_eq!(lab.node.log()[..2], ["sandbox a 0", "destroy a"]);
    lab.node.mend(Broken::Links);
    lab.until_phase("a", "Running").await;
    assert_eq!(lab.node.network(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_waited_for_and_a_container_starts_when_it_comes() {
    let mut lab = Lab::new().await;
    lab.set(
        "a",
        json!({"spec": {"containers": [{"name": "c", "image": "late:1",
        "imagePullPolicy": "Never"}]}}),
    );
    lab.until("a reason", |lab| {
        lab.waiting("a") == Some("ErrImageNeverPull")
    })
    .await;
    lab.node.import("late:1");
    lab.until_phase("a", "Running").await;
    assert_eq!(lab.node.log(), ["sandbox a 0", "start c 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_asks_for_a_missing_object_waits_with_its_reason() {
    let mut lab = Lab::new().await;
    lab.set(
        "a",
        json!({"spec": {"containers": [{"name": "c", "image": "i:1",
        "env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}]}}),
    );
    lab.until("a reason", |lab| {
        lab.waiting("a") == Some("CreateContainerConfigError")
    })
    .await;
    assert_eq!(lab.node.log(), ["sandbox a 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_node_has_no_room_for_fails_before_anything_is_made() {
    let mut lab = Lab::new().await;
    lab.set(
        "a",
        json!({"spec": {"containers": [{"name": "c", "image": "i:1",
        "resources": {"requests": {"cpu": "64"}}}]}}),
    );
    lab.until_phase("a", "Failed").await;
    assert_eq!(lab.statuses["a"].reason.as_deref(), Some("OutOfcpu"));
    assert!(lab.node.log().is_empty(), "{:?}", lab.node.log());
}
