// SPDX-License-Identifier: Apache-2.0
//! Sandboxes that died, were taken over, or went with a reboot.

use super::*;

#[test]
fn a_dead_sandbox_is_replaced_and_its_containers_start_in_the_new_one() {
    let mut w = World::new(simple());
    w.settle();
    w.health = SandboxHealth::Dead;
    w.sandbox().containers.clear();
    w.settle();
    assert_eq!(w.log[2..], ["destroy", "sandbox 1", "start c 1"]);
    let last = w.record.containers["c"].last.clone().expect("last");
    assert_eq!(last.exit_code, crate::record::LOST_EXIT_CODE);
}

#[test]
fn a_sandbox_that_was_taken_over_is_wired_before_anything_else_and_stays() {
    let mut w = World::new(simple());
    w.settle();
    let before = w.log.clone();
    w.health = SandboxHealth::Unwired;
    let plan = w.plan();
    assert_eq!(
        (plan.stage, plan.actions),
        (Stage::Running, vec![PodAction::WireSandbox])
    );
    assert_eq!(
        w.status().phase.as_deref(),
        Some("Running"),
        "it goes on meanwhile"
    );
    w.settle();
    assert_eq!(w.log[before.len()..], ["wire"]);
    // One that is on its way out needs no network for that.
    w.health = SandboxHealth::Unwired;
    w.wanted = Wanted::Removed;
    w.exit("c", 0);
    w.settle();
    assert_eq!(w.log[before.len() + 1..], ["destroy", "release"]);
}

#[test]
fn a_reboot_restarts_what_should_run_and_fails_what_never_restarts() {
    for (policy, log, phase) in [
        ("Always", vec!["sandbox 1", "start c 1"], "Running"),
        ("Never", vec![], "Failed"),
    ] {
        let mut w = World::new(pod(json!({
            "restartPolicy": policy, "containers": [{"name": "c", "image": "i:1"}]})));
        w.settle();
        w.log.clear();
        w.sandbox = None;
        w.settle();
        assert_eq!(
            (w.log.clone(), w.phase().as_str()),
            (log.iter().map(|s| (*s).to_owned()).collect(), phase)
        );
    }
}
