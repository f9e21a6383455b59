// SPDX-License-Identifier: Apache-2.0
//! Trees with circles, and trees that only look as if they had some.

use super::*;

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source {
            path: PathBuf::from(path),
            text: (*text).to_owned(),
        })
        .collect();
    let findings = check(&sources, &[PathBuf::from("x/src/lib.rs")]);
    let name = |finding: Finding| {
        let (_, rest) = finding.message.split_once("circle, ").expect("its names");
        rest.split_once(" (").expect("its places").0.to_owned()
    };
    findings.into_iter().map(name).collect()
}

#[test]
fn two_modules_that_use_each_other_are_found_by_use_by_path_and_in_macros() {
    for in_b in [
        "use crate::a::One;",
        "use super::a::One;",
        "fn f() { crate::a::one() }",
        "fn f() -> super::a::One { todo() }",
        "fn f() { println!(\"{}\", crate::a::ONE) }",
        "use crate::{a::{self, One as Two}};",
    ] {
        let files = [
            ("x/src/lib.rs", "mod a; mod b;"),
            ("x/src/a.rs", "use crate::b::f; pub struct One;"),
            ("x/src/b.rs", in_b),
        ];
        assert_eq!(found(&files), ["a -> b -> a"], "{in_b}");
    }
}

#[test]
fn a_longer_circle_is_told_once_and_its_shortest_way() {
    let files = [
        ("x/src/lib.rs", "mod a; mod b; mod c; mod d;"),
        ("x/src/a.rs", "use crate::b::B;"),
        ("x/src/b.rs", "use crate::c::C; use crate::d::D;"),
        ("x/src/c.rs", "use crate::a::A;"),
        ("x/src/d.rs", "use crate::c::C;"),
    ];
    assert_eq!(found(&files), ["a -> b -> c -> a"]);
}

#[test]
fn folders_that_use_each_other_are_found_where_both_lie() {
    let files = [
        ("x/src/lib.rs", "mod a; mod b;"),
        ("x/src/a.rs", "mod deep;"),
        ("x/src/a/deep.rs", "use crate::b::two::Two;"),
        ("x/src/b.rs", "mod two; mod three;"),
        ("x/src/b/two.rs", "pub struct Two;"),
        ("x/src/b/three.rs", "use crate::a::deep::X;"),
    ];
    assert_eq!(found(&files), ["a -> b -> a"]);
    let brothers = [
        ("x/src/lib.rs", "mod a;"),
        ("x/src/a.rs", "mod one; mod two;"),
        ("x/src/a/one.rs", "use super::two::X;"),
        ("x/src/a/two.rs", "use super::one::X;"),
    ];
    assert_eq!(found(&brothers), ["a::one -> a::two -> a::one"]);
}

#[test]
fn a_re_export_leads_to_the_module_that_defines_the_item() {
    let files = [
        (
            "x/src/lib.rs",
            "mod a; mod b; pub use a::One; pub use b::*;",
        ),
        ("x/src/a.rs", "use crate::Two; pub struct One;"),
        ("x/src/b.rs", "use crate::One; pub struct Two;"),
    ];
    assert_eq!(found(&files), ["a -> b -> a"]);
    let by_parent = [
        ("x/src/lib.rs", "mod p;"),
        ("x/src/p.rs", "mod a; mod b; use a::One;"),
        ("x/src/p/a.rs", "use super::b::Two; pub struct One;"),
        ("x/src/p/b.rs", "use super::One; pub struct Two;"),
    ];
    assert_eq!(found(&by_parent), ["p::a -> p::b -> p::a"]);
}

#[test]
fn parents_children_tests_and_other_crates_make_no_circle() {
    let files = [
        (
            "x/src/lib.rs",
            "mod a; mod b; pub struct Root; use a::A; fn f(_: b::B) {}",
        ),
        (
            "x/src/a.rs",
            "use crate::Root; use b::Foreign; pub struct A; #[cfg(test)] mod tests { use crate::b::B; }",
        ),
        (
            "x/src/b.rs",
            "use crate::a::A; pub struct B; #[cfg(test)] use crate::c::C; #[test] fn t() { crate::c::c() }",
        ),
    ];
    assert_eq!(found(&files), [""; 0]);
}
