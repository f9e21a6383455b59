// SPDX-License-Identifier: Apache-2.0
//! Tests of how long a connection without a certificate may stay.

use std::time::Instant;

use super::super::pool::{Places, Pool};
use super::*;

fn anonymous() -> AnonymousConnection {
    let pool = Pool::new(Places { total: 1, each: 1 });
    let source = Source::from(std::net::IpAddr::from([198, 18, 0, 1]));
    AnonymousConnection::new(Arc::new(pool.enter(source, Instant::now())))
}

async fn lasts_ms(connection: &AnonymousConnection) -> (LimitReached, u128) {
    let start = tokio::time::Instant::now();
    let why = connection.limit_reached().await;
    (why, start.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_ends_soon_and_an_idle_one_later() {
    let silent = anonymous();
    assert_eq!(lasts_ms(&silent).await, (LimitReached::Silent, 10_000));
    let idle = anonymous();
    drop(idle.request());
    assert_eq!(lasts_ms(&idle).await, (LimitReached::Idle, 30_000));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_does_not_keep_its_connection_for_ever() {
    let connection = anonymous();
    let _request = connection.request();
    assert_eq!(lasts_ms(&connection).await, (LimitReached::Old, 120_000));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_reset_at_once_are_counted() {
    let connection = anonymous();
    for _ in 0..=REQUESTS_MAX {
        drop(connection.request());
    }
    assert_eq!(lasts_ms(&connection).await.0, LimitReached::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_token_lifts_every_bound() {
    let connection = anonymous();
    let waiting = tokio::time::timeout(Duration::from_secs(3600), connection.limit_reached());
    connection.prove();
    assert!(waiting.await.is_err(), "it may stay");
}
