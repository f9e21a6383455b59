// SPDX-License-Identifier: Apache-2.0
//! What the runner gives to every controller when it registers.

use knarr_apiserver::Client;

use crate::informers::Informers;
use crate::metrics::Metrics;
use crate::recorder::Recorder;
use crate::settings::Settings;

/// The parts that controllers share during one term of leadership.
#[derive(Debug)]
pub struct Shared {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) settings: Settings,
}

impl Shared {
    /// The API.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The informers that all controllers share.
    #[must_use]
    pub fn informers(&self) -> &Informers {
        &self.informers
    }

    /// A recorder for the events of `source`.
    #[must_use]
    pub fn recorder(&self, source: &'static str) -> Recorder {
        self.recorder.of_source(source)
    }

    /// What the control plane was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
