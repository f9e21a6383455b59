// SPDX-License-Identifier: Apache-2.0
//! Every refusal of the API as a `v1.Status`, worded as Kubernetes' `apimachinery/pkg/api/errors` (v1.37).
//!
//! Used by every verb, and by callers of the in-process client to tell refusals apart.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ListMeta, Status, StatusCause, StatusDetails,
};

use crate::field::FieldErrors;

/// Why a request was refused: the machine-readable `reason` of a Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 406
    NotAcceptable,
    /// 409, an object of that name exists.
    AlreadyExists,
    /// 409, the object changed in between or a precondition failed.
    Conflict,
    /// 410, what was asked for is no longer kept.
    Expired,
    /// 413
    RequestEntityTooLarge,
    /// 415
    UnsupportedMediaType,
    /// 422
    Invalid,
    /// 429
    TooManyRequests,
    /// 500
    InternalError,
    /// 501
    NotImplemented,
    /// 503
    ServiceUnavailable,
    /// 504
    Timeout,
}

impl Reason {
    fn parts(self) -> (&'static str, u16) {
        match self {
            Self::BadRequest => ("BadRequest", 400),
            Self::Unauthorized => ("Unauthorized", 401),
            Self::Forbidden => ("Forbidden", 403),
            Self::NotFound => ("NotFound", 404),
            Self::MethodNotAllowed => ("MethodNotAllowed", 405),
            Self::NotAcceptable => ("NotAcceptable", 406),
            Self::AlreadyExists => ("AlreadyExists", 409),
            Self::Conflict => ("Conflict", 409),
            Self::Expired => ("Expired", 410),
            Self::RequestEntityTooLarge => ("RequestEntityTooLarge", 413),
            Self::UnsupportedMediaType => ("UnsupportedMediaType", 415),
            Self::Invalid => ("Invalid", 422),
            Self::TooManyRequests => ("TooManyRequests", 429),
            Self::InternalError => ("InternalError", 500),
            Self::NotImplemented => ("NotImplemented", 501),
            Self::ServiceUnavailable => ("ServiceUnavailable", 503),
            Self::Timeout => ("Timeout", 504),
        }
    }

    /// The word in `Status.reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(self) -> u16 {
        self.parts().1
    }
}

/// A refusal. Its text is the Status' message; what else a client sees is in [`ApiError::status`].
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    reason: Reason,
    message: String,
    details: Option<Box<StatusDetails>>,
    /// By which a client may go on with a list.
    next: Option<Box<str>>,
}

