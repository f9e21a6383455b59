// SPDX-License-Identifier: Apache-2.0
//! Tests of what waits for what.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;

/// As many as an agent keeps for a control plane that was away.
const BURST: usize = 512;

fn event(index: usize) -> Report {
    let mut event = Event::default();
    event.metadata.name = Some(format!("event-{index}"));
    Report::Event(Box::new(event))
}

fn number_of(report: &Report) -> usize {
    match report {
        Report::Event(event) => {
            let name = event.metadata.name.as_deref().unwrap();
            name.strip_prefix("event-").unwrap().parse().unwrap()
        }
        other => panic!("{other:?}"),
    }
}

fn pod(uid: usize, count: usize) -> Report {
    Report::Pod(PodReport {
        uid: uid.to_string(),
        name: count.to_string(),
        ..PodReport::default()
    })
}

#[tokio::test]
async fn a_burst_of_events_holds_up_neither_pods_nor_the_node_and_is_not_lost() {
    let may_write = Arc::new(Semaphore::new(0));
    let applied: Arc<Mutex<Vec<Report>>> = Arc::default();
    let (permits, seen) = (may_write.clone(), applied.clone());
    let lanes = Lanes::start(move |report| {
        let (permits, seen) = (permits.clone(), seen.clone());
        async move {
            if matches!(report, Report::Event(_)) {
                permits.acquire().await.unwrap().forget();
            }
            seen.lock().push(report);
        }
    });
    let said = async {
        for index in 0..BURST {
            lanes.send(event(index)).await.unwrap();
        }
        for count in 0..3 {
            for uid in 0..20 {
                lanes.send(pod(uid, count)).await.unwrap();
            }
        }
        lanes.send(Report::Heard).await.unwrap();
        while applied.lock().len() < 61 {
            tokio::task::yield_now().await;
        }
    };
    let patience = Duration::from_secs(20);
    assert!(tokio::time::timeout(patience, said).await.is_ok());
    let mut counts = vec![Vec::new(); 20];
    for report in applied.lock().iter() {
        match report {
            Report::Pod(report) => {
                counts[report.uid.parse::<usize>().unwrap()].push(report.name.clone());
            }
            other => assert!(matches!(other, Report::Heard), "{other:?}"),
        }
    }
    assert!(counts.iter().all(|counts| counts[..] == ["0", "1", "2"]));
    may_write.add_permits(BURST);
    lanes.finish().await;
    assert_eq!(applied.lock().len(), 61 + BURST);
}

#[tokio::test]
async fn events_about_one_object_are_written_in_the_order_in_which_they_were_said() {
    let may_write = Arc::new(Semaphore::new(0));
    let applied: Arc<Mutex<Vec<usize>>> = Arc::default();
    let (permits, seen) = (may_write.clone(), applied.clone());
    let lanes = Lanes::start(move |report| {
        let (permits, seen) = (permits.clone(), seen.clone());
        async move {
            let number = number_of(&report);
            if number == 0 {
                permits.acquire().await.unwrap().forget();
            }
            seen.lock().push(number);
        }
    });
    let all: Vec<usize> = (0..20).collect();
    for index in &all {
        lanes.send(event(*index)).await.unwrap();
    }
    // Time for the others, if they were in lanes of their own.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(applied.lock().is_empty());
    may_write.add_permits(1);
    lanes.finish().await;
    assert_eq!(*applied.lock(), all);
}

#[tokio::test]
async fn a_report_that_panics_ends_the_session_and_is_not_passed_over() {
    let mut lanes = Lanes::start(|report| async move {
        assert!(!matches!(report, Report::Gone(_)), "on purpose");
    });
    lanes.send(Report::Gone(PodGone::default())).await.unwrap();
    lanes.broken().await;
    let again = lanes.send(Report::Gone(PodGone::default())).await;
    assert_eq!(again, Err(LaneEnded));
}
