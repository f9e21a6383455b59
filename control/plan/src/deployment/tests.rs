// SPDX-License-Identifier: Apache-2.0
//! Rollouts step by step, and as a whole against a small world that plays the ReplicaSet controller.

use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;

mod world;

use world::World;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn deployment(more: Value) -> Deployment {
    let mut spec = json!({
        "replicas": 3,
        "progressDeadlineSeconds": 600,
        "revisionHistoryLimit": 10,
        "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "v1"}]}},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d1", "generation": 1,
            "annotations": {"kubernetes.io/change-cause": "first"}},
        "spec": spec,
    }))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value, replicas: i32) -> Deployment {
    deployment(
        json!({"replicas": replicas, "strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}),
    )
}

fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let conditions = status.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|c| c.type_.as_deref() == Some(type_))?;
    Some((found.status.as_deref()?, found.reason.as_deref()?))
}

#[test]
fn a_set_that_is_adopted_is_the_new_set_and_no_other_is_made_beside_it() {
    let old = deployment(json!({}));
    let mut set = template::new_set(&old);
    set.metadata.uid = Some("s1".to_owned());
    // Orphaned by a Deployment of another name.
    set.metadata.owner_references = None;
    set.metadata.name = Some("before-5c9d".to_owned());
    let planned = |sets: &[ReplicaSet], now| {
        let view = View {
            deployment: &old,
            sets,
            sets_with_pods: &[],
        };
        plan(view, at(now)).unwrap().actions
    };
    let mut sets = [set];
    assert_eq!(planned(&sets, 0), [Action::Adopt(SetRef::of(&sets[0]))]);
    let owner = crate::owners::new_controller_ref("apps/v1", "Deployment", &old.metadata);
    sets[0].metadata.owner_references = Some(vec![owner]);
    let next = planned(&sets, 1);
    let creates = |action: &Action| matches!(action, Action::CreateSet(_));
    assert!(!next.iter().any(creates), "{next:#?}");
}

#[test]
fn percentages_round_surge_up_and_unavailable_down_and_never_both_to_none() {
    let cases = [
        (json!("25%"), json!("25%"), 10, (3, 2)),
        (json!("25%"), json!("25%"), 3, (1, 0)),
        (json!(0), json!("10%"), 5, (0, 1)),
        (json!(2), json!(9), 4, (2, 4)),
        (json!("100%"), json!("100%"), 4, (4, 4)),
        (json!(1), json!(0), 0, (1, 0)),
    ];
    for (surge, unavailable, replicas, wanted) in cases {
        let bounds = bounds(&rolling(surge.clone(), unavailable.clone(), replicas));
        assert_eq!(
            (bounds.surge, bounds.unavailable),
            wanted,
            "{surge} {unavailable} of {replicas}"
        );
    }
    assert_eq!(
        bounds(&deployment(json!({"strategy": {"type": "Recreate"}}))),
        Bounds::default()
    );
}

#[test]
fn a_new_deployment_gets_a_full_set_a_revision_and_a_first_status() {
    let deployment = deployment(json!({}));
    let view = View {
        deployment: &deployment,
        sets: &[],
        sets_with_pods: &[],
    };
    let actions = plan(view, at(0)).unwrap().actions;
    let [
        Action::CreateSet(set),
        Action::Event { reason, message },
        Action::Annotate(annotations),
        Action::Status(status),
    ] = actions.as_slice()
    else {
        panic!("{actions:#?}");
    };
    let name = set.metadata.name.clone().unwrap();
    let hash = name.strip_prefix("web-").unwrap();
    assert_eq!(set.spec.replicas, Some(3));
    assert_eq!(
        set.metadata.labels.as_ref().unwrap()[POD_TEMPLATE_HASH],
        hash
    );
    assert_eq!(
        set.spec.selector.match_labels.as_ref().unwrap()[POD_TEMPLATE_HASH],
        hash
    );
    let template = set
        .spec
        .template
        .as_ref()
        .unwrap()
        .metadata
        .as_ref()
        .unwrap();
    assert_eq!(template.labels.as_ref().unwrap()[POD_TEMPLATE_HASH], hash);
    let own = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(own[REVISION], "1");
    assert_eq!(
        (own[DESIRED_REPLICAS].as_str(), own[MAX_REPLICAS].as_str()),
        ("3", "4")
    );
    assert_eq!(own["kubernetes.io/change-cause"], "first");
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "ScalingReplicaSet",
            &*format!("Scaled up replica set {name} from 0 to 3")
        )
    );
    assert_eq!(annotations[REVISION], "1");
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(
        condition(status, "Progressing"),
        Some(("True", "NewReplicaSetCreated"))
    );
    assert_eq!(
        condition(status, "Available"),
        Some(("False", "MinimumReplicasUnavailable"))
    );
}

