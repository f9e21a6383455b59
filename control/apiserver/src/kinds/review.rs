// SPDX-License-Identifier: Apache-2.0
//! Reviews: "may I" and "who am I". Nothing is stored; the answer is the question with a status.

use serde_json::{Value, json};

use crate::identity::{Caller, MASTERS, PeerIdentity, Verdict, may_everything};
use crate::registry::{Askers, Kind, Scope, Storage, Strategy};
use crate::value;

/// The reviews, in the order of discovery.
pub(super) fn kinds() -> [Kind; 4] {
    let kinds = [
        Kind::new(
            "authorization.k8s.io",
            "v1",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            Scope::Cluster,
            SelfSubjectAccess,
        ),
        Kind::new(
            "authorization.k8s.io",
            "v1",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            Scope::Cluster,
            SelfSubjectRules,
        ),
        Kind::new(
            "authorization.k8s.io",
            "v1",
            "SubjectAccessReview",
            "subjectaccessreviews",
            Scope::Cluster,
            SubjectAccess,
        ),
        Kind::new(
            "authentication.k8s.io",
            "v1",
            "SelfSubjectReview",
            "selfsubjectreviews",
            Scope::Cluster,
            SelfSubject,
        ),
    ];
    kinds.map(|kind| Kind {
        storage: Storage::None,
        ..kind
    })
}

struct SelfSubjectAccess;
struct SelfSubjectRules;
struct SubjectAccess;
struct SelfSubject;

impl Strategy for SelfSubjectAccess {
    fn answer(&self, _question: &Value, caller: &Caller) -> Option<Value> {
        Some(access(caller))
    }

    fn askers(&self) -> Askers {
        Askers::ProvenUsers
    }
}

impl Strategy for SelfSubjectRules {
    fn answer(&self, _question: &Value, caller: &Caller) -> Option<Value> {
        Some(rules(caller))
    }

    fn askers(&self) -> Askers {
        Askers::ProvenUsers
    }
}

impl Strategy for SubjectAccess {
    fn answer(&self, question: &Value, _caller: &Caller) -> Option<Value> {
        let groups = value::items(question, "spec.groups").iter();
        let asked = PeerIdentity {
            user: value::text(question, "spec.user").to_owned(),
            groups: groups
                .filter_map(|g| g.as_str().map(str::to_owned))
                .collect(),
        };
        Some(access(&asked.into()))
    }
}

impl Strategy for SelfSubject {
    fn answer(&self, _question: &Value, caller: &Caller) -> Option<Value> {
        Some(user(caller))
    }

    fn askers(&self) -> Askers {
        Askers::ProvenUsers
    }
}

fn user(caller: &Caller) -> Value {
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

fn access(caller: &Caller) -> Value {
    if may_everything(caller) == Verdict::Allowed {
        json!({
            "allowed": true,
            "reason": format!("members of {MASTERS} may do everything"),
        })
    } else {
        json!({"allowed": false})
    }
}

fn rules(caller: &Caller) -> Value {
    if may_everything(caller) == Verdict::Allowed {
        return json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        });
    }
    json!({
        "resourceRules": [{
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
        }, {
            "verbs": ["create"],
            "apiGroups": ["authentication.k8s.io"],
            "resources": ["selfsubjectreviews"],
        }],
        "nonResourceRules": [{
            "verbs": ["get"],
            "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"],
        }],
        "incomplete": false,
    })
}
