// SPDX-License-Identifier: Apache-2.0
//! The order of imports at the head of a file: the standard library, then other crates, then this crate, a block each with
//! an empty line between. rustfmt sorts inside a block. Called by `tidy`.

use super::{Finding, Source};

/// Where an import belongs, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Block {
    Standard,
    Crates,
    Own,
}

impl Block {
    /// `modules` are those that the file declares.
    fn of(import: &str, modules: &[&str]) -> Self {
        match import.split("::").next().unwrap_or_default() {
            "std" | "core" | "alloc" => Self::Standard,
            "crate" | "super" | "self" => Self::Own,
            first if modules.contains(&first) => Self::Own,
            _ => Self::Crates,
        }
    }
}

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let rust = sources.iter().filter(|source| source.is_rust());
    rust.filter_map(check_one).collect()
}

/// The module that a line at the head of a file declares.
fn declared_module(line: &str) -> Option<&str> {
    ["mod ", "pub mod ", "pub(crate) mod "]
        .iter()
        .find_map(|start| line.strip_prefix(start))?
        .strip_suffix(';')
}

/// The first import that stands in the wrong place.
fn check_one(source: &Source) -> Option<Finding> {
    let mut before: Option<Block> = None;
    let mut gap = false;
    let mut inside = false;
    let modules: Vec<&str> = source.text.lines().filter_map(declared_module).collect();
    for (number, line) in source.text.lines().enumerate() {
        if inside {
            inside = !line.trim_end().ends_with(';');
            continue;
        }
        let Some(import) = line.strip_prefix("use ") else {
            match line {
                "" => gap = true,
                // What may stand between imports.
                _ if [
                    "//",
                    "#",
                    "mod ",
                    "pub mod ",
                    "pub(crate) mod ",
                    "pub use ",
                    "extern ",
                ]
                .iter()
                .any(|start| line.starts_with(start)) => {}
                // The lines of an import of many names that is public, which has no place of its own.
                _ if line.starts_with([' ', '}']) => {}
                _ => return None,
            }
            continue;
        };
        inside = !line.trim_end().ends_with(';');
        let block = Block::of(import, &modules);
        let fits = match before {
            None => true,
            // The modules of a file may stand apart from the rest of its crate.
            Some(before) if gap => before < block || block == Block::Own,
            Some(before) => before == block,
        };
        if !fits {
            return Some(Finding::new(
                &source.path,
                number + 1,
                "imports stand in three blocks with an empty line between: std, other crates, this crate; so that a reader sees at once what a file leans on",
            ));
        }
        before = Some(block);
        gap = false;
    }
    None
}