#[test]
fn a_rollout_keeps_its_bounds_and_ends_complete_whatever_the_order_of_events() {
    let cases = [
        (json!(1), json!(0), 3),
        (json!(0), json!(1), 3),
        (json!("25%"), json!("25%"), 10),
        (json!("100%"), json!("0%"), 7),
        (json!(3), json!(2), 12),
        (json!(0), json!("100%"), 4),
    ];
    for (surge, unavailable, replicas) in cases {
        for seed in 0..12 {
            let mut world = World::new(rolling(surge.clone(), unavailable.clone(), replicas), seed);
            world.settle();
            world.watch_bounds = true;
            world.set_image("v2");
            world.settle();
            world.set_image("v3");
            world.run(7);
            world.set_image("v4");
            world.settle();
            let status = world.deployment.status.as_ref().unwrap();
            let name = format!("surge {surge}, unavailable {unavailable}, seed {seed}");
            assert_eq!(status.updated_replicas, Some(replicas), "{name}");
            assert_eq!(status.available_replicas, Some(replicas), "{name}");
            assert_eq!(
                condition(status, "Progressing"),
                Some(("True", "NewReplicaSetAvailable")),
                "{name}"
            );
            assert_eq!(
                condition(status, "Available"),
                Some(("True", "MinimumReplicasAvailable")),
                "{name}"
            );
            assert_eq!(
                world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
                "4"
            );
            assert!(world.is_idle(), "a settled Deployment plans nothing");
        }
    }
}

#[test]
fn a_rollout_that_never_becomes_ready_leaves_enough_old_pods_and_times_out() {
    let mut world = World::new(rolling(json!(1), json!(0), 3), 1);
    world.settle();
    world.watch_bounds = true;
    world.broken_image = Some("v2".to_owned());
    world.set_image("v2");
    world.run(40);
    assert_eq!(world.sizes(), [("v1".to_owned(), 3), ("v2".to_owned(), 1)]);
    let plan = world.plan();
    let left = plan.again_after.expect("the deadline has to be watched");
    assert!(left.as_secs() <= 601);
    world.now = at(world.seconds() + 700);
    world.run(3);
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        condition(&status, "Progressing"),
        Some(("False", "ProgressDeadlineExceeded"))
    );
    assert_eq!(world.plan().again_after, None);
    assert!(world.is_idle());
    // What undo does: the old template again.
    world.set_image("v1");
    world.settle();
    assert_eq!(world.sizes(), [("v1".to_owned(), 3), ("v2".to_owned(), 0)]);
    let own = world.set_of("v1").metadata.annotations.clone().unwrap();
    assert_eq!(
        (own[REVISION].as_str(), own[REVISION_HISTORY].as_str()),
        ("3", "1")
    );
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "3"
    );
}

#[test]
fn recreation_waits_until_the_last_old_pod_is_gone() {
    let mut world = World::new(deployment(json!({"strategy": {"type": "Recreate"}})), 3);
    world.settle();
    world.terminating_steps = 3;
    world.set_image("v2");
    let mut saw_pause = false;
    for _ in 0..60 {
        world.run(1);
        let (old, new) = (world.pods_of("v1"), world.pods_of("v2"));
        assert!(old == 0 || new == 0, "{old} old and {new} new pods");
        saw_pause |= old == 0 && new == 0;
    }
    assert!(saw_pause);
    assert_eq!(world.sizes(), [("v1".to_owned(), 0), ("v2".to_owned(), 3)]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(json!({})), 5);
    world.settle();
    world.deployment.spec.paused = Some(true);
    world.set_image("v2");
    world.settle();
    assert_eq!(world.sizes(), [("v1".to_owned(), 3)]);
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        condition(&status, "Progressing"),
        Some(("Unknown", "DeploymentPaused"))
    );
    world.deployment.spec.replicas = Some(5);
    world.touch();
    world.settle();
    assert_eq!(world.sizes(), [("v1".to_owned(), 5)]);
    world.deployment.spec.paused = Some(false);
    world.touch();
    world.settle();
    assert_eq!(world.sizes(), [("v1".to_owned(), 0), ("v2".to_owned(), 5)]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let mut world = World::new(rolling(json!(3), json!(2), 10), 1);
    world.settle();
    world.broken_image = Some("v2".to_owned());
    world.set_image("v2");
    world.run(40);
    assert_eq!(world.sizes(), [("v1".to_owned(), 8), ("v2".to_owned(), 5)]);
    // The example of Kubernetes' documentation: 10 to 15 gives 18 in all with the surge.
    world.deployment.spec.replicas = Some(15);
    world.touch();
    world.run(1);
    assert_eq!(world.sizes(), [("v1".to_owned(), 11), ("v2".to_owned(), 7)]);
}

