// SPDX-License-Identifier: Apache-2.0
//! The one place that reads the wall clock. Plans get its value as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use knarr_agent_plan::Millis;

/// Milliseconds since 1970.
pub fn now_ms() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| {
        Millis::try_from(d.as_millis()).unwrap_or(Millis::MAX)
    })
}

/// What a pod's worker reads the time from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The wall clock.
    System,
    /// Tokio's clock, which tests pause, from this moment and these milliseconds on.
    #[cfg(test)]
    Tokio(tokio::time::Instant, Millis),
}

impl Clock {
    /// Milliseconds since 1970.
    pub fn now_ms(self) -> Millis {
        match self {
            Clock::System => now_ms(),
            #[cfg(test)]
            Clock::Tokio(since, since_ms) => {
                since_ms + Millis::try_from(since.elapsed().as_millis()).unwrap_or(Millis::MAX)
            }
        }
    }

    /// How long from now until `at_ms`; zero when it has passed.
    pub fn until(self, at_ms: Millis) -> Duration {
        between(self.now_ms(), at_ms)
    }
}

fn between(now_ms: Millis, at_ms: Millis) -> Duration {
    let left = at_ms.saturating_sub(now_ms);
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

/// How long from now until `at_ms`; zero when it has passed.
pub fn until(at_ms: Millis) -> Duration {
    between(now_ms(), at_ms)
}
