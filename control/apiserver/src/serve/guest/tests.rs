// SPDX-License-Identifier: Apache-2.0
//! Tests of how long a connection without a certificate may stay.

use std::time::Instant;

use super::super::pool::{Places, Pool};
use super::*;

fn guest() -> Guest {
    let pool = Pool::new(Places { total: 1, each: 1 });
    let source = Source::from(std::net::IpAddr::from([198, 18, 0, 1]));
    Guest::new(Arc::new(pool.enter(source, Instant::now())))
}

async fn lasts_ms(guest: &Guest) -> (Overstayed, u128) {
    let start = tokio::time::Instant::now();
    let why = guest.overstayed().await;
    (why, start.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_soon_and_an_idle_one_later() {
    let silent = guest();
    assert_eq!(lasts_ms(&silent).await, (Overstayed::Silent, 10_000));
    let idle = guest();
    drop(idle.request());
    assert_eq!(lasts_ms(&idle).await, (Overstayed::Idle, 30_000));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_does_not_keep_its_connection_for_ever() {
    let guest = guest();
    let _request = guest.request();
    assert_eq!(lasts_ms(&guest).await, (Overstayed::Old, 120_000));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_reset_at_once_are_counted() {
    let guest = guest();
    for _ in 0..=REQUESTS_MAX {
        drop(guest.request());
    }
    assert_eq!(lasts_ms(&guest).await.0, Overstayed::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_token_lifts_every_bound() {
    let guest = guest();
    let waiting = tokio::time::timeout(Duration::from_secs(3600), guest.overstayed());
    guest.prove();
    assert!(waiting.await.is_err(), "it may stay");
}
