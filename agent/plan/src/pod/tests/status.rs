// SPDX-License-Identifier: Apache-2.0
//! Tests of what a pod's status says: readiness, gates, messages and the times of conditions.

use super::*;

#[test]
fn readiness_decides_ready_and_not_running() {
    let mut w = World::new(simple());
    w.settle();
    let ready = |w: &mut World| {
        let conditions = w.status().conditions.expect("conditions");
        let ready = conditions
            .iter()
            .find(|c| c.type_ == "Ready")
            .expect("Ready")
            .clone();
        (ready.status, ready.message)
    };
    assert_eq!(ready(&mut w), ("True".into(), None));
    w.observed.probes.insert(
        "c".into(),
        ProbeView {
            ready: Some(false),
            ..ProbeView::default()
        },
    );
    assert_eq!(
        ready(&mut w),
        (
            "False".into(),
            Some("containers with unready status: [c]".into())
        )
    );
    assert_eq!(w.phase(), "Running");
}

#[test]
fn a_pod_is_ready_while_all_conditions_of_its_gates_are_true() {
    let mut w = World::new(pod(json!({
        "containers": [{"name": "c", "image": "i:1"}],
        "readinessGates": [{"conditionType": "a/x"}, {"conditionType": "a/y"}]})));
    w.settle();
    let ready = |w: &mut World, set: &[(&str, &str)]| {
        let set: Vec<_> = set
            .iter()
            .map(|(type_, status)| json!({"type": type_, "status": status}))
            .collect();
        let status = json!({"conditions": set});
        w.pod.status = Some(serde_json::from_value(status).expect("status"));
        let conditions = w.status().conditions.expect("conditions");
        let ready = conditions.iter().find(|c| c.type_ == "Ready");
        let ready = ready.expect("Ready");
        (
            ready.status.clone(),
            ready.message.clone().unwrap_or_default(),
        )
    };
    let (status, message) = ready(&mut w, &[("a/x", "False")]);
    assert_eq!(status, "False");
    assert_eq!(
        message,
        "the status of pod readiness gate \"a/x\" is not \"True\", but False, \
         corresponding condition of pod readiness gate \"a/y\" does not exist."
    );
    let open = [("a/x", "True"), ("a/y", "True")];
    assert_eq!(ready(&mut w, &open).0, "True");
    assert_eq!(
        ready(&mut w, &[("a/x", "True"), ("a/y", "Unknown")]).0,
        "False"
    );
}

#[test]
fn the_messages_of_a_pod_s_containers_share_a_bound() {
    let mut w = World::new(pod(json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"},
        {"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]})));
    w.settle();
    for name in ["a", "b", "c", "d"] {
        w.exit(name, 0);
        for container in &mut w.sandbox().containers {
            if let ContainerPhase::Exited { message, .. } = &mut container.phase {
                *message = format!("x{}", "\u{e4}".repeat(2000));
            }
        }
    }
    w.settle();
    let all = w.status().container_statuses.expect("statuses");
    let messages = all.iter().map(|s| {
        let ended = s.state.as_ref().and_then(|s| s.terminated.as_ref());
        ended
            .and_then(|t| t.message.as_ref())
            .map_or(0, String::len)
    });
    // 12 KiB for four, and no character is cut in two.
    assert_eq!(messages.collect::<Vec<_>>(), [3071; 4]);
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let mut w = World::new(simple());
    w.settle();
    let first = w.status();
    w.now += 60_000;
    assert_eq!(w.status().conditions, first.conditions);
}
