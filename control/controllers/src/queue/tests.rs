// SPDX-License-Identifier: Apache-2.0
//! Tests of the work queue, with tokio's clock stopped.

use super::*;

fn queue() -> Queue<&'static str> {
    Queue::new(QueueMetrics::default())
}

#[tokio::test(start_paused = true)]
async fn a_key_waits_at_most_once() {
    let queue = queue();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.metrics.depth.get(), 2);
    assert_eq!(queue.next().await, "a");
    assert_eq!(queue.next().await, "b");
    assert_eq!(queue.metrics.depth.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_key_added_while_it_is_worked_on_comes_again_afterwards() {
    let queue = queue();
    queue.add("a");
    let key = queue.next().await;
    queue.add("a");
    assert_eq!(queue.metrics.depth.get(), 0);
    queue.done(&key, Outcome::Done);
    assert_eq!(queue.next().await, "a");
}

#[tokio::test(start_paused = true)]
async fn delays_are_kept() {
    let queue = queue();
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
    let queue = queue();
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
async fn a_key_has_one_timer_however_often_it_is_reconciled() {
    let queue = queue();
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

#[tokio::test(start_paused = true)]
async fn a_waiting_worker_is_woken_without_a_message() {
    let queue = queue();
    let waiting = queue.clone();
    let worker = tokio::spawn(async move { waiting.next().await });
    tokio::task::yield_now().await;
    queue.add("a");
    assert_eq!(worker.await.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn what_happens_to_keys_is_counted() {
    let queue = queue();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    assert_eq!(queue.metrics.adds.get(), 3);
    let key = queue.next().await;
    assert_eq!(queue.metrics.depth.get(), 1);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(
        queue.in_progress().upgrade().unwrap().in_progress(),
        [Duration::from_secs(3)]
    );
    queue.done(&key, Outcome::Retry);
    assert_eq!(queue.metrics.retries.get(), 1);
    assert!(
        queue
            .in_progress()
            .upgrade()
            .unwrap()
            .in_progress()
            .is_empty()
    );
}
