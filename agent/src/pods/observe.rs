// SPDX-License-Identifier: Apache-2.0
//! The fetch step of a pod: from the runtime's states to the plan's view.

use std::collections::BTreeMap;

use knarr_agent_plan::observed::{ImageView, Network, Observed, SandboxHealth, SandboxView};
use knarr_pod::SandboxState;
use knarr_runtime::ImageError;

use crate::edges::{Images, Sandbox};

/// Whether a sandbox has the network that it should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// It has, or needs none.
    Done,
    /// It cannot get it: no address is noted for it, or it went wrong when the sandbox was new.
    Impossible,
}

/// The sandbox and everything in it; `wiring` is none as long as nobody has looked.
pub fn sandbox(sandbox: &dyn Sandbox, ips: Vec<String>, wiring: Option<Wiring>) -> Observed {
    let health = match (sandbox.state(), wiring) {
        (SandboxState::Ready, Some(Wiring::Done)) => SandboxHealth::Alive,
        (SandboxState::Ready, None) => SandboxHealth::Unwired,
        _ => SandboxHealth::Dead,
    };
    Observed {
        sandbox: Some(SandboxView {
            attempt: sandbox.attempt(),
            ips,
            health,
        }),
        containers: sandbox.containers(),
        network: Network::Known,
        ..Observed::default()
    }
}

/// What the node knows about these images. Blocking.
pub fn images(store: &dyn Images, references: Vec<String>) -> BTreeMap<String, ImageView> {
    let mut found = BTreeMap::new();
    for reference in references {
        match store.get(&reference) {
            Ok(Some(image)) => {
                found.insert(reference, ImageView::Present { id: image.id });
            }
            Ok(None) => {}
            Err(ImageError::Reference { message, .. }) => {
                found.insert(reference, ImageView::Malformed { why: message });
            }
            Err(error) => {
                let cause = knarr_base::chain(&error);
                tracing::warn!(reference, "an image cannot be looked up: {cause}");
                found.insert(reference, ImageView::Unreadable { cause });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_runtime::ImageStore;

    #[test]
    fn a_broken_list_of_images_is_not_a_missing_image() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = ImageStore::open(dir.path()).expect("opens");
        let look = |reference: &str| {
            let mut found = images(&store, vec![reference.to_owned()]);
            found.remove(reference)
        };
        assert_eq!(look("localhost/a:1"), None);
        std::fs::write(dir.path().join("images/names.json"), "{torn").expect("writes");
        match look("localhost/a:1") {
            Some(ImageView::Unreadable { cause }) => {
                assert!(cause.contains("names.json"), "{cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}
