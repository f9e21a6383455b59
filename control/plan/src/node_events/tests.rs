// SPDX-License-Identifier: Apache-2.0
//! Nodes come and go.

use super::*;

#[test]
fn a_node_is_told_of_when_it_comes_and_when_it_goes_and_only_then() {
    use NodeNews::{Registered, Removing};
    let cases = [
        (None, None, vec![]),
        (None, Some("u1"), vec![(Registered, "u1")]),
        (Some("u1"), Some("u1"), vec![]),
        (
            Some("u1"),
            Some("u2"),
            vec![(Removing, "u1"), (Registered, "u2")],
        ),
        (Some("u2"), None, vec![(Removing, "u2")]),
    ];
    for (known, now, wanted) in cases {
        assert_eq!(plan_news(known, now), wanted, "{known:?} {now:?}");
    }
}

#[test]
fn the_words_are_those_of_kubernetes() {
    let said = [NodeNews::Registered, NodeNews::Removing, NodeNews::NotReady]
        .map(|news| (news.reason().as_str(), news.message("n1")));
    let wanted = [
        (
            "RegisteredNode",
            "Node n1 event: Registered Node n1 in Controller",
        ),
        (
            "RemovingNode",
            "Node n1 event: Removing Node n1 from Controller",
        ),
        ("NodeNotReady", "Node n1 status is now: NodeNotReady"),
    ];
    assert_eq!(said, wanted.map(|(reason, text)| (reason, text.to_owned())));
}
