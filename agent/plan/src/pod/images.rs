// SPDX-License-Identifier: Apache-2.0
//! Whether a container can be handed to the runtime: is its image there, is every field of it supported.
//!
//! Not here: the import itself. Called by the planner before each start.

use k8s_openapi::api::core::v1::Container;

use super::{Planner, PodAction};
use crate::observed::ImageView;
use crate::reason::WaitingReason;
use crate::record::Refusal;
use crate::support;

impl Planner<'_> {
    /// The refusal was about an image that is there now: no need to wait.
    pub(super) fn image_arrived(
        &self,
        container: &Container,
        refusal: &Refusal<WaitingReason>,
    ) -> bool {
        refusal.reason.awaits_image()
            && matches!(
                self.observed.images.get(image(container)),
                Some(ImageView::Present { .. })
            )
    }

    /// Why the container cannot be started, if it cannot.
    pub(super) fn refuse(&self, container: &Container) -> Option<PodAction> {
        let refuse = |reason, message| {
            Some(PodAction::Refuse {
                name: container.name.clone(),
                reason,
                message,
            })
        };
        if let Err(unsupported) = support::check(self.spec, container, self.observed.se_linux) {
            return refuse(
                WaitingReason::CreateContainerConfigError,
                unsupported.to_string(),
            );
        }
        let reference = image(container);
        let malformed = |why: &str| {
            refuse(
                WaitingReason::InvalidImageName,
                format!("couldn't parse image name \"{reference}\": {why}"),
            )
        };
        if reference.is_empty() || reference.chars().any(char::is_whitespace) {
            return malformed("invalid reference format");
        }
        match self.observed.images.get(reference) {
            Some(ImageView::Present { .. }) => return None,
            Some(ImageView::Malformed { why }) => return malformed(why),
            // It may well be there: importing it again would not help a store that cannot be read.
            Some(ImageView::Unreadable { cause }) => {
                return refuse(
                    WaitingReason::ImageInspectError,
                    format!(
                        "Failed to inspect image \"{reference}\": this node's image store cannot be \
                         read: {cause}"
                    ),
                );
            }
            None => {}
        }
        let how = format!(
            "import it on this node: `knarr-agent image import FILE` (an OCI layout or a docker \
             archive that holds {reference})"
        );
        if container.image_pull_policy.as_deref() == Some("Never") {
            return refuse(
                WaitingReason::ErrImageNeverPull,
                format!(
                    "Container image \"{reference}\" is not present with pull policy of Never; {how}"
                ),
            );
        }
        let pull = format!("not found on this node, and this agent pulls from no registry; {how}");
        let before = self
            .record
            .containers
            .get(&container.name)
            .and_then(|r| r.refusal.as_ref());
        match before {
            None => refuse(WaitingReason::ErrImagePull, pull),
            Some(_) => refuse(
                WaitingReason::ImagePullBackOff,
                format!("Back-off pulling image \"{reference}\": ErrImagePull: {pull}"),
            ),
        }
    }
}

/// The `Pulled` event of a container whose image is there. Asking for a pull and not getting one must be
/// seen: an image of the same name may be newer elsewhere.
pub fn pulled_message(container: &Container) -> String {
    let reference = image(container);
    let present = format!("Container image \"{reference}\" already present on machine");
    // As the API server defaults it (core/v1 imagePullPolicy).
    let is_latest = || {
        let name = reference.rsplit('/').next().unwrap_or_default();
        !name.contains('@') && name.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest")
    };
    let always = match container.image_pull_policy.as_deref() {
        Some(policy) => policy == "Always",
        None => is_latest(),
    };
    if always {
        format!(
            "{present}; it was not pulled although its pull policy is Always, because this version \
             pulls from no registry"
        )
    } else {
        present
    }
}

fn image(container: &Container) -> &str {
    container.image.as_deref().unwrap_or("")
}
