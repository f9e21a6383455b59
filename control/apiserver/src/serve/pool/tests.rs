// SPDX-License-Identifier: Apache-2.0
//! Tests of the places for connections: fixed cases, and random arrivals and departures.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn pool(total: usize, each: usize) -> Arc<Pool<&'static str>> {
    Pool::new(Places { total, each })
}

fn is_open(place: &Place<&'static str>) -> bool {
    !place.ended().is_cancelled()
}

#[test]
fn a_holder_without_a_place_left_loses_its_oldest_connection_and_nobody_else_one() {
    let now = Instant::now();
    let pool = pool(100, 2);
    let other = pool.enter("other", now);
    let attacker: Vec<_> = (0..5).map(|_| pool.enter("attacker", now)).collect();
    let open: Vec<_> = attacker.iter().map(is_open).collect();
    assert_eq!(open, [false, false, false, true, true]);
    assert!(is_open(&other));
    assert_eq!(pool.taken(), 3);
}

#[test]
fn where_all_places_are_taken_the_holder_with_most_gives_one() {
    let now = Instant::now();
    let pool = pool(4, 3);
    let few = pool.enter("few", now);
    let many: Vec<_> = (0..3).map(|_| pool.enter("many", now)).collect();
    let newcomer = pool.enter("newcomer", now);
    assert!(is_open(&few) && is_open(&newcomer));
    assert_eq!(many.iter().filter(|place| is_open(place)).count(), 2);
    assert!(!is_open(&many[0]));
}

#[test]
fn young_connections_keep_their_places_for_a_moment() {
    let now = Instant::now();
    let pool = pool(2, 2);
    assert!(pool.has_room(now));
    let places = [pool.enter("a", now), pool.enter("b", now)];
    assert!(!pool.has_room(now));
    let later = now + Duration::from_millis(AGE_MS_MIN);
    assert!(pool.has_room(later));
    // One that has proved itself needs no place any more.
    places[0].leave();
    assert!(pool.has_room(now));
    assert!(is_open(&places[0]));
}

#[test]
fn addresses_of_one_ipv6_network_are_one_source() {
    let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
    assert_eq!(source("2001:2::1"), source("2001:2::ffff:1"));
    assert_ne!(source("2001:2::1"), source("2001:2:0:1::1"));
    assert_eq!(source("::ffff:198.18.0.1"), source("198.18.0.1"));
    assert_ne!(source("198.18.0.1"), source("198.18.0.2"));
}

#[test]
fn whatever_comes_and_goes_the_bounds_hold_and_places_are_given_back() {
    let holders = ["a", "b", "c", "d", "e"];
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let (total, each) = (random.random_range(1..8), random.random_range(1..5));
        let pool = pool(total, each);
        let mut places = Vec::new();
        for _ in 0..100 {
            if places.is_empty() || random.random_bool(0.7) {
                let holder = holders[random.random_range(0..holders.len())];
                let place = pool.enter(holder, Instant::now());
                assert!(is_open(&place), "a newcomer is let in");
                places.push(place);
            } else {
                places.swap_remove(random.random_range(0..places.len()));
            }
            let open: Vec<_> = places.iter().filter(|place| is_open(place)).collect();
            assert_eq!(open.len(), pool.taken(), "seed {seed}");
            assert!(open.len() <= total, "seed {seed}");
            for holder in holders {
                let held = open.iter().filter(|place| place.holder == holder).count();
                assert!(held <= each, "seed {seed}");
            }
        }
        drop(places);
        assert_eq!(pool.taken(), 0);
        assert!(pool.state().holders.is_empty());
    }
}
