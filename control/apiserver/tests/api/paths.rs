// SPDX-License-Identifier: Apache-2.0
//! Every path of fields that the sources of the API server name as text is one that an object can have.
//!
//! Objects that have no Rust type, and everything that is defaulted, patched or shown, are trees, and their fields are
//! named by text. This test walks the texts of all sources and looks each path up in the OpenAPI documents: below the
//! kind of a file in `kinds`, else anywhere. The rule for what a path is stands at [`paths`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::fields::{Definitions, definitions};
use crate::server;

/// Texts that look like paths and are none, or that Kubernetes itself writes otherwise than the field is called.
const OTHERS: &[&str] = &[
    // As `ValidateNamespaceStatusUpdate` names it.
    "status.Phase",
    // Field labels of the oldest clients.
    "spec.host",
    // Keys of a Secret's data.
    "tls.crt",
    "tls.key",
];

/// Files below `kinds` that are not named like a kind, and whose objects they are about.
const SHARED: &[(&str, &[&str])] = &[
    ("podspec", &["Pod", "Deployment"]),
    ("ignored", &[]),
    ("review", &["SubjectAccessReview"]),
    // What is known of a custom kind is where the others have it too.
    ("custom", &["Deployment"]),
];

/// A text in a source file.
struct Text<'a> {
    /// What stands before it.
    before: &'a str,
    text: &'a str,
}

/// The string literals of a source file, without those in comments.
fn texts(source: &str) -> Vec<Text<'_>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("r#\"") || rest.starts_with("r\"") {
            let hashes = rest[1..].find('"').expect("it begins so");
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = 2 + hashes;
            let len = rest[begin..].find(&end).expect("a text ends");
            at += begin + len + end.len();
        } else if bytes[at] == b'"' {
            let mut end = at + 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            found.push(Text {
                before: &source[..at],
                text: &source[at + 1..end],
            });
            at = end + 1;
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            at += rest[1..].find("'").expect("a character ends") + 2;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    found
}

/// Whether a text is the first one in a call of one of the steps on trees, `value::text(tree, "here")`.
fn is_step_of_a_tree(text: &Text<'_>) -> bool {
    let Some(call) = text.before.rfind("value::") else {
        return false;
    };
    let call = &text.before[call..];
    let Some((_, arguments)) = call.split_once('(') else {
        return false;
    };
    if arguments.contains(['"', '{', ';']) {
        return false;
    }
    let opened = arguments.matches('(').count();
    let closed = arguments.matches(')').count();
    let formats = usize::from(arguments.ends_with("format!("));
    opened == closed + formats
}

