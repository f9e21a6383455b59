// SPDX-License-Identifier: Apache-2.0
//! When the change happened that an Endpoints object or an EndpointSlice is written for, as an annotation of it.
//!
//! Follows `endpoint/util` of kube-controller-manager (v1.37). Called by `endpoints` and `endpoint_slice`.

use knarr_api::k8s_openapi::api::core::v1::Service;
use knarr_api::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::k8s_openapi::jiff::Timestamp;

use crate::pods::PodView;

/// Annotation of Endpoints and EndpointSlices: the time of the change that they were last written for.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Writes when the change happened that an object is written for; `None` where nothing says it.
pub(crate) fn annotate(meta: &mut ObjectMeta, since: Option<Timestamp>) {
    match since {
        Some(since) => {
            let annotations = meta.annotations.get_or_insert_default();
            annotations.insert(TRIGGER_TIME.to_owned(), since.to_string());
        }
        None => {
            if let Some(annotations) = &mut meta.annotations {
                annotations.remove(TRIGGER_TIME);
            }
        }
    }
}

/// When a pod came to be in the state that it is in: its readiness changed, or it was made.
pub(crate) fn changed_at(pod: &PodView) -> Option<Timestamp> {
    pod.ready.and_then(|ready| ready.since).or(pod.created_at)
}

/// When the Service was made, for its first object.
pub(crate) fn made_at(service: &Service) -> Option<Timestamp> {
    service.metadata.creation_timestamp.as_ref().map(|t| t.0)
}
