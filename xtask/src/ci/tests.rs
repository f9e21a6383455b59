// SPDX-License-Identifier: Apache-2.0
//! Tests of the dependency rule.

use super::*;

const TABLE: &str = "\
| folder | crate | what lives there | may use |
| --- | --- | --- | --- |
| `control/api` | `knarr-api` | names | nothing of ours |
| `control/plan` | `knarr-control-plan` | decisions | `knarr-api` |
| `tests` | `knarr-tests` | tests | everything |
";

fn used(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    pairs
        .iter()
        .map(|(name, uses)| {
            (
                (*name).to_owned(),
                uses.iter().map(|name| (*name).to_owned()).collect(),
            )
        })
        .collect()
}

#[test]
fn an_arrow_that_the_table_does_not_have_is_found() {
    let table = allowed(TABLE).expect("the table is read");
    let fits = used(&[
        ("knarr-api", &[]),
        ("knarr-control-plan", &["knarr-api"]),
        ("knarr-tests", &["knarr-api"]),
    ]);
    assert_eq!(compare(&table, &fits), Vec::<String>::new());
    let wrong = used(&[
        ("knarr-api", &["knarr-control-plan"]),
        ("knarr-control-plan", &[]),
        ("knarr-tests", &[]),
    ]);
    assert_eq!(compare(&table, &wrong).len(), 1);
}

#[test]
fn a_crate_that_is_on_one_side_only_is_found() {
    let table = allowed(TABLE).expect("the table is read");
    let extra = used(&[
        ("knarr-api", &[]),
        ("knarr-control-plan", &[]),
        ("knarr-tests", &[]),
        ("knarr-new", &[]),
    ]);
    assert_eq!(
        compare(&table, &extra),
        ["knarr-new is not in the table of ARCHITECTURE.md"]
    );
    let fewer = used(&[("knarr-api", &[]), ("knarr-tests", &[])]);
    assert_eq!(
        compare(&table, &fewer),
        ["knarr-control-plan is in the table and not in the workspace"]
    );
}

#[test]
fn a_document_without_the_table_is_an_error() {
    assert!(allowed("# Architecture\n").is_err());
}
