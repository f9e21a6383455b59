// SPDX-License-Identifier: Apache-2.0
//! `/healthz` and `/metrics` for the machine's own administrator, over loopback or a unix socket.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use knarr_datapath::DatapathError;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::config::ConfigError;
use crate::datapath::SharedDatapath;
use crate::metrics::Metrics;

/// Where it listens.
pub enum HealthListener {
    /// Nowhere.
    Off,
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Why it cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The option.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The kernel says no.
    #[error(
        "cannot listen on {at} for /healthz and /metrics; choose another place with --health-listen, or \
         `off`"
    )]
    Listen {
        /// Where.
        at: String,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl HealthListener {
    /// `off`, `HOST:PORT` or an absolute path.
    pub async fn bind(at: &str) -> Result<HealthListener, HealthError> {
        let fail = |source| HealthError::Listen {
            at: at.to_owned(),
            source,
        };
        if at == "off" {
            return Ok(HealthListener::Off);
        }
        if at.starts_with('/') {
            let path = PathBuf::from(at);
            crate::files::remove(&path).map_err(fail)?;
            return Ok(HealthListener::Unix(
                UnixListener::bind(&path).map_err(fail)?,
            ));
        }
        let address: std::net::SocketAddr = at.parse().map_err(|_| ConfigError::Value {
            option: "health-listen",
            value: at.to_owned(),
            what: "is neither `off`, nor ADDRESS:PORT, nor the path of a socket".to_owned(),
        })?;
        Ok(HealthListener::Tcp(
            TcpListener::bind(address).await.map_err(fail)?,
        ))
    }
}

/// What is served from.
#[derive(Clone)]
pub struct Health {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The datapath's own statistics.
    pub datapath: Option<SharedDatapath>,
}

impl Health {
    /// Serves until `shutdown`.
    pub async fn run(self, listener: HealthListener, shutdown: CancellationToken) {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        let ended = shutdown.clone().cancelled_owned();
        let served = match listener {
            HealthListener::Off => {
                // The task lasts as long as the others: one that ends by itself ends the agent.
                ended.await;
                Ok(())
            }
            HealthListener::Tcp(tcp) => {
                axum::serve(tcp, router).with_graceful_shutdown(ended).await
            }
            HealthListener::Unix(unix) => {
                axum::serve(unix, router)
                    .with_graceful_shutdown(ended)
                    .await
            }
        };
        if let Err(error) = served {
            tracing::error!(%error, "/healthz and /metrics are not served any more");
        }
    }
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    if health.metrics.is_connected() {
        return (StatusCode::OK, "ok".to_owned());
    }
    let mut text = "not connected to the control plane".to_owned();
    if let Some(why) = health.metrics.refusal() {
        let _ = write!(text, ": {why}");
    }
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn metrics(State(health): State<Health>) -> (StatusCode, String) {
    let Ok(mut text) = health.metrics.text() else {
        return (StatusCode::INTERNAL_SERVER_ERROR, String::new());
    };
    if let Some(datapath) = &health.datapath {
        // Beside the datapath's writers: walking its maps must not keep pods and endpoints waiting.
        let inspector = datapath.inspector().clone();
        let read = knarr_base::blocking::run(move || {
            Ok::<_, DatapathError>((inspector.stats()?, inspector.usage()?))
        })
        .await;
        match read {
            Ok((stats, usage)) => {
                // OpenMetrics ends with this line; ours come before it.
                let end = text.trim_end_matches("# EOF\n").len();
                text.truncate(end);
                for (name, value) in stats {
                    let _ = writeln!(
                        text,
                        "knarr_datapath_events_total{{event=\"{name}\"}} {value}"
                    );
                }
                for (map, entries, max) in usage {
                    let _ = writeln!(
                        text,
                        "knarr_datapath_map_entries{{map=\"{map}\"}} {entries}"
                    );
                    let _ = writeln!(
                        text,
                        "knarr_datapath_map_entries_max{{map=\"{map}\"}} {max}"
                    );
                }
                text.push_str("# EOF\n");
            }
            Err(error) => tracing::debug!(%error, "the datapath's statistics cannot be read"),
        }
    }
    (StatusCode::OK, text)
}
