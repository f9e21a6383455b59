// SPDX-License-Identifier: Apache-2.0
//! Our own rules about the tree, as machine checks: what a rule says and why is in the message that it prints.
//! Each rule is a plain function from sources to findings. Called by `ci`.

mod circles;
mod dead;
mod headers;
mod imports;
mod kind_names;
mod rules;
mod scan;
mod unsafety;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::{paths, run, ui};

/// One file of the tree.
pub struct Source {
    /// From the root of the checkout.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
}

impl Source {
    fn ends_with(&self, extension: &str) -> bool {
        self.path
            .extension()
            .is_some_and(|found| found == extension)
    }

    fn is_rust(&self) -> bool {
        self.ends_with("rs")
    }
}

/// What a rule has to say about a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// From 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong and why it matters.
    pub message: String,
}

impl Finding {
    fn new(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: path.to_path_buf(),
            line,
            message: message.into(),
        }
    }
}

/// Runs every rule. Prints all findings before it fails.
pub fn check() -> anyhow::Result<()> {
    let step = ui::step("tidy");
    let sources = sources()?;
    let targets = crate::metadata::metadata()?.target_roots();
    let mut findings = Vec::new();
    findings.extend(headers::check(&sources));
    findings.extend(imports::check(&sources));
    findings.extend(kind_names::check(&sources));
    findings.extend(rules::check(&sources));
    findings.extend(unsafety::check(&sources, &targets));
    findings.extend(dead::check(&sources, &targets));
    findings.extend(circles::check(&sources, &targets));
    findings.sort();
    for Finding {
        path,
        line,
        message,
    } in &findings
    {
        ui::line(&format!("{}:{line}: {message}", path.display()));
    }
    if !findings.is_empty() {
        bail!("tidy found {} in {} files", findings.len(), sources.len());
    }
    step.done_with(&format!("{} files", sources.len()));
    Ok(())
}

/// Every text file that is, or would be, committed.
fn sources() -> anyhow::Result<Vec<Source>> {
    let mut git = run::command(
        "git",
        [
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
            "-z",
        ],
    );
    let listed = run::stdout(git.current_dir(paths::root()))
        .context("tidy asks git which files there are")?;
    let mut sources = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let path = paths::root().join(name);
        // Removed but not yet committed, or not text.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        sources.push(Source {
            path: PathBuf::from(name),
            text,
        });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
