// SPDX-License-Identifier: Apache-2.0
//! Pauses of random length, so that many programs that failed together do not come back together.
//!
//! Not for plan crates: they get random numbers as arguments.

use std::time::Duration;

use rand::Rng;

/// A random time between half of `pause` and all of it, in whole milliseconds.
pub fn jitter(pause: Duration) -> Duration {
    let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(rand::rng().random_range(ms / 2..=ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_at_least_half_and_at_most_all_of_it() {
        let whole = Duration::from_millis(100);
        let seen: Vec<Duration> = (0..1_000).map(|_| jitter(whole)).collect();
        assert!(
            seen.iter()
                .all(|pause| *pause >= whole / 2 && *pause <= whole)
        );
        assert!(seen.iter().any(|pause| *pause != seen[0]));
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
