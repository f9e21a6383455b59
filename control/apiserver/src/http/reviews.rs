// SPDX-License-Identifier: Apache-2.0
//! Reviews: "may I" and "who am I". Nothing is stored; the answer is the question with a status.

use axum::response::Response;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::auth::{Verdict, may_everything};
use super::path::Review;
use super::resource::decode_as;
use super::{Call, body, not_allowed, options, respond};
use crate::identity::{Caller, MASTERS, PeerIdentity};
use crate::schema::SchemaKind;
use crate::{ApiError, value};

/// Answers a review.
pub(crate) async fn serve(review: &Review, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(not_allowed());
    }
    let format = call.accept.plain()?;
    let validation = options::field_validation(&call.query, "CreateOptions")?;
    let kind = SchemaKind::builtin(review.group(), "v1", review.kind());
    let json = body::as_json(&kind, &call.content_type, body::read(call.body).await?)?;
    let (mut object, problems) = decode_as(&kind, &json, validation)?;
    let status = status(*review, &object, &call.caller);
    value::set(&mut object, "status", status);
    if value::at(&object, "metadata").is_none() {
        object["metadata"] = json!({});
    }
    let response = respond::tree(format, StatusCode::CREATED, &object);
    Ok(respond::warn(response, &problems.0))
}

fn status(review: Review, object: &Value, caller: &Caller) -> Value {
    match review {
        Review::SelfSubject => {
            let mut info = json!({"username": caller.identity.user});
            if !caller.uid.is_empty() {
                info["uid"] = caller.uid.as_str().into();
            }
            info["groups"] = json!(caller.groups());
            if !caller.extra.is_empty() {
                info["extra"] = json!(caller.extra);
            }
            json!({"userInfo": info})
        }
        Review::SelfSubjectAccess => access(caller),
        Review::SubjectAccess => {
            let asked = PeerIdentity {
                user: value::text(object, "spec.user").to_owned(),
                groups: value::items(object, "spec.groups")
                    .iter()
                    .filter_map(|g| g.as_str().map(str::to_owned))
                    .collect(),
            };
            access(&asked.into())
        }
        Review::SelfSubjectRules => match may_everything(caller) {
            Verdict::Allowed => json!({
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
                "incomplete": false,
            }),
            Verdict::Denied => json!({
                "resourceRules": [{
                    "verbs": ["create"],
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                }],
                "nonResourceRules": [{
                    "verbs": ["get"],
                    "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"],
                }],
                "incomplete": false,
            }),
        },
    }
}

fn access(caller: &Caller) -> Value {
    match may_everything(caller) {
        Verdict::Allowed => json!({
            "allowed": true,
            "reason": format!("members of {MASTERS} may do everything"),
        }),
        Verdict::Denied => json!({"allowed": false}),
    }
}
