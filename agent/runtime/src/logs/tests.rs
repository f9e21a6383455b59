// SPDX-License-Identifier: Apache-2.0
//! Tests of reading what the writer wrote, also while it writes.

use std::time::Duration;

use futures::StreamExt;
use knarr_pod::LogPolicy;
use knarr_pod::{LogStream, LogTimestamps, Timestamp};

use super::writer::{LogWriter, Pending, Stream};
use super::*;

struct Log {
    path: PathBuf,
    writer: LogWriter,
    pending: Pending,
    _dir: tempfile::TempDir,
}

impl Log {
    fn new(file_bytes_max: u64, files_max: u32) -> Log {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main/0.log");
        let policy = LogPolicy {
            file_bytes_max,
            files_max,
        };
        Log {
            writer: LogWriter::open(path.clone(), policy).unwrap(),
            path,
            pending: Pending::default(),
            _dir: dir,
        }
    }

    fn write(&mut self, text: &str) {
        self.writer
            .write(Stream::Stdout, &mut self.pending, text.as_bytes());
    }

    fn lines(&mut self, range: std::ops::Range<usize>) {
        for n in range {
            self.write(&format!("line {n}\n"));
        }
    }

    async fn read(&self, query: LogQuery) -> String {
        let mut stream = read(self.path.clone(), query);
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend(chunk.unwrap());
        }
        String::from_utf8(all).unwrap()
    }
}

fn expected(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

#[tokio::test]
async fn rotated_files_are_read_as_one() {
    let mut log = Log::new(1000, 100);
    log.lines(0..300);
    assert_eq!(log.read(LogQuery::default()).await, expected(0..300));
    for tail in [0, 1, 7, 20, 200, 299, 300, 301, 1000] {
        let query = LogQuery {
            tail_lines: Some(tail),
            ..LogQuery::default()
        };
        let from = 300 - usize::try_from(tail).unwrap().min(300);
        assert_eq!(log.read(query).await, expected(from..300), "tail {tail}");
    }
}

#[tokio::test]
async fn the_query_chooses_lines_bytes_and_streams() {
    let mut log = Log::new(1 << 20, 5);
    log.write("early\n");
    std::thread::sleep(Duration::from_millis(2));
    let since = crate::clock::now();
    log.write("late\nunfinished");
    let (mut errors, mut out) = (Pending::default(), std::mem::take(&mut log.pending));
    log.writer.write(Stream::Stderr, &mut errors, b"bad\n");
    log.writer.end(Stream::Stdout, &mut out);
    let query = LogQuery {
        since: Some(since),
        ..LogQuery::default()
    };
    assert_eq!(log.read(query).await, "late\nbad\nunfinished");
    let query = LogQuery {
        stream: LogStream::Stderr,
        ..LogQuery::default()
    };
    assert_eq!(log.read(query).await, "bad\n");
    let query = LogQuery {
        limit_bytes: Some(8),
        ..LogQuery::default()
    };
    assert_eq!(log.read(query).await, "early\nla");
    let query = LogQuery {
        timestamps: LogTimestamps::Shown,
        tail_lines: Some(1),
        ..LogQuery::default()
    };
    let text = log.read(query).await;
    let (time, rest) = text.split_once(' ').unwrap();
    assert!(Timestamp::parse(time).unwrap() > since);
    assert_eq!(rest, "unfinished");
}

#[tokio::test]
async fn a_missing_log_is_an_error() {
    let mut stream = read(PathBuf::from("/tmp/no/such.log"), LogQuery::default());
    assert!(stream.next().await.unwrap().is_err());
    let dir = tempfile::tempdir().unwrap();
    let mut stream = read(dir.path().join("0.log"), LogQuery::default());
    assert!(matches!(
        stream.next().await,
        Some(Err(LogError::NotFound(_)))
    ));
}

#[tokio::test]
async fn following_misses_nothing_over_rotations() {
    let mut log = Log::new(2000, 1000);
    log.lines(0..10);
    let over = CancellationToken::new();
    let query = LogQuery {
        follow_until: Some(over.clone()),
        ..LogQuery::default()
    };
    let mut stream = read(log.path.clone(), query);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(chunk) = stream.next().await {
            all.extend(chunk.unwrap());
        }
        String::from_utf8(all).unwrap()
    });
    for n in 1..40 {
        log.lines(n * 10..n * 10 + 10);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    log.write("the end");
    let mut pending = std::mem::take(&mut log.pending);
    log.writer.end(Stream::Stdout, &mut pending);
    over.cancel();
    let text = tokio::time::timeout(Duration::from_secs(5), reading).await;
    assert_eq!(text.unwrap().unwrap(), expected(0..400) + "the end");
}
