// SPDX-License-Identifier: Apache-2.0
//! Tests of the log format and of rotation.

use super::*;

fn texts(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(Timestamp::parse(time).is_some(), "{line}");
            rest.to_owned()
        })
        .collect()
}

#[test]
fn lines_are_put_together_from_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c/0.log");
    let mut writer = LogWriter::open(path.clone(), LogPolicy::default()).unwrap();
    let (mut out, mut err) = (Pending::default(), Pending::default());
    writer.write(Stream::Stdout, &mut out, b"hel");
    writer.write(Stream::Stderr, &mut err, b"oops\n");
    writer.write(Stream::Stdout, &mut out, b"lo\n\nrest");
    writer.end(Stream::Stdout, &mut out);
    writer.end(Stream::Stderr, &mut err);
    assert_eq!(
        texts(&path),
        [
            "stderr F oops",
            "stdout F hello",
            "stdout F ",
            "stdout P rest"
        ]
    );
}

#[test]
fn a_long_line_is_written_in_pieces_that_join_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let mut writer = LogWriter::open(path.clone(), LogPolicy::default()).unwrap();
    let mut pending = Pending::default();
    let line: Vec<u8> = (0..LINE_BYTES_MAX * 2 + 10)
        .map(|i| b'a' + (i % 26) as u8)
        .collect();
    for chunk in line.chunks(1000) {
        writer.write(Stream::Stdout, &mut pending, chunk);
    }
    writer.write(Stream::Stdout, &mut pending, b"\nnext\n");
    let texts = texts(&path);
    let tags: Vec<&str> = texts.iter().map(|t| t.get(7..8).unwrap()).collect();
    assert_eq!(tags, ["P", "P", "F", "F"]);
    let joined: String = texts.iter().take(3).map(|t| t.get(9..).unwrap()).collect();
    assert_eq!(joined.as_bytes(), line);
    // A line of exactly the limit is whole.
    let exact = vec![b'x'; LINE_BYTES_MAX];
    writer.write(Stream::Stdout, &mut pending, &exact);
    writer.write(Stream::Stdout, &mut pending, b"\n");
    let joined: usize = super::tests::texts(&path)
        .iter()
        .skip(4)
        .map(|t| t.len() - 9)
        .sum();
    assert_eq!(joined, LINE_BYTES_MAX);
}

#[test]
fn only_the_newest_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let policy = LogPolicy {
        file_bytes_max: 1000,
        files_max: 3,
    };
    let mut writer = LogWriter::open(path.clone(), policy).unwrap();
    let mut pending = Pending::default();
    for n in 0..200 {
        writer.write(
            Stream::Stdout,
            &mut pending,
            format!("line {n}\n").as_bytes(),
        );
    }
    let rotated = rotated_files(&path).unwrap();
    assert_eq!(rotated.len(), 2);
    let mut all = Vec::new();
    for file in rotated.iter().chain([&path]) {
        assert!(std::fs::metadata(file).unwrap().len() <= 1000);
        all.extend(texts(file));
    }
    let expected: Vec<String> = (200 - all.len()..200)
        .map(|n| format!("stdout F line {n}"))
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn the_logs_of_two_attempts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let rotated = ".20260102-030405.000006";
    for n in [0, 1, 2, 9, 10] {
        std::fs::write(path(&format!("{n}.log")), "x").unwrap();
        std::fs::write(path(&format!("{n}.log{rotated}")), "x").unwrap();
    }
    for other in ["x.log", "1.txt", "1"] {
        std::fs::write(path(other), "x").unwrap();
    }
    let kept = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|name| attempt_of(name).is_some())
            .collect();
        names.sort();
        names
    };
    let both = |names: &[&str]| -> Vec<String> {
        let each = names
            .iter()
            .flat_map(|n| [format!("{n}.log"), format!("{n}.log{rotated}")]);
        each.collect()
    };
    // An attempt may be missing: one whose container could not be made has no log.
    remove_earlier(&path("10.log"), 10).unwrap();
    assert_eq!(kept(), both(&["10", "9"]));
    std::fs::write(path("12.log"), "x").unwrap();
    remove_earlier(&path("12.log"), 12).unwrap();
    assert_eq!(kept(), ["10.log", &format!("10.log{rotated}"), "12.log"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3 + 3);
    remove_earlier(&path("0.log"), 0).unwrap();
    assert_eq!(kept().len(), 3, "later ones are nobody's to remove");
}
