// SPDX-License-Identifier: Apache-2.0
//! Reading one object.

use std::sync::Arc;

use bytes::Bytes;

use crate::ApiError;
use crate::core::Core;
use crate::object::Object;
use crate::registry::{Kind, key};

impl Core {
    /// The object as of now. `at_least`: a cached version that is at least this new is enough (0: any).
    pub(crate) async fn get(
        &self,
        kind: &Kind,
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
        if let Some(object) = self.cache(kind)?.get(namespace, name) {
            return Ok(object);
        }
        self.check_readable(kind, namespace, name)?;
        Err(ApiError::not_found(&kind.group, &kind.plural, name))
    }

    /// The object's bytes as `kind` shows them.
    pub(crate) fn shown(&self, kind: &Kind, object: &Object) -> Bytes {
        super::in_view(kind, object.bytes.clone())
    }

    /// The current version for a write: the cache's, once it shows every acknowledged write.
    pub(crate) async fn current(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        self.fresh().await?;
        let current = self.cache(kind)?.0.get(&key(namespace, name));
        if current.is_none() {
            self.check_readable(kind, namespace, name)?;
        }
        Ok(current)
    }
}
