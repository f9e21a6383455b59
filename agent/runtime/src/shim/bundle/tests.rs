// SPDX-License-Identifier: Apache-2.0
//! Tests of capabilities.

use super::*;

const EVERYTHING: u64 = u64::MAX;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn capabilities_follow_add_and_drop() {
    let of = |add: &[&str], drop: &[&str]| {
        capabilities(
            Privilege::Confined,
            &strings(add),
            &strings(drop),
            EVERYTHING,
        )
    };
    assert_eq!(of(&[], &[]).len(), CAPABILITIES.len());
    assert!(of(&["NET_ADMIN"], &[]).contains(&"NET_ADMIN"));
    assert_eq!(of(&["NET_BIND_SERVICE"], &["ALL"]), ["NET_BIND_SERVICE"]);
    assert_eq!(of(&["ALL"], &[]).len(), CAPABILITIES_ALL.len());
    assert!(!of(&["ALL"], &["SYS_ADMIN"]).contains(&"SYS_ADMIN"));
    assert!(!of(&[], &["CAP_KILL"]).contains(&"KILL"));
}

#[test]
fn nobody_gets_a_capability_that_the_shim_lacks() {
    let without_chown = EVERYTHING & !1;
    let list = capabilities(Privilege::Privileged, &[], &[], without_chown);
    assert_eq!(list.len(), CAPABILITIES_ALL.len() - 1);
    assert!(!list.contains(&"CHOWN"));
}

#[test]
fn every_container_has_a_home_that_is_not_empty() {
    let home = |given: &[&str]| {
        let env = environment("host", &strings(given), "/home/a");
        // As libcontainer reads it: the last one wins, and what has no value is empty.
        let last = env
            .iter()
            .rev()
            .find(|e| e.split('=').next() == Some("HOME"));
        last.unwrap().split_once('=').map_or("", |e| e.1).to_owned()
    };
    assert_eq!(home(&[]), "/home/a");
    assert_eq!(home(&["HOMES=/x"]), "/home/a");
    assert_eq!(home(&["HOME="]), "/home/a");
    assert_eq!(home(&["HOME=/x", "HOME="]), "/home/a");
    assert_eq!(home(&["HOME=", "HOME=/x"]), "/x");
    assert_eq!(home(&["HOME"]), "/home/a");
    assert_eq!(home(&["HOME=/x", "HOME"]), "/home/a");
}
