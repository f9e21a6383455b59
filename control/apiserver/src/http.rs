// SPDX-License-Identifier: Apache-2.0
//! The HTTP face of the API.

use std::sync::Arc;

use axum::Router;

use crate::core::Core;

/// The router.
pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new().with_state(core)
}
