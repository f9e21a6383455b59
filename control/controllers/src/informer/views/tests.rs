// SPDX-License-Identifier: Apache-2.0
//! How views are kept and found.

use super::*;

fn name(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName::new(namespace, name)
}

fn parity(view: &u32) -> Vec<String> {
    let parity = if view.is_multiple_of(2) {
        "even"
    } else {
        "odd"
    };
    vec![parity.to_owned()]
}

#[test]
fn a_namespace_is_not_mixed_up_with_one_whose_name_begins_alike() {
    let mut views = Views::new(|_: &u32| Vec::new());
    for (index, (namespace, object)) in
        [("a", "x"), ("a", "y"), ("a-b", "x"), ("ab", "x"), ("", "x")]
            .into_iter()
            .enumerate()
    {
        let view = Arc::new(u32::try_from(index).unwrap());
        views.set(&name(namespace, object), Some(&view));
    }
    let found = |namespace| -> Vec<u32> {
        views
            .in_namespace(namespace)
            .map(|(_, view)| **view)
            .collect()
    };
    assert_eq!(found("a"), [0, 1]);
    assert_eq!(found("ab"), [3]);
    assert_eq!(found(""), [4]);
    assert!(found("b").is_empty());
    assert_eq!(views.iter().count(), 5);
}

#[test]
fn the_index_follows_every_change() {
    let mut views = Views::new(parity);
    let key = name("a", "x");
    assert_eq!(views.set(&key, Some(&Arc::new(1))), None);
    views.set(&name("a", "y"), Some(&Arc::new(3)));
    assert_eq!(views.set(&key, Some(&Arc::new(2))), Some(Arc::new(1)));
    assert_eq!(views.group("even").count(), 1);
    assert_eq!(views.group("odd").count(), 1);
    assert_eq!(views.set(&key, None), Some(Arc::new(2)));
    assert!(!views.groups.contains_key("even"));
    assert_eq!(views.group("odd").collect::<Vec<_>>(), [&name("a", "y")]);
    assert_eq!(views.group("even").count(), 0);
}
