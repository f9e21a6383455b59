// SPDX-License-Identifier: Apache-2.0
//! Tests of what the hub shows of itself.

use super::*;

#[test]
fn what_the_feed_tells_is_in_no_debug_output() {
    let hub = Hub::new("epoch-1".to_owned());
    let key = ObjectKey {
        kind: ObjectKind::Secret,
        namespace: "default".to_owned(),
        name: "key".to_owned(),
    };
    hub.change(|view| view.observe_object(&key, Some(bytes::Bytes::from_static(b"hidden"))));
    let shown = format!("{hub:?}");
    assert!(shown.contains("epoch-1"), "{shown}");
    assert!(!shown.contains("hidden"), "{shown}");
}
