// SPDX-License-Identifier: Apache-2.0
//! Runs every registered controller while this process leads.
//!
//! ```text
//! standby --gained--> running --lost--> stopping --all workers ended--> standby
//!                     running --shutdown, or a part failed--> stopping --> end
//! ```
//!
//! A term of leadership begins with informers and queues that are empty. It ends when the last worker has ended, and only
//! then may another process start its own workers. Informers end after the workers: no reconcile plans from views that have
//! stopped following.

use std::time::Duration;

use futures::FutureExt;
use knarr_apiserver::{ApiError, Client};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::controller::{Registration, Scope};
use crate::informers::Informers;
use crate::leadership::{Leadership, Term};
use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::settings::Settings;
use crate::shared::Shared;

/// How long reconciles may take to finish after the end of leadership; then they are dropped. Less than the time between
/// the moment at which a leader gives up renewing its Lease and the Lease's end, which upstream's defaults make 5 s.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Registers a controller.
pub type Register = fn(&Shared) -> Result<Registration, ApiError>;

/// The runner of all controllers.
#[derive(Debug)]
pub struct Runner {
    client: Client,
    settings: Settings,
    controllers: &'static [Register],
    metrics: Metrics,
}

/// Controllers at work.
struct Session {
    /// Ends where a controller ends.
    tasks: JoinSet<&'static str>,
    scope: Scope,
    informers: Informers,
    metrics: Metrics,
    /// Ends what is left when the runner is dropped.
    _end: [DropGuard; 2],
    /// Last, because fields are dropped in order: the elector hears that the term is over when no worker is left.
    _term: Term,
}

/// Why controllers stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    LostLeadership,
    Shutdown,
    Failure,
}

impl Runner {
    /// A runner of `controllers`, which is [`crate::CONTROLLERS`] outside tests.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        controllers: &'static [Register],
        metrics: Metrics,
    ) -> Self {
        Self {
            client,
            settings,
            controllers,
            metrics,
        }
    }

    /// Registers the controllers, where this process leads already, and returns what runs them until `shutdown`. It ends
    /// before that only by a failure, which is in the log.
    pub fn start(
        self,
        leadership: Leadership,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ApiError> {
        let first = leadership
            .begin()
            .map(|term| self.begin(term))
            .transpose()?;
        Ok(self.run(first, leadership, shutdown))
    }

    async fn run(
        self,
        mut session: Option<Session>,
        mut leadership: Leadership,
        shutdown: CancellationToken,
    ) {
        loop {
            if let Some(mut session) = session.take() {
                // Each arm only waits, so dropping it loses nothing.
                let cause = tokio::select! {
                    () = session.failed() => Cause::Failure,
                    () = leadership.lost() => Cause::LostLeadership,
                    () = shutdown.cancelled() => Cause::Shutdown,
                };
                tracing::info!(?cause, "the controllers stop");
                session.stop().await;
                if cause != Cause::LostLeadership {
                    return;
                }
            }
            // Each arm only waits, so dropping it loses nothing.
            tokio::select! {
                () = leadership.gained() => {}
                () = shutdown.cancelled() => return,
            }
            session = match leadership.begin().map(|term| self.begin(term)).transpose() {
                Ok(session) => session,
                Err(error) => {
                    tracing::error!(%error, "the controllers cannot be registered");
                    return;
                }
            };
        }
    }

    /// Registers every controller and starts all of them.
    fn begin(&self, term: Term) -> Result<Session, ApiError> {
        let (stop, stop_informers) = (CancellationToken::new(), CancellationToken::new());
        let end = [
            stop.clone().drop_guard(),
            stop_informers.clone().drop_guard(),
        ];
        let mut tasks = JoinSet::new();
        let informers = Informers::new(self.client.clone(), stop_informers);
        let (recorder, recording) = Recorder::new(self.client.clone(), stop.clone());
        let scope = Scope {
            stop: stop.clone(),
            tasks: TaskTracker::new(),
        };
        tasks.spawn(
            scope
                .tasks
                .track_future(recording.map(|()| "the recorder of events")),
        );
        let shared = Shared {
            client: self.client.clone(),
            informers: informers.clone(),
            recorder,
            metrics: self.metrics.clone(),
            settings: self.settings.clone(),
        };
        for register in self.controllers {
            let Registration { name, run } = register(&shared)?;
            let running = run(scope.clone()).map(move |()| name);
            tasks.spawn(scope.tasks.track_future(running));
        }
        Ok(Session {
            tasks,
            scope,
            informers,
            metrics: self.metrics.clone(),
            _end: end,
            _term: term,
        })
    }
}

impl Session {
    /// Returns when a part has ended that was not stopped.
    async fn failed(&mut self) {
        // Each arm only waits, so dropping it loses nothing.
        tokio::select! {
            () = self.informers.failed() => {}
            ended = self.tasks.join_next() => match ended {
                Some(Ok(name)) => tracing::error!(name, "a controller ended by itself"),
                Some(Err(error)) => tracing::error!(%error, "a controller panicked"),
                None => tracing::error!("there is no controller to run"),
            }
        }
    }

    /// Stops the workers, and then the informers.
    async fn stop(mut self) {
        self.scope.stop.cancel();
        self.scope.tasks.close();
        if tokio::time::timeout(STOP_WITHIN, self.scope.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("a reconcile did not finish in time and is dropped");
            self.tasks.shutdown().await;
            // A controller's end has its workers dropped; each ends where it next waits.
            self.scope.tasks.wait().await;
        }
        self.informers.end().await;
        // Informers' handlers add keys, so not before.
        self.metrics.reset_gauges();
    }
}

#[cfg(test)]
mod tests;
