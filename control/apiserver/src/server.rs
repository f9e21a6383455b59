// SPDX-License-Identifier: Apache-2.0
//! The API server as one value: made from a store, taken apart into a router and a client.

use std::future::Future;
use std::sync::Arc;

use knarr_store::Store;

use crate::client::Client;
use crate::core::Core;
use crate::{ApiConfig, OpenError, PartDied, http};

/// The API of one cluster. Clones share everything.
#[derive(Debug, Clone)]
pub struct ApiServer {
    core: Arc<Core>,
}

impl ApiServer {
    /// Fills the watch cache from the store and creates the namespaces that every cluster has
    /// (`default`, `kube-system`, `kube-public`, `kube-node-lease`).
    pub async fn open(store: Arc<dyn Store>, config: ApiConfig) -> Result<Self, OpenError> {
        let core = Core::open(store, config).await?;
        let server = Self { core };
        server
            .client()
            .ensure_namespaces()
            .await
            .map_err(OpenError::Bootstrap)?;
        Ok(server)
    }

    /// Calls inside the process: privileged, with the same defaults, validation, admission and conflicts as
    /// requests over the network.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(Arc::clone(&self.core))
    }

    /// Waits for the death of a task that the API depends on, which whoever runs the server has to answer by
    /// ending. Never returns while all is well. The future holds nothing of the server, and dropping it loses
    /// nothing.
    pub fn died(&self) -> impl Future<Output = PartDied> + Send + 'static {
        self.core.died()
    }

    /// The HTTP endpoints of the API. Every path that no other route of the final router takes belongs to it (404s
    /// as Kubernetes words them), so it has the fallback; merge routes with explicit paths into it. Requests carry a
    /// [`crate::PeerIdentity`] extension where the connection proves one; [`crate::serve::serve`] does that.
    pub fn router(&self) -> axum::Router {
        http::router(Arc::clone(&self.core))
    }
}
