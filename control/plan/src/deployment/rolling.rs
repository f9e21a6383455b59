// SPDX-License-Identifier: Apache-2.0
//! One step from old pods to new ones, by rolling update or by recreation.

use super::Step;

impl Step<'_> {
    /// The size that the new set may have now, with `current` being its present one.
    pub(super) fn new_set_size(&self, current: i32) -> i32 {
        if self.is_recreate() {
            return self.replicas;
        }
        let room = self.replicas + self.bounds.surge - self.total_replicas();
        if room <= 0 {
            return current;
        }
        current + room.min(self.replicas - current)
    }

    /// A rolling update: first up with the new, then down with the old, each as far as the bounds allow.
    pub(super) fn roll(&mut self) {
        let new = self.sync_new_set();
        let is_created = new.is_none();
        let scaled =
            is_created || new.is_some_and(|new| self.scale_new(new)) || self.scale_old_down(new);
        if !scaled && self.is_complete(new) {
            self.clean_up(new);
        }
        self.plan_rollout_status(new);
    }

    /// All old pods go before the first new one is made.
    pub(super) fn roll_by_recreation(&mut self, sets_with_pods: &[String]) {
        let mut new = self.sync_existing_new_set();
        let old: Vec<usize> = self
            .old(new)
            .filter(|index| self.sets[*index].is_active())
            .collect();
        if !old.is_empty() {
            for index in old {
                self.scale_set(index, 0);
            }
            self.plan_rollout_status(new);
            return;
        }
        let old_run = self.old(new).any(|index| {
            let uid = self.sets[index].set.metadata.uid.as_ref();
            uid.is_some_and(|uid| sets_with_pods.contains(uid))
        });
        if old_run {
            self.plan_rollout_status(new);
            return;
        }
        if new.is_none() {
            new = self.sync_new_set();
        } else if let Some(new) = new {
            self.scale_new(new);
        }
        if self.is_complete(new) {
            self.clean_up(new);
        }
        self.plan_rollout_status(new);
    }

    fn scale_new(&mut self, new: usize) -> bool {
        let current = self.sets[new].replicas();
        let size = if current > self.replicas {
            self.replicas
        } else {
            self.new_set_size(current)
        };
        if size == current {
            return false;
        }
        self.scale_set(new, size);
        true
    }

    /// Takes old pods away: first those that are not available anyway, then available ones as far as enough
    /// others are available.
    fn scale_old_down(&mut self, new: Option<usize>) -> bool {
        let old: Vec<usize> = self
            .old(new)
            .filter(|index| self.sets[*index].is_active())
            .collect();
        if old.is_empty() {
            return false;
        }
        let min_available = self.replicas - self.bounds.unavailable;
        let new_unavailable = new.map_or(0, |new| {
            self.sets[new].replicas() - self.sets[new].available()
        });
        let most = self.total_replicas() - min_available - new_unavailable;
        if most <= 0 {
            return false;
        }
        let mut gone = 0;
        for &index in &old {
            let working = &self.sets[index];
            let idle = (working.replicas() - working.available()).min(most - gone);
            if idle > 0 {
                gone += idle;
                self.scale_set(index, self.sets[index].replicas() - idle);
            }
        }
        let available: i32 = self.sets.iter().map(super::Working::available).sum();
        let mut spare = available - min_available;
        for &index in &old {
            let down = self.sets[index].replicas().min(spare);
            if down > 0 {
                spare -= down;
                gone += down;
                self.scale_set(index, self.sets[index].replicas() - down);
            }
        }
        gone > 0
    }
}
