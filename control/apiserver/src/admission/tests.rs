// SPDX-License-Identifier: Apache-2.0
//! The order of the chain. What a link sees of each write is in `tests/api/admission.rs`.

use super::{Chain, Part};
use crate::kinds;

#[test]
fn the_links_are_in_the_order_of_kubernetes_plug_ins() {
    assert_eq!(
        Chain::new(kinds::admission(), &[]).names(),
        [
            "NamespaceLifecycle",
            "ServiceAccount",
            "Priority",
            "DefaultTolerationSeconds",
        ]
    );
}

#[test]
fn a_part_is_named_as_in_its_path() {
    assert_eq!(Part::Main.subresource(), None);
    assert_eq!(Part::Binding.subresource(), Some("binding"));
}
