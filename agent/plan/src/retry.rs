// SPDX-License-Identifier: Apache-2.0
//! When something that failed is worth another attempt: after a pause that doubles with each failure, up to
//! a bound.
//!
//! Not here: containers that end, which have Kubernetes' own delays (`backoff`). Times are since some
//! moment of the caller's. Called by the agent's feed for its journal.

use std::time::Duration;

/// Where a row of failures stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    first: Duration,
    max: Duration,
    /// The pause that the next failure makes.
    next: Duration,
    not_before: Duration,
}

impl Retry {
    /// Pauses from `first`, doubled with each failure, up to `max`.
    pub fn new(first: Duration, max: Duration) -> Retry {
        Retry {
            first,
            max,
            next: first,
            not_before: Duration::ZERO,
        }
    }

    /// The earliest moment for another attempt.
    pub fn not_before(&self) -> Duration {
        self.not_before
    }

    /// Notes a failure.
    pub fn failed(&mut self, now: Duration) {
        self.not_before = now.saturating_add(self.next);
        self.next = self.next.saturating_mul(2).min(self.max);
    }

    /// Notes that the row has ended.
    pub fn succeeded(&mut self) {
        *self = Retry::new(self.first, self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_a_success_forgets_them() {
        let s = Duration::from_secs;
        let mut retry = Retry::new(s(1), s(5));
        assert_eq!(retry.not_before(), s(0));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            retry.failed(s(100));
            pauses.push((retry.not_before() - s(100)).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 5, 5]);
        retry.succeeded();
        assert_eq!(retry, Retry::new(s(1), s(5)));
    }
}
