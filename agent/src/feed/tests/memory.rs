// SPDX-License-Identifier: Apache-2.0
//! What many Services cost the threads of a running agent in memory, and that it comes back: feed, journal, desired state
//! and the table together, with the program's own runtime. A start from what such a time left in the journal, too.
//!
//! Each test runs itself again in a process of its own, where the allocator can be set before any thread starts.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use knarr_api::feed::change::Change as Kind;
use knarr_ebpf_common::MapContents;
use knarr_services::ServiceTable;

use super::*;
use crate::desired::disk::Journal;
use crate::memory::Bursts;
use crate::services::memory::{
    CHANGES, LEFT_BYTES_MAX, SERVICES, anonymous_bytes, remove, resident_bytes, set, take,
};

/// What that process leaves behind when it has come to its end, so that a name that fits no test is noticed.
const DONE: &str = "done";
/// Set for the process that does the work: where it may write.
const OWN_PROCESS: &str = "KNARR_TEST_OWN_PROCESS";
/// For a Service with three endpoints, with what the allocator cannot fill.
const BYTES_MAX: u64 = 3_000;
/// How soon memory has to be back.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A journal of which nearly everything is out of date has no more.
const JOURNAL_BYTES_MAX: u64 = 512 << 10;
/// For the loop of this test, which has no maps to write.
const COALESCE: Duration = Duration::from_millis(2);

/// Runs the test of this name again, alone in a process.
fn run_again(name: &str, dir: &Path) {
    let name = format!("feed::tests::memory::{name}");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args([&name, "--exact", "--nocapture", "--test-threads=1"])
        .env(OWN_PROCESS, dir)
        .status()
        .expect("runs");
    assert!(status.success(), "{status}");
    assert!(dir.join(DONE).exists(), "{name} is no test");
}

/// The last act of the process that does the work.
fn done(dir: &OsStr) {
    std::fs::write(Path::new(dir).join(DONE), "").expect("writes");
}

/// All of it, in messages as the control plane sends them.
fn messages(kinds: impl Fn(u32) -> Vec<Kind>, snapshot: Snapshot) -> impl Iterator<Item = Delta> {
    let per_message = u32::try_from(CHANGES / 4).expect("few");
    (0..SERVICES / per_message + 1).map(move |part| {
        let numbers = part * per_message..SERVICES.min((part + 1) * per_message);
        let changes = numbers.flat_map(&kinds);
        Delta {
            version: 1,
            changes: changes.map(|kind| Change { change: Some(kind) }).collect(),
            snapshot: snapshot.into(),
        }
    })
}

/// The loop of `Services` without maps: takes, plans, and counts for those who give memory back.
async fn follow_services(desired: Arc<Desired>, bursts: Arc<Bursts>) {
    let start = Instant::now();
    let mut table = ServiceTable::restore(NODE, &MapContents::default());
    let mut changes = desired.watch_services();
    loop {
        changes.borrow_and_update();
        take(&desired, &mut table);
        bursts.add(table.plan(start.elapsed()).ops.len());
        let wake = table.next_wake().unwrap_or(Duration::MAX);
        // Both arms only wait.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wake.saturating_sub(start.elapsed()).max(COALESCE)) => {}
        }
    }
}

async fn serve_many_services() {
    let mut lab = Lab::new((3600, 3600), 3600).await;
    let agent = lab.agent().await;
    let bursts = Arc::new(Bursts::default());
    tokio::spawn(follow_services(agent.desired.clone(), bursts.clone()));
    tokio::spawn(crate::memory::follow(bursts, agent.shutdown.clone()));
    let mut session = lab.session().await;
    session.welcome("e1", false).await;
    session.pods(1, Snapshot::Last, &["a"]).await;
    session.hear_ack(1).await;
    let before = anonymous_bytes();

    session.welcome("e2", false).await;
    for delta in messages(set, Snapshot::Part) {
        session.tell(to_node::Message::Delta(delta)).await;
    }
    session.pods(2, Snapshot::Last, &["a"]).await;
    session.hear_ack(2).await;
    tokio::time::sleep(COALESCE * 100).await;
    let full = anonymous_bytes();
    let each = full.saturating_sub(before) / u64::from(SERVICES);
    assert!(each <= BYTES_MAX, "{each} bytes for a Service");

    for delta in messages(remove, Snapshot::None) {
        session.tell(to_node::Message::Delta(delta)).await;
    }
    session.pods(3, Snapshot::None, &["b"]).await;
    session.hear_ack(3).await;
    let deadline = Instant::now() + BACK_WITHIN;
    let left = loop {
        let left = resident_bytes().saturating_sub(before);
        if left <= LEFT_BYTES_MAX {
            break left;
        }
        assert!(
            Instant::now() < deadline,
            "{before} bytes before, {full} with the Services, {left} more than before after {BACK_WITHIN:?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let journal = lab.dir.path().join("desired/state");
    let journal = std::fs::metadata(journal).expect("stat").len();
    assert!(journal <= JOURNAL_BYTES_MAX, "{journal} bytes of journal");
    eprintln!("{before} bytes before, {each} for a Service, {left} stay; {journal} of journal");
    agent.stop().await;
}

#[test]
fn many_services_over_the_feed_take_little_memory_and_give_it_back() {
    let Some(dir) = std::env::var_os(OWN_PROCESS) else {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = "many_services_over_the_feed_take_little_memory_and_give_it_back";
        return run_again(name, dir.path());
    };
    knarr_base::memory::keep_together();
    let runtime = crate::cli::runtime().expect("a runtime");
    runtime.block_on(serve_many_services());
    done(&dir);
}

#[test]
fn a_start_from_a_journal_of_services_that_are_gone_keeps_little_memory() {
    let Some(dir) = std::env::var_os(OWN_PROCESS) else {
        let dir = tempfile::tempdir().expect("tempdir");
        // As an agent leaves it that writes no fresh one.
        let mut journal = Journal::open(dir.path(), |_| ()).expect("opens");
        let mut append = |message| {
            let message = ToNode {
                message: Some(message),
            };
            journal.append(&message).expect("appends");
        };
        append(to_node::Message::Welcome(Welcome::default()));
        append(to_node::Message::Delta(Delta {
            snapshot: Snapshot::Last.into(),
            ..Delta::default()
        }));
        messages(set, Snapshot::None)
            .chain(messages(remove, Snapshot::None))
            .for_each(|delta| append(to_node::Message::Delta(delta)));
        let name = "a_start_from_a_journal_of_services_that_are_gone_keeps_little_memory";
        return run_again(name, dir.path());
    };
    knarr_base::memory::keep_together();
    let before = anonymous_bytes();
    let (desired, journal) = Desired::open(Path::new(&dir)).expect("opens");
    let left = anonymous_bytes().saturating_sub(before);
    eprintln!("{before} bytes before, {left} stay");
    assert!(left <= LEFT_BYTES_MAX / 5, "{left} bytes stay");
    let runtime = crate::cli::runtime().expect("a runtime");
    runtime.block_on(async {
        let desired_file = DesiredFile::new(journal, desired, Arc::default());
        let due = tokio::time::timeout(WITHIN, desired_file.due()).await;
        due.expect("a fresh one is due at once");
        assert!(desired_file.rewrite().await.is_some());
    });
    let journal = Path::new(&dir).join("state");
    let journal = std::fs::metadata(journal).expect("stat").len();
    assert!(journal <= JOURNAL_BYTES_MAX, "{journal} bytes of journal");
    done(&dir);
}
