// SPDX-License-Identifier: Apache-2.0
//! The fake refuses what the runtime refuses: what a test of a pod's life must not find easier than a node.

use knarr_pod::{
    Access, ContainerPhase, ContainerSpec, Escalation, IpcMode, LastWords, NetworkMode, PidMode,
    Privilege, QosClass, Resources, SandboxState, Seccomp, Shutdown, StartReason, User,
};
use knarr_runtime::SandboxError;

use super::*;
use crate::edges::Sandbox;

/// A node with one sandbox, in which the container `c` runs.
async fn running() -> (tempfile::TempDir, Arc<FakeNode>, SandboxHandle) {
    let dir = tempfile::tempdir().expect("tempdir");
    let node = FakeNode::new(dir.path(), Clock::System);
    node.import("i:1");
    let sandbox = node.create(sandbox_spec("u")).await.expect("makes it");
    sandbox
        .start_container(container("c"))
        .await
        .expect("starts");
    (dir, node, sandbox)
}

fn sandbox_spec(uid: &str) -> SandboxSpec {
    SandboxSpec {
        uid: uid.to_owned(),
        namespace: "ns".to_owned(),
        name: "a".to_owned(),
        attempt: 0,
        hostname: "a".to_owned(),
        qos: QosClass::BestEffort,
        resources: Resources::default(),
        network: NetworkMode::default(),
        pid: PidMode::default(),
        ipc: IpcMode::default(),
        hosts: String::new(),
        resolv_conf: String::new(),
        sysctls: Vec::new(),
    }
}

fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        attempt: 0,
        image: "i:1".to_owned(),
        args: vec!["/program".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: User::default(),
        mounts: Vec::new(),
        resources: Resources::default(),
        oom_score_adj: 1000,
        rootfs: Access::default(),
        privilege: Privilege::default(),
        escalation: Escalation::default(),
        capabilities_add: Vec::new(),
        capabilities_drop: Vec::new(),
        seccomp: Seccomp::default(),
        termination_message_path: None,
        last_words: LastWords::default(),
        shutdown: Shutdown::default(),
    }
}

fn is_dead<T>(answer: Result<T, SandboxError>) -> bool {
    matches!(answer, Err(SandboxError::Dead { .. }))
}

#[tokio::test]
async fn a_dead_sandbox_answers_nothing_but_its_removal() {
    let (_dir, node, sandbox) = running().await;
    node.sandbox("u").expect("there").die();
    assert!(is_dead(sandbox.start_container(container("d")).await));
    assert!(is_dead(sandbox.start_container(container("c")).await));
    assert!(is_dead(sandbox.signal("c", 0, 15).await));
    assert!(is_dead(sandbox.kill("c", 0).await));
    assert!(is_dead(sandbox.remove_container("c", 0).await));
    assert!(is_dead(sandbox.netns()));
    assert_eq!(sandbox.containers().len(), 1, "what was known of it stays");
    sandbox.destroy().await.expect("removes it");
    sandbox.destroy().await.expect("may be done again");
    assert!(is_dead(sandbox.signal("c", 0, 15).await));
}

#[tokio::test]
async fn a_container_that_is_not_there_is_not_found() {
    let (_dir, _node, sandbox) = running().await;
    let absent = |answer| matches!(answer, Err(SandboxError::NotFound { attempt: 1, .. }));
    assert!(absent(sandbox.signal("c", 1, 15).await));
    assert!(absent(sandbox.kill("c", 1).await));
    assert!(absent(sandbox.remove_container("c", 1).await));
}

#[tokio::test]
async fn only_a_container_that_has_ended_is_removed() {
    let (_dir, _node, sandbox) = running().await;
    let refused = sandbox.remove_container("c", 0).await.expect_err("it runs");
    assert_eq!(refused.to_string(), "container c (attempt 0) is running");
    sandbox.kill("c", 0).await.expect("kills");
    sandbox.kill("c", 0).await.expect("nothing happens");
    sandbox.signal("c", 0, 15).await.expect("nothing happens");
    let phase = sandbox.containers()[0].phase.clone();
    assert!(matches!(
        phase,
        ContainerPhase::Exited { exit_code: 137, .. }
    ));
    sandbox.remove_container("c", 0).await.expect("removes it");
    assert_eq!(sandbox.containers().len(), 0);
}

#[tokio::test]
async fn a_container_needs_its_image_and_something_to_run() {
    let (_dir, node, sandbox) = running().await;
    node.remove_image("i:1");
    let missing = sandbox.start_container(container("d")).await;
    assert!(matches!(missing, Err(SandboxError::NoImage { .. })));
    let mut empty = container("d");
    empty.args.clear();
    match sandbox.start_container(empty).await {
        Err(SandboxError::Start { reason, .. }) => {
            assert_eq!(reason, StartReason::CreateContainerError);
        }
        other => panic!("{other:?}"),
    }
    assert!(
        Images::get(&*node, "I:1").is_err(),
        "names have no capitals"
    );
}

#[tokio::test]
async fn a_pod_has_one_sandbox_and_is_removed_after_it() {
    let (_dir, node, sandbox) = running().await;
    let again = node.create(sandbox_spec("u")).await.map(|_| ());
    let text = again.expect_err("there is one").to_string();
    assert_eq!(text, "pod u has a sandbox; destroy it first");
    let early = node.remove_pod("u").await.expect_err("it has a sandbox");
    assert_eq!(early.to_string(), "pod u still has a sandbox");
    let handle = node.sandbox("u").expect("there");
    Sandboxes::destroy(&node, "u").await.expect("removes it");
    Sandboxes::destroy(&node, "u")
        .await
        .expect("nothing there is fine");
    let reason = "its shim died".to_owned();
    assert_eq!(handle.state(), SandboxState::Dead { reason });
    assert!(is_dead(sandbox.kill("c", 0).await));
    node.remove_pod("u").await.expect("removes it");
    let strange = sandbox_spec("../u");
    let refused = node.create(strange).await.map(|_| ());
    assert!(matches!(refused, Err(RuntimeError::Refused(_))));
}

#[tokio::test]
async fn a_pod_is_made_known_after_its_link() {
    let (_dir, node, sandbox) = running().await;
    let link = PodLink {
        host_ifname: PodLink::host_ifname("u"),
        pod_ip: Ipv4Addr::new(10, 244, 1, 2),
    };
    let netns = || sandbox.netns().expect("it lives");
    let early = node.set_pod(netns(), link.clone()).await;
    assert!(matches!(early, Err(DatapathError::Network { .. })));
    use std::os::fd::AsFd;
    node.add(netns().as_fd(), &link).await.expect("makes it");
    node.set_pod(netns(), link).await.expect("knows it");
    assert_eq!(node.network(), (1, 1));
    node.sandbox("u").expect("there").die();
    assert_eq!(node.network(), (0, 1), "a link goes with its namespace");
}
