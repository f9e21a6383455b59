// SPDX-License-Identifier: Apache-2.0
//! Waiting with a bound: no test sleeps and hopes, and none waits for ever.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks. A look is often a run of kubectl, which takes a core for 100 ms or more.
const POLL: Duration = Duration::from_millis(250);

/// Looks until it is so, and returns what was found.
///
/// # Panics
/// When it is not so after the limit, with what was seen last.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= end => panic!(
                "{what}: not so after {} s; seen last: {seen}",
                limit.as_secs()
            ),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Looks for the whole time that it is so.
///
/// # Panics
/// As soon as it is not so.
pub fn stays(what: &str, time: Duration, mut look: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if let Err(seen) = look() {
            panic!("{what}: no longer so: {seen}");
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_so_in_time_is_returned() {
        let mut looks = 0;
        let found = eventually("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 {
                Ok(looks)
            } else {
                Err(looks.to_string())
            }
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "seen last: still not")]
    fn what_never_becomes_so_fails_with_what_was_seen() {
        eventually::<()>("never", Duration::from_millis(10), || {
            Err("still not".to_owned())
        });
    }

    #[test]
    #[should_panic(expected = "no longer so")]
    fn what_stops_being_so_fails_at_once() {
        let mut looks = 0;
        stays("two looks", Duration::from_secs(60), || {
            looks += 1;
            if looks < 3 {
                Ok(())
            } else {
                Err("gone".to_owned())
            }
        });
    }
}
