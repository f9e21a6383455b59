// SPDX-License-Identifier: Apache-2.0
//! Where `unsafe` may be, and what has to be said beside it.

use std::path::{Path, PathBuf};

use super::scan::code_lines;
use super::{Finding, Source};

/// Files and folders that hold what the compiler cannot check.
const ALLOWED: [&str; 4] = [
    "agent/runtime/src/sys.rs",
    "agent/datapath/src/sys.rs",
    "base/src/sys.rs",
    "ebpf",
];
/// Crates that hold one of these; every other forbids it at its root.
const CRATES_WITH: [&str; 5] = [
    "agent/runtime/src",
    "agent/datapath/src",
    "base/src",
    "ebpf/src",
    "ebpf/common/src",
];
/// A sentence that could be false takes more than one word.
const SAFETY_WORDS_MIN: usize = 2;
/// How far above the block its sentence may begin: it may take several lines, and attributes may stand between.
const SAFETY_LINES_ABOVE: usize = 8;

pub fn check(sources: &[Source], target_roots: &[PathBuf]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let allowed = ALLOWED
            .iter()
            .any(|allowed| source.path.starts_with(allowed));
        let code = code_lines(&source.text);
        let text: Vec<&str> = source.text.lines().collect();
        for (number, line) in code.iter().enumerate() {
            let Some(after) = after_unsafe(line) else {
                continue;
            };
            if !allowed {
                findings.push(Finding::new(&source.path, number + 1, format!("unsafe code lives in {} and nowhere else: that is what a reviewer has to look at", ALLOWED.join(", "))));
            } else if needs_sentence(after) && !has_sentence(&text, number) {
                findings.push(Finding::new(&source.path, number + 1, "a `// SAFETY: ` sentence stands above each unsafe block: what makes it sound, so that it can be checked"));
            }
        }
        let is_root = target_roots.iter().any(|root| root == &source.path);
        let excepted = CRATES_WITH.iter().any(|dir| source.path.starts_with(dir));
        let is_test_or_build = source
            .path
            .components()
            .any(|part| part.as_os_str() == "tests")
            && !source.path.starts_with("tests/src")
            && !source.path.starts_with("tests/echo/src")
            || source.path.ends_with(Path::new("build.rs"));
        if is_root
            && !excepted
            && !is_test_or_build
            && !forwards_to_library(source, target_roots)
            && !code
                .iter()
                .any(|line| line.contains("#![forbid(unsafe_code)]"))
        {
            findings.push(Finding::new(
                &source.path,
                1,
                "the root of a crate without unsafe code says `#![forbid(unsafe_code)]`",
            ));
        }
    }
    findings
}

/// A `main.rs` beside a `lib.rs` holds nothing but a call.
fn forwards_to_library(source: &Source, target_roots: &[PathBuf]) -> bool {
    source.path.ends_with("main.rs") && target_roots.contains(&source.path.with_file_name("lib.rs"))
}

/// What follows the keyword on the line.
fn after_unsafe(line: &str) -> Option<&str> {
    let keyword = concat!("un", "safe");
    let is_word =
        |sign: Option<char>| sign.is_some_and(|sign| sign.is_alphanumeric() || sign == '_');
    line.match_indices(keyword).find_map(|(at, _)| {
        let after = &line[at + keyword.len()..];
        let inside_a_word =
            is_word(line[..at].chars().next_back()) || is_word(after.chars().next());
        (!inside_a_word).then_some(after)
    })
}

/// Blocks and implementations make a promise; a function's own documentation states what it asks of callers, and an
/// attribute only allows a name.
fn needs_sentence(after: &str) -> bool {
    let after = after.trim_start();
    after.starts_with('{') || after.starts_with("impl") || after.is_empty()
}

fn has_sentence(text: &[&str], number: usize) -> bool {
    let first = number.saturating_sub(SAFETY_LINES_ABOVE);
    let above = &text[first..=number];
    let Some(start) = above.iter().rposition(|line| line.contains("// SAFETY:")) else {
        return false;
    };
    let sentence: String = above[start..]
        .iter()
        .take_while(|line| line.contains("//"))
        .map(|line| line.split("//").last().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(" ");
    sentence.replace("SAFETY:", "").split_whitespace().count() >= SAFETY_WORDS_MIN
}
