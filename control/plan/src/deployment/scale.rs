// SPDX-License-Identifier: Apache-2.0
//! What a change of `spec.replicas` means for the sets, also in the middle of a rollout.

use super::Step;
use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, replicas_in};

impl Step<'_> {
    /// True when a set with pods was last scaled for another size of the Deployment.
    pub(super) fn is_scaled(&self) -> bool {
        self.sets
            .iter()
            .filter(|working| working.is_active())
            .filter_map(|working| replicas_in(&working.set, DESIRED_REPLICAS))
            .any(|desired| desired != self.replicas)
    }

    /// Gives the sets the sizes that the Deployment's size asks for. In the middle of a rolling update every
    /// set keeps its part of the whole.
    pub(super) fn scale(&mut self, new: Option<usize>) {
        let active: Vec<usize> = (0..self.sets.len())
            .filter(|index| self.sets[*index].is_active())
            .collect();
        let only = match active.as_slice() {
            // Nothing runs: the new set, or else the latest, takes it all.
            [] => new.or(self.sets.len().checked_sub(1)),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(only) = only {
            if self.sets[only].replicas() != self.replicas || self.is_marked_otherwise(only) {
                self.scale_set(only, self.replicas);
            }
            return;
        }
        if active.is_empty() {
            return;
        }
        if new.is_some_and(|new| self.is_saturated(new)) {
            for index in active.into_iter().filter(|index| Some(*index) != new) {
                self.scale_set(index, 0);
            }
            return;
        }
        if !self.is_recreate() {
            self.scale_in_proportion(active);
        }
    }

    fn is_marked_otherwise(&self, index: usize) -> bool {
        replicas_in(&self.sets[index].set, DESIRED_REPLICAS) != Some(self.replicas)
    }

    /// True when the new set alone is all that is wanted, and available.
    fn is_saturated(&self, new: usize) -> bool {
        let working = &self.sets[new];
        working.replicas() == self.replicas
            && replicas_in(&working.set, DESIRED_REPLICAS) == Some(self.replicas)
            && working.available() == self.replicas
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let allowed = if self.replicas > 0 {
            self.replicas + self.bounds.surge
        } else {
            0
        };
        let change = allowed
            - active
                .iter()
                .map(|index| self.sets[*index].replicas())
                .sum::<i32>();
        // The sets are in order of age: growing favours newer ones among equals, shrinking older ones.
        active.sort_by_key(|index| {
            let age = i64::try_from(*index).unwrap_or(i64::MAX);
            let size = self.sets[*index].replicas();
            (-size, if change > 0 { -age } else { age })
        });
        let mut given = 0;
        let mut sizes = Vec::new();
        for &index in &active {
            let share = self.share(index, change, given);
            given += share;
            sizes.push(self.sets[index].replicas() + share);
        }
        // What rounding left over goes to the biggest.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + change - given).max(0);
        }
        for (index, size) in active.into_iter().zip(sizes) {
            self.scale_set(index, size);
        }
    }

    fn share(&self, index: usize, change: i32, given: i32) -> i32 {
        let working = &self.sets[index];
        let size = working.replicas();
        if size == 0 || change == 0 || change == given {
            return 0;
        }
        let fraction = if self.replicas == 0 {
            -size
        } else {
            let status = self.deployment.status.as_ref();
            let before = replicas_in(&working.set, MAX_REPLICAS)
                .filter(|max| *max > 0)
                .or(status.and_then(|status| status.replicas))
                .unwrap_or(0);
            if before == 0 {
                return 0;
            }
            let max = f64::from(self.replicas + self.bounds.surge);
            let scaled = (f64::from(size) * max / f64::from(before)).round();
            #[expect(
                clippy::cast_possible_truncation,
                reason = "sizes of a Deployment are far inside the range of i32"
            )]
            let scaled = scaled as i32;
            scaled - size
        };
        let left = change - given;
        if change > 0 {
            fraction.clamp(0, left)
        } else {
            fraction.clamp(left, 0)
        }
    }
}
