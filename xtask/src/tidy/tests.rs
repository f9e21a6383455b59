// SPDX-License-Identifier: Apache-2.0
//! Each rule is shown a tree that breaks it and one that does not.

use super::*;

const HEADER: &str = "// SPDX-License-Identifier: Apache-2.0\n//! What it is for.\n";

fn source(path: &str, text: &str) -> Source {
    Source {
        path: PathBuf::from(path),
        text: text.to_owned(),
    }
}

fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

#[test]
fn a_file_without_header_or_opening_comment_is_found() {
    assert_eq!(
        headers::check(&[source("a/src/x.rs", &format!("{HEADER}fn x() {{}}\n"))]),
        []
    );
    assert_eq!(
        lines(&headers::check(&[source(
            "a/src/x.rs",
            "//! What it is for.\n"
        )])),
        [1, 2]
    );
    assert_eq!(
        lines(&headers::check(&[source(
            "a/src/x.rs",
            "// SPDX-License-Identifier: Apache-2.0\nfn x() {}\n"
        )])),
        [2]
    );
    assert_eq!(
        lines(&headers::check(&[source("ebpf/src/x.rs", HEADER)])),
        [1],
        "kernel programs are also GPL-2.0-only"
    );
    assert_eq!(
        lines(&headers::check(&[source("Cargo.toml", "[workspace]\n")])),
        [1]
    );
    assert_eq!(
        headers::check(&[source(
            ".ci/run",
            "#!/usr/bin/env bash\n# SPDX-License-Identifier: Apache-2.0\n"
        )]),
        []
    );
}

#[test]
fn long_files_postponed_work_and_unbounded_queues_are_found() {
    assert_eq!(
        lines(&rules::check(&[source("a/src/x.rs", &"\n".repeat(801))])),
        [0]
    );
    assert_eq!(rules::check(&[source("a/src/x.rs", &"\n".repeat(800))]), []);
    assert_eq!(
        lines(&rules::check(&[source("a/src/y/mod.rs", HEADER)])),
        [0]
    );
    let postponed = format!("{HEADER}// {}: later\n", concat!("TO", "DO"));
    assert_eq!(
        lines(&rules::check(&[source("a/src/x.rs", &postponed)])),
        [3]
    );
    let queue = format!(
        "{HEADER}let (a, b) = mpsc::{}();\n",
        concat!("unbounded_", "channel")
    );
    assert_eq!(lines(&rules::check(&[source("a/src/x.rs", &queue)])), [3]);
    let comment = format!(
        "{HEADER}// mpsc::{}() is not used here\n",
        concat!("unbounded_", "channel")
    );
    assert_eq!(rules::check(&[source("a/src/x.rs", &comment)]), []);
}

#[test]
fn a_plan_that_looks_at_the_world_or_the_clock_is_found() {
    let text = format!(
        "{HEADER}use std::fs;\nfn x() {{\n    let now = Instant::now();\n    // tokio\n}}\n"
    );
    for plan in ["agent/plan/src/x.rs", "control/plan/src/a/x.rs"] {
        assert_eq!(lines(&rules::check(&[source(plan, &text)])), [3, 5]);
    }
    for other in ["agent/src/x.rs", "agent/plan/src/x/tests.rs"] {
        assert_eq!(rules::check(&[source(other, &text)]), []);
    }
}

#[test]
fn a_kind_name_outside_of_the_file_of_its_kind_is_found() {
    let kind = source(
        "control/apiserver/src/kinds/pod.rs",
        "// Kind::new(\nKind::new(\n    \"\",\n    \"v1\",\n    \"Pod\",\n    \"pods\",\n    Scope::Namespaced,\n)\nlet kept = \"spec\";\n",
    );
    let found = |path: &str, text: &str| {
        let sources = [
            source(kind.path.to_str().unwrap(), &kind.text),
            source(path, text),
        ];
        lines(&kind_names::check(&sources))
    };
    let verbs = "control/apiserver/src/verbs/x.rs";
    assert_eq!(
        found(
            verbs,
            "fn x() {\n    resource(\"\", \"v1\", \"pods\");\n}\n"
        ),
        [2]
    );
    assert_eq!(
        found(
            verbs,
            "let a = kind.kind ==\n    \"Pod\";\nlet b = \"pods/log\";\n"
        ),
        [2, 3]
    );
    let harmless =
        "// \"pods\"\nlet a = \"the pods of a node\";\nlet b = \"spec\";\nlet c = \"v1\";\n";
    assert_eq!(found(verbs, harmless), [0; 0]);
    let named = "let a = \"pods\";\n";
    for other in [
        "control/apiserver/src/kinds/service.rs",
        "control/apiserver/src/kinds.rs",
        "control/apiserver/src/verbs/tests.rs",
        "control/apiserver/src/verbs/tests/more.rs",
        "control/apiserver/tests/api/pods.rs",
        "control/controllers/src/pods.rs",
    ] {
        assert_eq!(found(other, named), [0; 0], "{other}");
    }
    assert_eq!(found("control/apiserver/src/kinds_of.rs", named), [1]);
    let unnamed =
        "let a = 1;\nKind::new(\"\", \"v1\", \"Node\", PLURAL, Scope::Cluster);\nlet b = \"x\";\n";
    assert_eq!(found("control/apiserver/src/kinds/node.rs", unnamed), [2]);
}

