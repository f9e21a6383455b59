// SPDX-License-Identifier: Apache-2.0
//! What YAML says, and how much of it aliases may say again.

use serde_json::json;

use super::*;

#[test]
fn it_is_the_tree_that_the_library_itself_makes() {
    let text = "a: &a {n: 1, f: 1.5, t: yes, b: true, z: ~, s: '1'}\nb: [*a, -7, .nan, 18446744073709551615]\n1: x\n";
    let whole: Value = serde_yaml_ng::from_str(text).expect("YAML");
    assert_eq!(parse(text.as_bytes()).expect("YAML"), whole);
    assert_eq!(whole["b"][0], whole["a"]);
    assert_eq!(whole["1"], "x");
}

#[test]
fn what_is_no_document_is_refused_as_by_the_library() {
    for text in ["a: [", "*nothing", "--- 1\n--- 2\n", "a: &a [*a]"] {
        let expected = serde_yaml_ng::from_str::<Value>(text).expect_err(text);
        let refused = parse(text.as_bytes()).expect_err(text);
        assert_eq!(refused.to_string(), expected.to_string());
    }
}

/// What a body costs, counted as `parse` does.
fn cost(text: &str) -> usize {
    let left = Cell::new(EXPANDED_BYTES_MAX);
    let number_bytes = 1;
    let tree = Tree {
        left: &left,
        number_bytes,
    };
    let deserializer = serde_yaml_ng::Deserializer::from_str(text);
    tree.deserialize(deserializer).expect("YAML");
    EXPANDED_BYTES_MAX - left.get()
}

#[test]
fn without_aliases_no_body_comes_to_more_than_it_has() {
    for text in [
        "[]",
        "{}",
        "[a,a,a]",
        "{a,b}",
        "-\n-\n-\n",
        "a:\n",
        "''",
        "~",
        "7",
        "[[[]]]",
        "a: {b: [c]}",
    ] {
        assert!(cost(text) <= text.len(), "{text}: {}", cost(text));
    }
}

#[test]
fn aliases_say_again_as_much_as_could_have_been_sent_and_no_more() {
    let text = "x".repeat(1 << 20);
    let aliases = |count: usize| format!("a: &a '{text}'\nb: [{}]\n", vec!["*a"; count].join(","));
    let tree = parse(aliases(1).as_bytes()).expect("two of them");
    assert_eq!(tree["b"], json!([text]));
    let refused = parse(aliases(2).as_bytes()).expect_err("three of them");
    assert!(
        refused.to_string().contains(
            "the aliases (`*name`) in it stand for more than 3145728 bytes: repeat less, or send JSON"
        ),
        "{refused}"
    );
}

#[test]
fn aliases_of_aliases_and_of_long_names_count_as_well() {
    let mut levels = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..8 {
        let below = vec![format!("*a{}", level - 1); 10].join(",");
        levels += &format!("a{level}: &a{level} [{below}]\n");
    }
    parse(levels.as_bytes()).expect_err("a hundred million");
    let name = "k".repeat(1 << 16);
    let names = format!("a: &a {{{name}: 1}}\nb: [{}]\n", vec!["*a"; 64].join(","));
    parse(names.as_bytes()).expect_err("four MiB of names");
}

#[test]
fn a_long_number_that_is_said_again_counts_with_its_length() {
    let number = format!("0.{}", "1".repeat(1 << 20));
    let aliases = |count: usize| format!("a: &a {number}\nb: [{}]\n", vec!["*a"; count].join(","));
    parse(aliases(1).as_bytes()).expect("two of them");
    parse(aliases(100_000).as_bytes()).expect_err("hours of work");
    // Where nothing can be said again, each number has been sent.
    let numbers = format!("[{number},{}1]", "1,".repeat(100_000));
    parse(numbers.as_bytes()).expect("no alias");
}
