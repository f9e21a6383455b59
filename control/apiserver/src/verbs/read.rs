// SPDX-License-Identifier: Apache-2.0
//! Reading one object, and the Lease whose renewals live in memory.

use std::sync::Arc;

use bytes::Bytes;

use crate::core::Core;
use crate::object::{Object, key};
use crate::registry::Kind;
use crate::{ApiError, clock, value};

impl Core {
    /// The object as of now. `at_least`: a cached version that is at least this new is enough (0: any).
    pub(crate) async fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        at_least: Option<u64>,
    ) -> Result<Arc<Object>, ApiError> {
        match at_least {
            None => {
                self.fresh().await?;
            }
            Some(revision) => self.wait_for(revision).await?,
        }
        if let Some(object) = self.cache(kind).get(namespace, name) {
            return Ok(object);
        }
        self.check_readable(kind, namespace, name)?;
        Err(ApiError::not_found(kind.group, kind.plural, name))
    }

    /// A Lease with the newest renewal that is known in memory; `None` where the stored one is the newest.
    pub(crate) fn overlaid(&self, kind: &'static Kind, object: &Object) -> Option<Bytes> {
        if kind.plural != "leases" {
            return None;
        }
        let overlay = self.config.leases.as_ref()?;
        let renewed = overlay.renew_time(&object.meta.namespace, &object.meta.name)?;
        let mut tree = object.value();
        let renewed = clock::rfc3339_micro(renewed);
        if value::text(&tree, "spec.renewTime") >= renewed.as_str() {
            return None;
        }
        value::set(&mut tree, "spec.renewTime", renewed);
        serde_json::to_vec(&tree).ok().map(Bytes::from)
    }

    /// The object's bytes as `kind` shows them, with what is known only in memory.
    pub(crate) fn shown(&self, kind: &'static Kind, object: &Object) -> Bytes {
        self.overlaid(kind, object)
            .unwrap_or_else(|| super::in_view(kind, object.bytes.clone()))
    }

    /// The current version for a write: the cache's, once it shows every acknowledged write.
    pub(crate) async fn current(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        self.fresh().await?;
        let current = self.cache(kind).0.get(&key(namespace, name));
        if current.is_none() {
            self.check_readable(kind, namespace, name)?;
        }
        Ok(current)
    }
}
