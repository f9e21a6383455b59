// SPDX-License-Identifier: Apache-2.0
//! When a pod whose worker panicked gets another: at once the first time, then later and later, so that a
//! panic that comes back every time does not keep the node busy.

use std::collections::BTreeMap;

use knarr_agent_plan::Millis;
use knarr_agent_plan::backoff::BackOff;

struct Failure {
    due_ms: Millis,
    back_off: BackOff,
}

/// By pod UID.
#[derive(Default)]
pub struct Failures(BTreeMap<String, Failure>);

impl Failures {
    /// Notes a failure; returns when another worker may begin.
    pub fn add(&mut self, uid: &str, now_ms: Millis) -> Millis {
        let before = self.0.get(uid).map(|f| f.back_off);
        let due_ms = BackOff::due(before, now_ms);
        let back_off = BackOff::next(before, now_ms, due_ms);
        self.0.insert(uid.to_owned(), Failure { due_ms, back_off });
        due_ms
    }

    /// A worker ended as it should, or the pod is not wanted any more.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// Pods with a failure.
    pub fn uids(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// Pods that have to wait.
    pub fn waiting(&self, now_ms: Millis) -> impl Iterator<Item = &String> {
        let waiting = self.0.iter().filter(move |(_, f)| f.due_ms > now_ms);
        waiting.map(|(uid, _)| uid)
    }

    /// When the next wait is over.
    pub fn next_due(&self, now_ms: Millis) -> Option<Millis> {
        let due = self.0.values().map(|f| f.due_ms);
        due.filter(|due| *due > now_ms).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_fails_again_and_again_is_started_later_and_later() {
        let mut failures = Failures::default();
        assert_eq!(failures.add("a", 1_000), 1_000);
        assert_eq!(failures.waiting(1_000).count(), 0);
        assert_eq!(failures.add("a", 2_000), 12_000);
        assert_eq!(failures.waiting(2_000).collect::<Vec<_>>(), ["a"]);
        assert_eq!(failures.next_due(2_000), Some(12_000));
        assert_eq!(failures.waiting(12_000).count(), 0);
        assert_eq!(failures.next_due(12_000), None);
        assert_eq!(failures.add("a", 13_000), 33_000);
        failures.forget("a");
        assert_eq!(failures.add("a", 14_000), 14_000);
    }
}
