// SPDX-License-Identifier: Apache-2.0
//! YAML says what the tree says, to readers of 1.2 and of 1.1.

use rand::Rng as _;
use serde_json::{Value, json};

use super::*;

#[test]
fn texts_that_some_reader_takes_for_something_else_are_quoted() {
    // What YAML 1.1 resolves: https://yaml.org/type/ and the tables of gopkg.in/yaml.v2's resolve.go.
    for word in [
        "y",
        "Y",
        "yes",
        "Yes",
        "YES",
        "n",
        "N",
        "no",
        "No",
        "NO",
        "true",
        "True",
        "TRUE",
        "false",
        "False",
        "on",
        "On",
        "ON",
        "off",
        "Off",
        "OFF",
        "~",
        "null",
        "Null",
        "NULL",
        "",
        ".nan",
        ".NaN",
        ".inf",
        "-.inf",
        "+.INF",
        "<<",
        "=",
        "0",
        "1",
        "-1",
        "+1",
        "012",
        "0o17",
        "0x1F",
        "0b101",
        "-0b1",
        "1_000",
        "1.5",
        "-.5",
        ".5",
        "1.",
        "12e3",
        "1e3",
        "1E+3",
        "1e-3",
        "6.02e23",
        "1:20",
        "190:20:30",
        "12:30:45",
        "190:20:30.15",
        "2026-01-02",
        "2026-01-02T03:04:05Z",
        "2026-01-02 03:04:05",
        "2001-12-14t21:59:43.10-05:00",
        "2026-01-02T03:04:05.000006Z",
    ] {
        let written = text(&json!({ "a": word }));
        assert_eq!(written, format!("a: \"{word}\"\n"));
    }
    for plain in [
        "web",
        "example.com/app",
        "v1.37.0",
        "10.96.0.7",
        "Always",
        "ClusterIP",
        "nginx:1.27",
        "registry.example.com/a/b:1.0",
        "10Mi",
        "5s",
        "a b c",
        "/var/run",
        "no-way",
        "yesterday",
    ] {
        assert_eq!(text(&json!({ "a": plain })), format!("a: {plain}\n"));
    }
    // Names of members as well.
    assert_eq!(
        text(&json!({"on": 1, "1": 2, "a": 3})),
        "\"1\": 2\na: 3\n\"on\": 1\n"
    );
}

#[test]
fn it_looks_as_from_kubernetes() {
    let tree = json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": "web", "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {}},
        "spec": {"containers": [
            {"name": "c", "args": ["-v", "sh"], "script": "a\nb\n", "open": "a\n  b"},
            {"name": "d", "ports": [], "on": true, "count": 3, "none": null},
        ], "nested": [["a", "b"], ["c"]]},
    });
    let expected = "\
apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: \"2026-01-02T03:04:05Z\"
  labels: {}
  name: web
spec:
  containers:
  - args:
    - \"-v\"
    - sh
    name: c
    open: |-
      a
        b
    script: |
      a
      b
  - count: 3
    name: d
    none: null
    \"on\": true
    ports: []
  nested:
  - - a
    - b
  - - c
";
    assert_eq!(text(&tree), expected);
}

/// A random tree of texts that are likely to be misread.
fn random_tree(random: &mut impl rand::Rng, depth: usize) -> Value {
    const SIGNS: [&str; 40] = [
        "a",
        "B",
        "0",
        "1",
        "x",
        "e",
        "-",
        "+",
        ".",
        ":",
        " ",
        "\n",
        "\t",
        "#",
        "'",
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&",
        "*",
        "!",
        "|",
        ">",
        "%",
        "@",
        "`",
        "?",
        "=",
        "~",
        "<",
        "ä",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{7f}",
        "\u{1f600}",
    ];
    let word = |random: &mut dyn rand::RngCore| -> String {
        let length = random.random_range(0..6);
        (0..length)
            .map(|_| SIGNS[random.random_range(0..SIGNS.len())])
            .collect()
    };
    let size = random.random_range(0..4);
    match random.random_range(0..if depth == 0 { 4 } else { 6 }) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random::<i64>()),
        3 => word(random).into(),
        4 => (0..size).map(|_| random_tree(random, depth - 1)).collect(),
        _ => {
            let mut members = serde_json::Map::new();
            for _ in 0..size {
                members.insert(word(random), random_tree(random, depth - 1));
            }
            Value::Object(members)
        }
    }
}

#[test]
fn any_tree_is_read_back_as_it_was() {
    let mut random = rand::rng();
    for _ in 0..20_000 {
        let tree = random_tree(&mut random, 4);
        let written = text(&tree);
        let read: Value = serde_yaml_ng::from_str(&written)
            .unwrap_or_else(|error| panic!("{error}: {written:?} of {tree}"));
        assert_eq!(read, tree, "{written:?}");
    }
}
