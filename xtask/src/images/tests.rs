// SPDX-License-Identifier: Apache-2.0
//! Tests of packing images.

use super::*;

#[test]
fn the_same_entries_make_the_same_bytes() {
    let entries = || {
        [
            Entry::Dir {
                path: "bin",
                mode: 0o755,
            },
            Entry::File {
                path: "bin/a",
                mode: 0o755,
                content: b"a",
            },
            Entry::Link {
                path: "bin/b".into(),
                to: "a",
            },
        ]
    };
    let first = layer(&entries()).expect("it packs");
    assert_eq!(first, layer(&entries()).expect("it packs"));
    let mut archive = tar::Archive::new(first.as_slice());
    let names: Vec<String> = archive
        .entries()
        .expect("it reads")
        .map(|entry| {
            entry
                .expect("an entry")
                .path()
                .expect("a path")
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(names, ["bin/", "bin/a", "bin/b"]);
}

#[test]
fn an_empty_file_is_refused_because_it_is_a_program_that_was_not_built() {
    assert!(
        layer(&[Entry::File {
            path: "knarr-echo",
            mode: 0o755,
            content: b""
        }])
        .is_err()
    );
}
