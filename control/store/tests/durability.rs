// SPDX-License-Identifier: Apache-2.0
//! A process that writes to a store is killed with SIGKILL; everything it was told is durable must be
//! in the file afterwards. The test starts its own executable again as that process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use knarr_store::{Embedded, Op, Options, Range, Store, Txn};

const ROLE: &str = "KNARR_STORE_TEST_WRITER";
const TEST: &str = "every_acknowledged_write_is_there_after_kill_9";
/// Writers in the killed process, each with its own keys.
const WRITERS: usize = 16;

/// The killed process: prints `KEY VALUE` after each acknowledged write, until it is killed.
fn write_until_killed(path: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(path.as_ref(), Options::default()).unwrap());
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            writers.spawn(async move {
                for n in 0_u64.. {
                    let key = format!("w{writer:02}/{:03}", n % 200);
                    let op = Op::put(key.clone(), n.to_string());
                    store.txn(Txn::of(vec![op])).await.unwrap();
                    // One write call for the line: it is in the pipe or it is not.
                    let line = format!("\n{key} {n}\n");
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        writers.join_all().await;
    });
}

#[test]
fn every_acknowledged_write_is_there_after_kill_9() {
    if let Ok(path) = std::env::var(ROLE) {
        return write_until_killed(&path);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    for round in 0..5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(ROLE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut newest: BTreeMap<String, u64> = BTreeMap::new();
            for line in output.lines().map_while(Result::ok) {
                if let Some((key, value)) = line.split_once(' ')
                    && key.starts_with('w')
                    && let Ok(value) = value.parse()
                {
                    newest.insert(key.to_owned(), value);
                }
            }
            newest
        });
        // Different moments of the writer's work are hit in different rounds.
        std::thread::sleep(Duration::from_millis(400 + round * 37));
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = reader.join().unwrap();
        assert!(acknowledged.len() > 100, "only {}", acknowledged.len());
        check(&path, &acknowledged);
    }
}

/// Every key holds at least what was acknowledged last: the write after it may or may not be there.
fn check(path: &std::path::Path, acknowledged: &BTreeMap<String, u64>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Embedded::open(path, Options::default()).unwrap();
        let found = store.range(Range::prefix("w")).await.unwrap();
        let found: BTreeMap<String, u64> = found
            .kvs
            .iter()
            .map(|kv| {
                let key = String::from_utf8(kv.key.to_vec()).unwrap();
                let value = String::from_utf8(kv.value.to_vec()).unwrap();
                (key, value.parse().unwrap())
            })
            .collect();
        for (key, value) in acknowledged {
            let stored = found.get(key).copied();
            assert!(
                stored.is_some_and(|stored| stored >= *value),
                "{key}: {value} was acknowledged, {stored:?} is stored"
            );
        }
        store.close().await;
    });
}
