// SPDX-License-Identifier: Apache-2.0
//! Names of kinds in the API server: they stand below `kinds/` and nowhere else, so that no other code decides by a name
//! what a hook of the kind should say.

use std::collections::BTreeSet;
use std::path::Path;

use super::scan::{Literal, scan};
use super::{Finding, Source};

const SERVER: &str = "control/apiserver/src";
const KINDS: &str = "control/apiserver/src/kinds";
/// How a kind's file registers it: group, version, kind and plural follow.
const REGISTRATION: &str = "Kind::new(";
/// The arguments that are the names.
const NAMES: std::ops::Range<usize> = 2..4;

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let server = sources.iter().filter(|source| is_server(&source.path));
    let (kinds, others): (Vec<&Source>, Vec<&Source>) = server.partition(|source| {
        source.path.starts_with(KINDS) || source.path == Path::new(KINDS).with_extension("rs")
    });
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for source in kinds {
        for registration in registrations(source) {
            if let [kind, plural] = registration.names.as_slice() {
                names.extend([kind.clone(), plural.clone()]);
            } else {
                findings.push(Finding::new(
                    &source.path,
                    registration.line,
                    format!("`{REGISTRATION}` without its names as literals: this check would not know them"),
                ));
            }
        }
    }
    for source in others {
        for Literal { line, text, .. } in scan(&source.text).1 {
            // A path such as `pods/binding` names the kind as well; prose does not.
            let mut parts = text.trim_matches('"').split('/');
            if let Some(name) = parts.find(|part| names.contains(*part)) {
                findings.push(Finding::new(
                    &source.path,
                    line,
                    format!("the kind name \"{name}\": what is special about a kind is a hook of its strategy, in its file below {KINDS}"),
                ));
            }
        }
    }
    findings
}

/// Tests may name kinds: they show what the kinds do.
fn is_server(path: &Path) -> bool {
    let is_test = path
        .iter()
        .any(|part| part == "tests" || part == "tests.rs");
    path.starts_with(SERVER) && path.extension().is_some_and(|e| e == "rs") && !is_test
}

/// A kind that a file registers.
struct Registration {
    line: usize,
    /// Kind and plural, where they stand in it as literals.
    names: Vec<String>,
}

fn registrations(source: &Source) -> Vec<Registration> {
    let (code, literals) = scan(&source.text);
    let found = code.match_indices(REGISTRATION).map(|(at, _)| {
        let arguments = at..at + code[at..].find(')').unwrap_or_default();
        let arguments = literals
            .iter()
            .filter(|literal| arguments.contains(&literal.code_before));
        let names = arguments.take(NAMES.end).skip(NAMES.start);
        Registration {
            line: code[..at].matches('\n').count() + 1,
            names: names
                .map(|literal| literal.text.trim_matches('"').to_owned())
                .collect(),
        }
    });
    found.collect()
}