#[test]
fn scaling_to_none_and_back_works_and_marks_the_set() {
    let mut world = World::new(deployment(json!({})), 9);
    world.settle();
    for replicas in [0, 4, 1] {
        world.deployment.spec.replicas = Some(replicas);
        world.touch();
        world.settle();
        assert_eq!(world.sizes(), [("v1".to_owned(), replicas)]);
        let desired =
            world.set_of("v1").metadata.annotations.as_ref().unwrap()[DESIRED_REPLICAS].clone();
        assert_eq!(desired, replicas.to_string());
        assert!(world.is_idle());
    }
}

#[test]
fn only_as_many_old_sets_stay_as_the_history_limit_says() {
    let mut world = World::new(deployment(json!({"revisionHistoryLimit": 2})), 2);
    world.settle();
    for image in ["v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.settle();
    }
    let images: Vec<_> = world.sizes().into_iter().map(|(image, _)| image).collect();
    assert_eq!(images, ["v3", "v4", "v5"]);
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let deployment = deployment(json!({}));
    let set = |name: &str, labels: Value, owners: Value| -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "labels": labels, "ownerReferences": owners},
            "spec": {"selector": {}, "replicas": 1},
        }))
        .unwrap()
    };
    let owner = |uid: &str| json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid, "controller": true}]);
    let sets = [
        set("orphan", json!({"app": "web"}), json!([])),
        set("stranger", json!({"app": "other"}), owner("d1")),
        set("foreign", json!({"app": "web"}), owner("d2")),
    ];
    let view = View {
        deployment: &deployment,
        sets: &sets,
        sets_with_pods: &[],
    };
    let actions = plan(view, at(0)).unwrap().actions;
    let reference = |name: &str| SetRef {
        name: name.to_owned(),
        uid: name.to_owned(),
    };
    // Nothing is made in the same step: what is adopted may be the set that would be.
    let expected = [
        Action::Adopt(reference("orphan")),
        Action::Release(reference("stranger")),
    ];
    assert_eq!(actions, expected);
}

#[test]
fn a_deployment_that_is_being_deleted_starts_nothing() {
    let mut deployment = deployment(json!({}));
    deployment.metadata.deletion_timestamp = Some(Time(at(0)));
    let view = View {
        deployment: &deployment,
        sets: &[],
        sets_with_pods: &[],
    };
    let actions = plan(view, at(0)).unwrap().actions;
    assert!(
        matches!(actions.as_slice(), [Action::Status(_)]),
        "{actions:?}"
    );
}

#[test]
fn a_taken_name_is_ours_or_counts_as_a_collision() {
    let deployment = deployment(json!({}));
    let view = View {
        deployment: &deployment,
        sets: &[],
        sets_with_pods: &[],
    };
    let actions = plan(view, at(0)).unwrap().actions;
    let Some(Action::CreateSet(set)) = actions.first() else {
        panic!("{actions:?}")
    };
    assert_eq!(name_taken(&deployment, set), NameTaken::IsOurs);
    let mut foreign = set.clone();
    foreign.metadata.owner_references = None;
    let NameTaken::Collision(status) = name_taken(&deployment, &foreign) else {
        panic!("a set without an owner is not ours")
    };
    assert_eq!(status.collision_count, Some(1));
    let mut again = deployment.clone();
    again.status = Some(*status);
    let view = View {
        deployment: &again,
        sets: &[],
        sets_with_pods: &[],
    };
    let actions = plan(view, at(0)).unwrap().actions;
    let Some(Action::CreateSet(other)) = actions.first() else {
        panic!("{actions:?}")
    };
    assert_ne!(other.metadata.name, set.metadata.name);
}

#[test]
fn a_failure_of_a_set_is_shown_on_the_deployment() {
    let mut world = World::new(deployment(json!({})), 4);
    world.settle();
    let failure = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}]);
    world.sets[0].status.as_mut().unwrap().conditions = serde_json::from_value(failure).unwrap();
    world.step_deployment();
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        condition(&status, "ReplicaFailure"),
        Some(("True", "FailedCreate"))
    );
    world.sets[0].status.as_mut().unwrap().conditions = None;
    world.step_deployment();
    assert_eq!(
        condition(world.deployment.status.as_ref().unwrap(), "ReplicaFailure"),
        None
    );
}
