// SPDX-License-Identifier: Apache-2.0
//! Tests of the work queue, with tokio's clock stopped.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_key_waits_at_most_once() {
    let queue = Queue::new();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.next().await, "a");
    assert_eq!(queue.next().await, "b");
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
    let queue = Queue::new();
    queue.add("a");
    let key = queue.next().await;
    queue.add("a");
    assert!(queue.is_empty());
    queue.done(&key, Outcome::Done);
    assert_eq!(queue.next().await, "a");
}

#[tokio::test(start_paused = true)]
async fn delays_are_kept() {
    let queue = Queue::new();
    let start = Instant::now();
    queue.add_after("late", Duration::from_secs(5));
    queue.add_after("early", Duration::from_secs(1));
    assert_eq!(queue.next().await, "early");
    assert_eq!(start.elapsed().as_secs(), 1);
    assert_eq!(queue.next().await, "late");
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_less_and_less_often_until_one_succeeds() {
    let queue = Queue::new();
    queue.add("a");
    let mut waits = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        let key = queue.next().await;
        waits.push(start.elapsed());
        queue.done(&key, Outcome::Retry);
    }
    assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
    assert_eq!(waits.last(), Some(&RETRY_MAX));
    let key = queue.next().await;
    queue.done(&key, Outcome::Done);
    queue.add("a");
    let key = queue.next().await;
    queue.done(&key, Outcome::Retry);
    let start = Instant::now();
    queue.next().await;
    assert!(start.elapsed() <= RETRY_FIRST + Duration::from_millis(1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_keys_failure_and_work_goes_on() {
    let queue = Queue::new();
    let shutdown = CancellationToken::new();
    let good = Arc::new(AtomicU32::new(0));
    queue.add("bad");
    queue.add("good");
    let counted = good.clone();
    let work = queue.clone().work(2, shutdown.clone(), move |key| {
        let good = counted.clone();
        async move {
            assert_ne!(key, "bad", "as the test wants");
            good.fetch_add(1, Ordering::SeqCst);
            Outcome::Done
        }
    });
    let worker = tokio::spawn(work);
    tokio::time::sleep(Duration::from_secs(1)).await;
    shutdown.cancel();
    worker.await.unwrap();
    assert_eq!(good.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_has_one_timer_however_often_it_is_looked_at() {
    let queue = Queue::new();
    for _ in 0..10 {
        queue.add("a");
        let key = queue.next().await;
        queue.done(&key, Outcome::After(Duration::from_secs(5)));
    }
    let start = Instant::now();
    let key = queue.next().await;
    queue.done(&key, Outcome::Done);
    assert_eq!(start.elapsed().as_secs(), 5);
    let again = tokio::time::timeout(Duration::from_secs(60), queue.next()).await;
    assert!(again.is_err(), "it came a second time");
}