/// The path that a text is, if it is one: names with dots between them, also behind a `{prefix}.` and with `[index]`
/// anywhere, or a single name that is handed to a step on trees. `{}` stands for any name.
fn path(text: &Text<'_>) -> Option<Vec<String>> {
    let mut plain = String::new();
    let mut depth = 0;
    for c in text.text.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let steps: Vec<String> = plain.split('.').map(str::to_owned).collect();
    let is_name = |step: &String| {
        step.starts_with(|c: char| c.is_ascii_lowercase())
            && step.chars().all(|c| c.is_ascii_alphabetic())
    };
    let is_any = |step: &String| step.starts_with('{') && step.ends_with('}');
    let (first, rest) = steps.split_first()?;
    let is_word = |step: &String| !step.is_empty() && step.chars().all(|c| c.is_ascii_alphabetic());
    match rest {
        [] => (is_name(first) && is_step_of_a_tree(text)).then(|| steps.clone()),
        _ if !rest.iter().all(|step| is_word(step) || is_any(step)) => None,
        _ if rest.iter().all(is_any) && is_any(first) => None,
        _ if is_name(first) => Some(steps.clone()),
        // What stands before is named elsewhere.
        _ if is_any(first) => Some(rest.to_vec()),
        _ => None,
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The definitions that objects of these kinds are made of.
fn parts(definitions: &Definitions, kinds: &[&str]) -> BTreeSet<String> {
    let is_of = |name: &&String| {
        let kind = name.rsplit('.').next().unwrap_or_default();
        kinds.contains(&kind)
    };
    let mut open: Vec<String> = definitions.roots.iter().filter(is_of).cloned().collect();
    let mut found = BTreeSet::new();
    while let Some(name) = open.pop() {
        if found.insert(name.clone()) {
            open.extend(definitions.fields(&name).filter_map(|(_, below)| below));
        }
    }
    found
}

fn exists(definitions: &Definitions, parts: &BTreeSet<String>, path: &[String]) -> bool {
    fn below(definitions: &Definitions, part: &str, path: &[String]) -> bool {
        let Some((step, rest)) = path.split_first() else {
            return true;
        };
        let mut fields = definitions.fields(part);
        fields.any(|(name, lower)| {
            (name == step || step.starts_with('{'))
                && (rest.is_empty() || lower.is_some_and(|lower| below(definitions, &lower, rest)))
        })
    }
    parts.iter().any(|part| below(definitions, part, path))
}

/// The kinds that a source file is about; `None` for all of them.
fn kinds_of(file: &Path, definitions: &Definitions) -> Option<Vec<String>> {
    let mut steps = file.iter().filter_map(|step| step.to_str());
    steps.find(|step| *step == "kinds")?;
    let stem = steps.next()?.trim_end_matches(".rs").to_owned();
    if let Some((_, kinds)) = SHARED.iter().find(|(name, _)| *name == stem) {
        return Some(kinds.iter().map(|kind| (*kind).to_owned()).collect());
    }
    let named = definitions
        .roots
        .iter()
        .filter_map(|name| name.rsplit('.').next());
    let found = named.filter(|kind| kind.to_lowercase() == stem);
    Some(found.map(str::to_owned).collect())
}

#[tokio::test]
async fn every_path_in_the_sources_is_one_of_the_schema() {
    let (server, _directory) = server().await;
    let definitions = definitions(&server).await;
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let mut files = Vec::new();
    sources(&Path::new(&root).join("src"), &mut files);
    let everything: BTreeSet<String> = definitions.all.keys().cloned().collect();
    let mut of_kinds: BTreeMap<Vec<String>, BTreeSet<String>> = BTreeMap::new();
    let (mut checked, mut wrong, mut unused) = (0, Vec::new(), OTHERS.to_vec());
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a source");
        let known = match kinds_of(&file, &definitions) {
            None => &everything,
            Some(kinds) => of_kinds.entry(kinds.clone()).or_insert_with(|| {
                let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                parts(&definitions, &kinds)
            }),
        };
        for text in texts(&source) {
            let Some(path) = path(&text) else {
                continue;
            };
            checked += 1;
            if OTHERS.contains(&text.text) {
                unused.retain(|other| *other != text.text);
            } else if !exists(&definitions, known, &path) {
                let line = text.before.lines().count();
                wrong.push(format!("{}:{line}: {}", file.display(), text.text));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "no object has these fields:\n{}",
        wrong.join("\n")
    );
    assert_eq!(unused, [""; 0], "these are not in the sources any more");
    assert!(
        checked > 300,
        "only {checked} paths were found, so the walk is wrong"
    );
}

#[tokio::test]
async fn a_wrong_path_is_found_and_what_is_no_path_is_left_alone() {
    let (server, _directory) = server().await;
    let definitions = definitions(&server).await;
    let source = r#"
        value::text(pod, "spec.nodeName"); // "not.this"
        errors.invalid(&format!("{field}.ports[{index}].containerPort"), "no path: a.b c", "other.k8s.io");
        value::int(port, "hostPort").map(|n| n == '"' as i64);
        value::copy(new, old, &format!("metadata.{kept}"));
        value::text(pod, "spec.nodeNam");
        value::text(pod, "hostPrt");
        once("hostPrt");
    "#;
    let parts = parts(&definitions, &["Pod"]);
    let found: Vec<(String, bool)> = texts(source)
        .iter()
        .filter_map(|text| {
            let path = path(text)?;
            Some((path.join("."), exists(&definitions, &parts, &path)))
        })
        .collect();
    let found: Vec<(&str, bool)> = found
        .iter()
        .map(|(path, ok)| (path.as_str(), *ok))
        .collect();
    assert_eq!(
        found,
        [
            ("spec.nodeName", true),
            ("ports.containerPort", true),
            ("hostPort", true),
            ("metadata.{kept}", true),
            ("spec.nodeNam", false),
            ("hostPrt", false),
        ]
    );
}
