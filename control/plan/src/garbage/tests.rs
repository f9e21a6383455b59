// SPDX-License-Identifier: Apache-2.0
//! Owners go; what follows.

use super::*;

mod random;

fn item(uid: &str, owners: &[&str]) -> Item {
    Item {
        uid: uid.into(),
        resource: ResourceName {
            group: "".into(),
            version: "v1".into(),
            resource: "pods".into(),
        },
        namespace: "default".into(),
        name: uid.into(),
        owners: owners
            .iter()
            .map(|owner| OwnerRef {
                uid: (*owner).into(),
                api_version: "v1".into(),
                kind: "Pod".into(),
                name: (*owner).into(),
                blocks: true,
            })
            .collect(),
        leaving: Leaving::No,
        wants: Propagation::Background,
    }
}

fn graph(items: &[Item]) -> Graph {
    let mut graph = Graph::default();
    for item in items {
        graph.observe(Arc::new(item.clone()));
    }
    graph
}

fn planned(graph: &Graph, uid: &str) -> Vec<Action> {
    graph.plan(uid, &|_| OwnerKind::Namespaced)
}

fn delete(uid: &str, propagation: Propagation) -> Action {
    Action::Delete {
        uid: uid.into(),
        propagation,
    }
}

fn uids(look: Vec<Arc<str>>) -> Vec<String> {
    let mut uids: Vec<_> = look.iter().map(ToString::to_string).collect();
    uids.sort();
    uids.dedup();
    uids
}

#[test]
fn dependents_go_after_their_owner_generation_by_generation() {
    let mut graph = graph(&[
        item("owner", &[]),
        item("child", &["owner"]),
        item("grandchild", &["child"]),
    ]);
    assert_eq!(planned(&graph, "child"), []);
    assert_eq!(uids(graph.remove("owner")), ["child"]);
    assert_eq!(
        planned(&graph, "child"),
        [delete("child", Propagation::Background)]
    );
    assert_eq!(planned(&graph, "grandchild"), []);
    assert_eq!(uids(graph.remove("child")), ["grandchild", "owner"]);
    assert_eq!(
        planned(&graph, "grandchild"),
        [delete("grandchild", Propagation::Background)]
    );
}

#[test]
fn objects_are_found_by_what_their_owner_references_name() {
    let graph = graph(&[item("a", &[]), item("b", &["a"]), item("c", &["x", "a"])]);
    let owned = |name: &str| uids(graph.owned_by(&|owner| &*owner.name == name));
    assert_eq!(owned("a"), ["b", "c"]);
    assert_eq!(owned("x"), ["c"]);
    assert_eq!(owned("c"), [""; 0]);
}

#[test]
fn an_object_with_another_living_owner_stays_and_loses_the_reference() {
    let mut graph = graph(&[item("a", &[]), item("b", &[]), item("child", &["a", "b"])]);
    graph.remove("a");
    assert_eq!(
        planned(&graph, "child"),
        [Action::Disown {
            uid: "child".into(),
            owners: vec!["a".into()]
        }]
    );
    graph.remove("b");
    assert_eq!(
        planned(&graph, "child"),
        [delete("child", Propagation::Background)]
    );
}

#[test]
fn an_owner_that_never_was_is_gone_unless_its_kind_is_unknown() {
    let graph = graph(&[item("child", &["nobody"])]);
    assert_eq!(
        planned(&graph, "child"),
        [delete("child", Propagation::Background)]
    );
    assert_eq!(graph.plan("child", &|_| OwnerKind::Unknown), []);
}

#[test]
fn an_owner_in_another_namespace_does_not_count_but_one_of_the_cluster_does() {
    let mut elsewhere = item("elsewhere", &[]);
    elsewhere.namespace = "other".into();
    let mut cluster = item("cluster", &[]);
    cluster.namespace = "".into();
    let graph = graph(&[
        elsewhere,
        cluster,
        item("x", &["elsewhere"]),
        item("y", &["cluster"]),
    ]);
    assert_eq!(planned(&graph, "x"), [delete("x", Propagation::Background)]);
    assert_eq!(planned(&graph, "y"), []);
}

#[test]
fn a_reference_into_another_namespace_is_told_once_whoever_came_first() {
    let mut owner = item("owner", &[]);
    owner.namespace = "other".into();
    let mut cluster = item("cluster", &["owner"]);
    cluster.namespace = "".into();
    let child = item("child", &["owner"]);
    let message = "ownerRef [v1/Pod, namespace: default, name: owner, uid: owner] does not exist in namespace \"default\"";
    for order in [[&owner, &child], [&child, &owner]] {
        let mut graph = graph(&order.map(Clone::clone));
        let told = graph.take_misplaced();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].message(), message);
        assert_eq!(told[0].item.name.as_ref(), "child");
        let mut changed = child.clone();
        changed.wants = Propagation::Foreground;
        graph.observe(Arc::new(changed));
        assert_eq!(graph.take_misplaced(), []);
    }
    // An object of the cluster is not collected for an owner that lives in a namespace, there or gone.
    let mut graph = graph(&[owner, cluster]);
    assert_eq!(graph.take_misplaced().len(), 1);
    assert_eq!(planned(&graph, "cluster"), []);
    graph.remove("owner");
    assert_eq!(planned(&graph, "cluster"), []);
}