#[test]
fn unsafe_code_outside_its_files_or_without_its_sentence_is_found() {
    let block = format!("{HEADER}fn x() {{ {} {{ y() }} }}\n", concat!("un", "safe"));
    assert_eq!(
        lines(&unsafety::check(&[source("control/src/x.rs", &block)], &[])),
        [3]
    );
    assert_eq!(
        lines(&unsafety::check(&[source("ebpf/src/x.rs", &block)], &[])),
        [3]
    );
    let explained = block.replace(
        "fn x()",
        "// SAFETY: y has no precondition on this machine.\nfn x()",
    );
    assert_eq!(
        unsafety::check(&[source("ebpf/src/x.rs", &explained)], &[]),
        []
    );
    let bare = block.replace("fn x()", "// SAFETY: fine\nfn x()");
    assert_eq!(
        lines(&unsafety::check(&[source("ebpf/src/x.rs", &bare)], &[])),
        [4]
    );
    let in_a_string = format!(
        "{HEADER}const X: &str = \"{} {{\";\n",
        concat!("un", "safe")
    );
    assert_eq!(
        unsafety::check(&[source("control/src/x.rs", &in_a_string)], &[]),
        []
    );
}

#[test]
fn a_crate_root_that_does_not_forbid_unsafe_code_is_found() {
    let roots = [PathBuf::from("control/src/lib.rs")];
    assert_eq!(
        lines(&unsafety::check(
            &[source("control/src/lib.rs", HEADER)],
            &roots
        )),
        [1]
    );
    let forbids = format!("{HEADER}#![forbid(unsafe_code)]\n");
    assert_eq!(
        unsafety::check(&[source("control/src/lib.rs", &forbids)], &roots),
        []
    );
}

#[test]
fn a_file_that_no_mod_names_is_found() {
    let roots = [PathBuf::from("a/src/lib.rs")];
    let tree = [
        source("a/src/lib.rs", "pub mod used;\n// mod unused;\n"),
        source(
            "a/src/used.rs",
            "#[cfg(test)]\nmod tests;\nmod outer {\n    mod inner;\n}\npub(crate) mod deep;\n",
        ),
        source("a/src/used/tests.rs", ""),
        source("a/src/used/outer/inner.rs", ""),
        source("a/src/used/deep.rs", ""),
        source("a/src/unused.rs", ""),
    ];
    let found = dead::check(&tree, &roots);
    assert_eq!(
        found
            .iter()
            .map(|finding| finding.path.clone())
            .collect::<Vec<_>>(),
        [PathBuf::from("a/src/unused.rs")]
    );
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = "let a = \"x // y\"; // z\nlet b = r#\"q \" q\"#; /* c\nd */ let e = '\"'; let f: &'a str;\n";
    assert_eq!(
        scan::code_lines(text),
        [
            "let a = \"\"; ",
            "let b = \"\"; ",
            " let e = ; let f: &'a str;"
        ]
    );
}

#[test]
fn imports_stand_in_three_blocks() {
    let found = |imports: &str| {
        lines(&imports::check(&[source(
            "a/src/x.rs",
            &format!("{HEADER}\n{imports}\nfn x() {{}}\n\nmod tests {{\n    use super::*;\n}}\n"),
        )]))
    };
    let good = "mod y;\n\nuse std::fs;\nuse std::{\n    io,\n    net,\n};\n\nuse serde::Serialize;\n\nuse crate::y;\n\npub use y::Z;\n";
    assert_eq!(found(good), Vec::<usize>::new());
    assert_eq!(found("use std::fs;\nuse serde::Serialize;\n"), [5]);
    assert_eq!(found("use serde::Serialize;\n\nuse std::fs;\n"), [6]);
    assert_eq!(found("use crate::y;\n\nuse serde::Serialize;\n"), [6]);
    assert_eq!(found("use std::fs;\n\nuse std::io;\n"), [6]);
}
