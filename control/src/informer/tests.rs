// SPDX-License-Identifier: Apache-2.0
//! How views are kept and found.

use super::*;

fn name(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName::new(namespace, name)
}

fn informer(views: Views<u32>) -> Informer<u32> {
    let (_, synced) = watch::channel(true);
    let (requests, _) = mpsc::channel(1);
    Informer {
        views: Arc::new(RwLock::new(views)),
        synced,
        requests,
    }
}

fn parity(view: &u32) -> Vec<String> {
    vec![
        if view.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        }
        .to_owned(),
    ]
}

#[test]
fn a_namespace_is_told_from_one_whose_name_goes_on() {
    let mut views = Views::default();
    for (index, (namespace, object)) in
        [("a", "x"), ("a", "y"), ("a-b", "x"), ("ab", "x"), ("", "x")]
            .into_iter()
            .enumerate()
    {
        let view = Arc::new(u32::try_from(index).unwrap());
        views.set(&name(namespace, object), Some(&view), |_| Vec::new());
    }
    let informer = informer(views);
    let found = |namespace| -> Vec<u32> {
        informer
            .select_in(namespace, |_| true)
            .into_iter()
            .map(|(_, view)| *view)
            .collect()
    };
    assert_eq!(found("a"), [0, 1]);
    assert_eq!(found("ab"), [3]);
    assert_eq!(found(""), [4]);
    assert!(found("b").is_empty());
    assert_eq!(informer.select(|view| *view > 2).len(), 2);
}

#[test]
fn the_index_follows_every_change() {
    let mut views = Views::default();
    let key = name("a", "x");
    assert_eq!(views.set(&key, Some(&Arc::new(1)), parity), None);
    views.set(&name("a", "y"), Some(&Arc::new(3)), parity);
    assert_eq!(
        views.set(&key, Some(&Arc::new(2)), parity),
        Some(Arc::new(1))
    );
    assert_eq!(views.by_key["even"].len(), 1);
    assert_eq!(views.by_key["odd"].len(), 1);
    assert_eq!(views.set(&key, None, parity), Some(Arc::new(2)));
    assert!(!views.by_key.contains_key("even"));
    let informer = informer(views);
    assert_eq!(informer.indexed("odd"), [Arc::new(3)]);
    assert!(informer.indexed("even").is_empty());
}