impl ApiError {
    /// A refusal without details.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            details: None,
            next: None,
        }
    }

    /// 400 with this message.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 500; the cause is for the client's eyes as well.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::new(
            Reason::InternalError,
            format!("Internal error occurred: {cause}"),
        )
    }

    /// 404 for one object: `pods "web" not found`.
    #[must_use]
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::about(
            Reason::NotFound,
            group,
            resource,
            name,
            format!("{} {name:?} not found", qualified(resource, group)),
        )
    }

    /// 409: `pods "web" already exists`.
    #[must_use]
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::about(
            Reason::AlreadyExists,
            group,
            resource,
            name,
            format!("{} {name:?} already exists", qualified(resource, group)),
        )
    }

    /// 409: `Operation cannot be fulfilled on pods "web": WHY`.
    #[must_use]
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::about(
            Reason::Conflict,
            group,
            resource,
            name,
            format!(
                "Operation cannot be fulfilled on {} {name:?}: {why}",
                qualified(resource, group)
            ),
        )
    }

    /// 403: `pods "web" is forbidden: WHY`; without a name `pods is forbidden: WHY`.
    #[must_use]
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(resource, group);
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{what} is forbidden: {why}"),
            _ => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::about(Reason::Forbidden, group, resource, name, message)
    }

    /// 422: `Pod "web" is invalid: spec.containers: Required value`.
    #[must_use]
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let what = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        let mut error = Self::about(
            Reason::Invalid,
            group,
            kind,
            name,
            format!("{what} {name:?} is invalid: {}", errors.aggregate()),
        );
        if let Some(details) = &mut error.details {
            details.causes = Some(
                errors
                    .iter()
                    .map(|e| StatusCause {
                        field: Some(e.field().to_owned()),
                        message: Some(e.body()),
                        reason: Some(e.reason().to_owned()),
                    })
                    .collect(),
            );
        }
        error
    }

    /// 410: the history asked for is gone.
    #[must_use]
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 504: a revision that has not happened yet. Clients know it by its cause: client-go's reflectors list again
    /// without a version, which is what they have to do after a store was restored from a backup.
    ///
    /// As `NewTooLargeResourceVersionError` of apiserver's `storage/errors.go` (v1.37).
    #[must_use]
    pub(crate) fn too_large_version(wanted: u64, current: u64) -> Self {
        const CAUSE: &str = "Too large resource version";
        let mut error = Self::new(
            Reason::Timeout,
            format!("Timeout: {CAUSE}: {wanted}, current: {current}"),
        );
        error.details = Some(Box::new(StatusDetails {
            causes: Some(vec![StatusCause {
                field: None,
                message: Some(CAUSE.to_owned()),
                reason: Some("ResourceVersionTooLarge".to_owned()),
            }]),
            retry_after_seconds: Some(1),
            ..StatusDetails::default()
        }));
        error
    }

    /// Puts the token in by which a client may go on with its list.
    #[must_use]
    pub(crate) fn continued_by(mut self, token: String) -> Self {
        self.next = Some(token.into_boxed_str());
        self
    }

    /// 429: come back in `seconds`.
    #[must_use]
    pub(crate) fn too_many_requests(message: impl Into<String>, seconds: i32) -> Self {
        let mut error = Self::new(Reason::TooManyRequests, message);
        error.details = Some(Box::new(StatusDetails {
            retry_after_seconds: Some(seconds),
            ..StatusDetails::default()
        }));
        error
    }

    /// A refusal about one object.
    #[must_use]
    pub(crate) fn about(
        reason: Reason,
        group: &str,
        resource: &str,
        name: &str,
        message: String,
    ) -> Self {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self {
            reason,
            message,
            details: Some(Box::new(StatusDetails {
                group: given(group),
                kind: given(resource),
                name: given(name),
                ..StatusDetails::default()
            })),
            next: None,
        }
    }

    /// Puts these details in.
    pub(crate) fn set_details(&mut self, details: StatusDetails) {
        self.details = Some(Box::new(details));
    }

    /// Why, for machines.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The HTTP status code.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.reason.code()
    }

    /// Seconds after which a retry is welcome.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<i32> {
        self.details.as_ref()?.retry_after_seconds
    }

    /// No such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// The object changed in between, or a precondition failed: read again and retry.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// An object of that name exists.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// Refused because the object's namespace is being deleted: whatever was missing there, nobody needs it any more.
    #[must_use]
    pub fn is_namespace_ending(&self) -> bool {
        let causes = self
            .details
            .as_ref()
            .and_then(|details| details.causes.as_ref());
        causes.is_some_and(|causes| {
            let mut reasons = causes.iter().filter_map(|cause| cause.reason.as_deref());
            reasons.any(|reason| reason == "NamespaceTerminating")
        })
    }

    /// Worth the same call again later: nothing about the request itself is wrong.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.reason,
            Reason::Conflict
                | Reason::TooManyRequests
                | Reason::InternalError
                | Reason::ServiceUnavailable
                | Reason::Timeout
        )
    }

    /// The object that a client receives.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code())),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            metadata: ListMeta {
                continue_: self.next.as_deref().map(str::to_owned),
                ..ListMeta::default()
            },
            reason: Some(self.reason.as_str().to_owned()),
            status: Some("Failure".to_owned()),
        }
    }
}

impl From<knarr_store::StoreError> for ApiError {
    fn from(error: knarr_store::StoreError) -> Self {
        use knarr_store::StoreError as E;
        match error {
            E::Compacted { .. } => {
                Self::expired("The resourceVersion for the provided list is too old.".to_owned())
            }
            E::TooLarge { .. } => Self::new(
                Reason::RequestEntityTooLarge,
                format!("Request entity too large: {error}"),
            ),
            E::Closed => Self::new(Reason::ServiceUnavailable, error.to_string()),
            // The message leaves the program, so it carries the causes.
            error => Self::internal(knarr_base::chain(&error)),
        }
    }
}

/// `deployments.apps`, or only the resource in the core group.
pub(crate) fn qualified(resource: &str, group: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}
