// SPDX-License-Identifier: Apache-2.0
//! The control plane as one value: [`run`] wires store, API server, node feed and controllers together.
//!
//! Everything that decides is elsewhere: `knarr-control-plan` for controllers, scheduler and feed, `knarr-controllers` for
//! what drives them, `knarr-apiserver` for the API. Called by `main` through [`commands`], and by tests with listeners of
//! their own.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod clock;
pub mod commands;
pub mod config;
pub mod election;
pub mod enrollment;
pub mod feed;
pub mod listen;
pub mod metrics;
pub mod pki;
pub mod services;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use knarr_apiserver::{ApiConfig, ApiError, ApiServer};
use knarr_control_plan::pod_cidr::{PodCidrError, PodCidrs};
use knarr_controllers::{CONTROLLERS, Runner};
use knarr_store::{Embedded, Options, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use config::Config;
use enrollment::{Enrollment, Patience};
use feed::{Feed, FeedSettings, Heartbeats, Hub, Streams};
use pki::Pki;
use services::ServiceRanges;

/// Paths of the node feed; everything else is the API's.
const FEED_PATHS: &str = "/knarr.feed.v1.";
/// The store's file in the data directory.
const STORE_FILE: &str = "store.redb";

/// What is made before the control plane runs, by whoever starts it.
#[derive(Debug)]
pub struct Services {
    /// Sockets to serve.
    pub listeners: Vec<TcpListener>,
}

/// Why the control plane could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The data directory or its certificates.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// The store.
    #[error(transparent)]
    Store(#[from] knarr_store::OpenError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] knarr_apiserver::OpenError),
    /// What every cluster has could not be made.
    #[error("cannot make the Service default/kubernetes")]
    Bootstrap(#[from] ApiError),
    /// The range of pod addresses.
    #[error("cannot divide the range of pod addresses")]
    PodRange(#[from] PodCidrError),
    /// A part of the control plane ended although nobody asked it to.
    #[error("a part of the control plane failed; the log says which")]
    Part,
    /// A part of the control plane panicked.
    #[error("a part of the control plane failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs the control plane until `shutdown`, then ends what is open and closes the store.
pub async fn run(
    config: Config,
    services: Services,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    // The store's lock comes first: beside a running control plane nothing of the data directory may be written, least
    // of all the admin's kubeconfig with an address where nobody serves.
    pki::private_dir(&config.data_dir)?;
    let path = config.data_dir.join(STORE_FILE);
    let options = Options {
        history_bytes: config.history_bytes,
        ..Options::default()
    };
    let store = Embedded::open(&path, options)?;
    // Whatever happens from here on, the store is closed in order.
    let result = match Pki::open(&config, clock::utc()) {
        Ok(pki) => run_with_store(&config, services, Arc::new(pki), store.clone(), shutdown).await,
        Err(error) => Err(error.into()),
    };
    store.close().await;
    result
}

async fn run_with_store(
    config: &Config,
    services: Services,
    pki: Arc<Pki>,
    store: Embedded,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    // Parts end together: a part that cannot go on cancels this, and the caller's token stays as it is.
    let asked = shutdown;
    let shutdown = asked.child_token();
    let embedded = store.clone();
    let sharing = store.sharing();
    let store: Arc<dyn Store> = Arc::new(store);
    let heartbeats = Arc::new(Heartbeats::default());
    let streams = Arc::new(Streams::default());
    let api = ApiServer::open(store.clone(), api_config(config, &streams)).await?;
    let client = api.client();
    bootstrap::ensure_kubernetes_service(&client, config).await?;

    let hub = Hub::new(uuid::Uuid::new_v4().to_string());
    let enrollment = Enrollment::new(
        client.clone(),
        pki.authority(),
        heartbeats.clone(),
        config.node_certificate_lifetime,
        Patience {
            heard: config.heartbeat * 2,
            start: config.node_monitor_grace_period,
        },
    );
    let feed = Feed::new(
        client.clone(),
        hub.clone(),
        heartbeats.clone(),
        streams,
        feed_settings(config),
        Arc::new(enrollment),
    );
    let controller_metrics = knarr_controllers::Metrics::default();
    let sources = metrics::Sources {
        store,
        feed: feed.clone(),
        controllers: controller_metrics.clone(),
    };
    let router = routes(api.router(), feed.router(), sources);
    pki.write_local_url(&config.local_url())?;

    // Every task ends at `shutdown`; a task that panics brings the others down with it.
    let mut tasks = JoinSet::new();
    tasks.spawn(hub.run(client.clone(), shutdown.clone()));
    tasks.spawn(watch_over(embedded, api.died(), shutdown.clone()));
    let settings = controller_settings(config, heartbeats, &pki)?;
    let runner = Runner::new(client.clone(), settings, CONTROLLERS, controller_metrics);
    // Registered before the API is served: every other Node is created later, and the node controller records it.
    let leadership = election::join(sharing, &client, &shutdown, &mut tasks);
    tasks.spawn(runner.start(leadership, shutdown.clone())?);
    let stop = shutdown.clone();
    let feed_for_nodes = feed.clone();
    tasks.spawn(async move {
        stop.cancelled().await;
        feed.end().await;
    });
    tasks.spawn(feed_for_nodes.follow_nodes(shutdown.clone()));
    let renewal = shutdown.clone();
    let tls = pki.tls();
    tasks.spawn(async move { pki.keep_renewed(renewal).await });
    tasks.spawn(knarr_apiserver::serve::serve(
        services.listeners,
        tls,
        router,
        config.anonymous_connections_max,
        shutdown.clone(),
    ));
    tracing::info!(url = config.advertise_url, "the control plane is up");
    say_ready();
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        if !shutdown.is_cancelled() {
            tracing::error!("a part of the control plane ended by itself, so all of it ends");
            shutdown.cancel();
        }
        if let Err(error) = ended {
            result = Err(error.into());
        }
    }
    if result.is_ok() && !asked.is_cancelled() {
        result = Err(RunError::Part);
    }
    tracing::info!("the control plane has ended");
    result
}

/// Tells systemd, where it started this (sd_notify(3)): `systemctl start` returns when the API can be asked.
fn say_ready() {
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd cannot be told that the control plane is up");
    }
}

/// Ends when something that everything depends on has died, which ends the rest; or at `shutdown`.
async fn watch_over(
    store: Embedded,
    api_died: impl Future<Output = knarr_apiserver::PartDied>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        // Each of the three only waits, so dropping it loses nothing.
        died = store.died() => tracing::error!(error = %knarr_base::chain(&died), "the store has failed"),
        died = api_died => tracing::error!(error = %knarr_base::chain(&died), "the API server has failed"),
        () = shutdown.cancelled() => {}
    }
}

/// The commit that the program was built from, in hexadecimal digits; zeros where it is not known.
pub(crate) const BUILD_COMMIT: &str = env!("KNARR_BUILD_COMMIT");

fn api_config(config: &Config, streams: &Arc<Streams>) -> ApiConfig {
    let ranges = ServiceRanges {
        addresses: config.service_cidr,
        ports: config.node_ports,
    };
    let mut api = ApiConfig::new(Arc::new(ranges), streams.clone());
    api.not_ready_toleration_seconds = config.not_ready_toleration_seconds;
    api.unreachable_toleration_seconds = config.unreachable_toleration_seconds;
    api.git_commit = BUILD_COMMIT.to_owned();
    api.git_tree_state = env!("KNARR_BUILD_TREE_STATE").to_owned();
    // `build.rs` has checked that it is a number.
    api.build_time_s = env!("KNARR_BUILD_TIME_S").parse().unwrap_or(0);
    api.advertised = Some(SocketAddr::new(
        config.advertise_address,
        config.advertise_port,
    ));
    api
}

fn controller_settings(
    config: &Config,
    heartbeats: Arc<Heartbeats>,
    pki: &Pki,
) -> Result<knarr_controllers::Settings, RunError> {
    Ok(knarr_controllers::Settings {
        heartbeats,
        node_monitor_grace_period: config.node_monitor_grace_period,
        pod_cidrs: PodCidrs::new(config.cluster_cidr, config::NODE_PREFIX)?,
        ca_pem: pki.authority().certificate_pem().to_owned(),
    })
}

fn feed_settings(config: &Config) -> FeedSettings {
    FeedSettings {
        service_cidrs: vec![config.service_cidr.to_string()],
        cluster_cidrs: vec![config.cluster_cidr.to_string()],
        cluster_domain: config.cluster_domain.clone(),
        node_ports: config.node_ports.range(),
        heartbeat: config.heartbeat,
    }
}

/// One router for one port: the feed's paths to the feed, everything else to the API.
fn routes(api: Router, feed: Router, sources: metrics::Sources) -> Router {
    let to_feed = move |request: Request, next: Next| {
        let feed = feed.clone();
        async move {
            if request.uri().path().starts_with(FEED_PATHS) {
                // A router's error type is Infallible.
                feed.oneshot(request).await.into_response()
            } else {
                next.run(request).await
            }
        }
    };
    let add_metrics =
        move |request: Request, next: Next| metrics::extend(sources.clone(), request, next);
    api.layer(middleware::from_fn(add_metrics))
        .layer(middleware::from_fn(to_feed))
}
