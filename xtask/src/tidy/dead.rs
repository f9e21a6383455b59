// SPDX-License-Identifier: Apache-2.0
//! Rust files that no `mod` names: they look like code and tests, and never run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::scan::code_lines;
use super::{Finding, Source};

pub fn check(sources: &[Source], target_roots: &[PathBuf]) -> Vec<Finding> {
    let rust: BTreeMap<&Path, &Source> = sources
        .iter()
        .filter(|source| source.is_rust())
        .map(|source| (source.path.as_path(), source))
        .collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<(PathBuf, Kind)> = target_roots
        .iter()
        .map(|root| (root.clone(), Kind::Root))
        .collect();
    while let Some((path, kind)) = open.pop() {
        let Some(source) = rust.get(path.as_path()) else {
            continue;
        };
        if !reached.insert(path.clone()) {
            continue;
        }
        let dir = match kind {
            Kind::Root => path.parent().unwrap_or(Path::new("")).to_path_buf(),
            Kind::Module => path.with_extension(""),
        };
        for child in children(&source.text, &dir) {
            open.push((child, Kind::Module));
        }
    }
    rust.keys()
        .filter(|path| !reached.contains(**path))
        .map(|path| {
            Finding::new(
                path,
                0,
                "no `mod` names this file, so nothing in it is compiled or run",
            )
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Kind {
    /// Its modules lie beside it.
    Root,
    /// Its modules lie in a folder with its name.
    Module,
}

/// Files that a file names: by `mod name;`, also inside `mod outer { ... }`, and by `#[path]`.
fn children(text: &str, dir: &Path) -> Vec<PathBuf> {
    let code = code_lines(text);
    let raw: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut named_path: Option<String> = None;
    for (number, line) in code.iter().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with("#[path") {
            named_path = raw
                .get(number)
                .and_then(|line| line.split('"').nth(1))
                .map(str::to_owned);
        }
        if let Some(name) = module_name(trimmed) {
            let folder = inline
                .iter()
                .fold(dir.to_path_buf(), |dir, (name, _)| dir.join(name));
            if trimmed.ends_with(';') {
                match named_path.take() {
                    Some(path) => found.push(dir.join(path)),
                    None => found.push(folder.join(format!("{name}.rs"))),
                }
            } else if trimmed.contains('{') {
                inline.push((name.to_owned(), depth));
            }
        }
        depth = (depth + line.matches('{').count()).saturating_sub(line.matches('}').count());
        while inline.last().is_some_and(|(_, at)| depth <= *at) {
            inline.pop();
        }
    }
    found
}

fn module_name(line: &str) -> Option<&str> {
    let rest = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(')')?.1.trim_start(),
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let name = rest
        .strip_prefix("mod ")?
        .trim_end_matches([';', '{', '}', ' ']);
    (!name.is_empty()
        && name
            .chars()
            .all(|sign| sign.is_alphanumeric() || sign == '_'))
    .then_some(name)
}
