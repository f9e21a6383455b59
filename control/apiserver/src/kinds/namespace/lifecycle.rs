// SPDX-License-Identifier: Apache-2.0
//! The admission link NamespaceLifecycle: objects are created in namespaces that exist and stay, and the namespaces
//! that every cluster has are not deleted.

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{StatusCause, StatusDetails};

use crate::ApiError;
use crate::admission::{Admission, Admit, Effects, Operation};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

pub(in crate::kinds) struct NamespaceLifecycle;

#[async_trait]
impl Admit for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, write: &Admission<'_>) -> bool {
        match write.operation {
            Operation::Create => write.kind.namespaced(),
            Operation::Delete => is_namespace(write),
            Operation::Update => false,
        }
    }

    async fn mutate(
        &self,
        write: &mut Admission<'_>,
        _effects: &mut Effects,
    ) -> Result<(), ApiError> {
        if write.operation == Operation::Create {
            return namespace_is_open(write).await;
        }
        if IMMORTAL.contains(&write.name()) {
            return Err(write.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

fn is_namespace(write: &Admission<'_>) -> bool {
    write.is_of("", "Namespace")
}

/// The namespace of a new object exists and is not being deleted.
async fn namespace_is_open(write: &Admission<'_>) -> Result<(), ApiError> {
    let (server, namespace, name) = (write.server, write.namespace, write.name());
    let namespaces = server.cache(&*server.registry().resource("", "v1", "namespaces")?)?;
    let mut found = namespaces.get("", namespace);
    if found.is_none() {
        server.fresh().await?;
        found = namespaces.get("", namespace);
    }
    let Some(found) = found else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if !found.meta.is_deleting() {
        return Ok(());
    }
    let kind = write.requested;
    let mut error = write.forbidden(&format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    ));
    error.set_details(StatusDetails {
        name: (!name.is_empty()).then(|| name.to_owned()),
        group: (!kind.group.is_empty()).then(|| kind.group.to_string()),
        kind: Some(kind.plural.to_string()),
        causes: Some(vec![StatusCause {
            reason: Some("NamespaceTerminating".to_owned()),
            message: Some(format!("namespace {namespace} is being terminated")),
            field: Some("metadata.namespace".to_owned()),
        }]),
        ..StatusDetails::default()
    });
    Err(error)
}
