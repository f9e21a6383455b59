// SPDX-License-Identifier: Apache-2.0
//! Licence headers, and the comment that every Rust file opens with.

use super::{Finding, Source};

const APACHE: &str = "SPDX-License-Identifier: Apache-2.0";
const KERNEL: &str = "SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only";

/// The comment sign of files that carry a header.
fn comment_sign(source: &Source) -> Option<&'static str> {
    let name = source.path.file_name()?.to_str()?;
    match source
        .path
        .extension()
        .and_then(|extension| extension.to_str())
    {
        Some("rs" | "proto") => Some("//"),
        Some("toml" | "sh" | "service" | "socket") => Some("#"),
        None if name == "run" && source.text.starts_with("#!") => Some("#"),
        _ => None,
    }
}

pub fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let Some(sign) = comment_sign(source) else {
            continue;
        };
        let mut lines = source.text.lines().enumerate();
        let mut first = lines.next();
        if first.is_some_and(|(_, line)| line.starts_with("#!/")) {
            first = lines.next();
        }
        let wanted = if source.path.starts_with("ebpf") {
            KERNEL
        } else {
            APACHE
        };
        if first.map(|(_, line)| line) != Some(&format!("{sign} {wanted}")) {
            findings.push(Finding::new(&source.path, 1, format!("the first line has to be `{sign} {wanted}`: a file says by itself how it may be used")));
        }
        if source.is_rust()
            && !lines
                .next()
                .is_some_and(|(_, line)| line.starts_with("//! "))
        {
            findings.push(Finding::new(&source.path, 2, "the header is followed by `//! `: what the file is for, what it is not, and who calls it"));
        }
    }
    findings
}