#[test]
fn a_circle_in_foreground_deletion_is_opened_by_whoever_closes_it() {
    let ring = [item("1", &["3"]), item("2", &["1"]), item("3", &["2"])];
    let mut graph = graph(&ring);
    for uid in ["1", "2", "3"] {
        assert_eq!(planned(&graph, uid), []);
    }
    let leave = |graph: &mut Graph, index: usize| {
        let mut leaving = ring[index].clone();
        leaving.leaving = Leaving::Foreground;
        graph.observe(Arc::new(leaving));
    };
    leave(&mut graph, 0);
    assert_eq!(planned(&graph, "1"), []);
    assert_eq!(planned(&graph, "2"), [delete("2", Propagation::Foreground)]);
    leave(&mut graph, 1);
    assert_eq!(planned(&graph, "3"), [delete("3", Propagation::Foreground)]);
    leave(&mut graph, 2);
    assert_eq!(
        planned(&graph, "3"),
        [Action::Unblock {
            uid: "3".into(),
            owners: vec!["2".into()]
        }]
    );
}

#[test]
fn foreground_deletion_waits_for_every_blocking_dependent() {
    let mut graph = graph(&[
        item("owner", &[]),
        item("child", &["owner"]),
        item("grandchild", &["child"]),
    ]);
    let mut leaving = item("owner", &[]);
    leaving.leaving = Leaving::Foreground;
    assert_eq!(uids(graph.observe(Arc::new(leaving))), ["child", "owner"]);
    assert_eq!(planned(&graph, "owner"), []);
    assert_eq!(
        planned(&graph, "child"),
        [delete("child", Propagation::Foreground)]
    );
    let mut child = item("child", &["owner"]);
    child.leaving = Leaving::Foreground;
    assert!(uids(graph.observe(Arc::new(child))).contains(&"grandchild".to_owned()));
    assert_eq!(
        planned(&graph, "grandchild"),
        [delete("grandchild", Propagation::Background)]
    );
    assert!(uids(graph.remove("grandchild")).contains(&"child".to_owned()));
    let unfinalize = |uid: &str| {
        [Action::Unfinalize {
            uid: uid.into(),
            finalizer: FOREGROUND,
        }]
    };
    assert_eq!(planned(&graph, "child"), unfinalize("child"));
    assert!(uids(graph.remove("child")).contains(&"owner".to_owned()));
    assert_eq!(planned(&graph, "owner"), unfinalize("owner"));
}

#[test]
fn a_dependent_that_does_not_block_does_not_hold_its_owner() {
    let mut child = item("child", &["owner"]);
    child.owners[0].blocks = false;
    let mut owner = item("owner", &[]);
    owner.leaving = Leaving::Foreground;
    let graph = graph(&[owner, child]);
    assert_eq!(planned(&graph, "owner").len(), 1);
}

#[test]
fn orphans_lose_the_reference_and_stay() {
    let mut graph = graph(&[item("owner", &[]), item("child", &["owner"])]);
    let mut leaving = item("owner", &[]);
    leaving.leaving = Leaving::Orphan;
    assert_eq!(uids(graph.observe(Arc::new(leaving))), ["owner"]);
    assert_eq!(
        planned(&graph, "owner"),
        [Action::Disown {
            uid: "child".into(),
            owners: vec!["owner".into()]
        }]
    );
    assert_eq!(planned(&graph, "child"), []);
    assert_eq!(uids(graph.observe(Arc::new(item("child", &[])))), ["owner"]);
    assert_eq!(
        planned(&graph, "owner"),
        [Action::Unfinalize {
            uid: "owner".into(),
            finalizer: ORPHAN
        }]
    );
}

#[test]
fn an_object_keeps_the_propagation_that_its_finalizers_ask_for() {
    let mut child = item("child", &["gone"]);
    child.wants = wanted(["x", ORPHAN]);
    assert_eq!(
        planned(&graph(&[child]), "child"),
        [delete("child", Propagation::Orphan)]
    );
    assert_eq!(
        Leaving::of(Deleting(true), [FOREGROUND]),
        Leaving::Foreground
    );
    assert_eq!(Leaving::of(Deleting(true), ["x.io/f"]), Leaving::Plain);
    assert_eq!(Leaving::of(Deleting(false), [ORPHAN]), Leaving::No);
}

#[test]
fn seeing_the_same_again_asks_for_nothing() {
    let mut graph = graph(&[item("owner", &[])]);
    assert_eq!(
        uids(graph.observe(Arc::new(item("child", &["owner"])))),
        ["child"]
    );
    assert!(
        graph
            .observe(Arc::new(item("child", &["owner"])))
            .is_empty()
    );
    assert!(graph.remove("unknown").is_empty());
}
