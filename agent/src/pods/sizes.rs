// SPDX-License-Identifier: Apache-2.0
//! Measures what a pod with a limit keeps on the node's disk, beside the pod's worker: a tree of millions of
//! files takes minutes, and a deletion or a failed probe does not wait for it.
//!
//! Not here: what is too much (`knarr_agent_plan::storage`). Owned and awaited by `worker`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use knarr_agent_plan::storage::DiskUsage;
use knarr_runtime::volume;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long after one look at the sizes the next begins (kubelet's eviction interval).
const SIZE_CHECK: Duration = Duration::from_secs(10);

/// Where a pod writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskPlaces {
    /// Container names with the directories of each.
    pub containers: Vec<(String, Vec<PathBuf>)>,
    /// emptyDir volumes on disk.
    pub volumes: Vec<(String, PathBuf)>,
    /// What belongs to no container that runs.
    pub pod: Vec<PathBuf>,
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Sizes.
    pub usage: DiskUsage,
    /// What could not be read and does not count, for a person.
    pub unread: Vec<String>,
}

impl DiskPlaces {
    /// Blocking. After a break what it returns means nothing.
    fn measure(&self, keep_on: &dyn Fn() -> ControlFlow<()>) -> Measured {
        let mut unread = Vec::new();
        let mut bytes = |dir: &PathBuf| {
            let used = match keep_on() {
                ControlFlow::Continue(()) => used_bytes(dir, keep_on, &mut unread),
                ControlFlow::Break(()) => 0,
            };
            i64::try_from(used).unwrap_or(i64::MAX)
        };
        let mut usage = DiskUsage::default();
        for (name, dirs) in &self.containers {
            let sum = dirs.iter().map(&mut bytes).fold(0, i64::saturating_add);
            usage.containers.insert(name.clone(), sum);
        }
        for (name, dir) in &self.volumes {
            usage.volumes.insert(name.clone(), bytes(dir));
        }
        usage.pod = self.pod.iter().map(&mut bytes).fold(0, i64::saturating_add);
        Measured { usage, unread }
    }
}

fn used_bytes(dir: &Path, keep_on: &dyn Fn() -> ControlFlow<()>, unread: &mut Vec<String>) -> u64 {
    match volume::usage(dir, keep_on) {
        Ok(usage) => {
            if let Some(error) = usage.first_error {
                let (count, dir) = (usage.unread, dir.display());
                unread.push(format!("{count} entries below {dir}: {error}"));
            }
            usage.bytes
        }
        Err(error) => {
            unread.push(knarr_base::chain(&error));
            0
        }
    }
}

/// The looks at one pod's sizes, one at a time. They end with this value.
pub struct Sizes {
    looks: JoinSet<Measured>,
    /// Ends the walk of the look that is under way, which no abort does.
    stop: Option<DropGuard>,
    due: Instant,
}

impl Sizes {
    /// The first look is some time away: a new pod has hardly anything.
    pub fn new() -> Sizes {
        Sizes {
            looks: JoinSet::new(),
            stop: None,
            due: Instant::now() + SIZE_CHECK,
        }
    }

    /// Begins a look where one is due and none is under way.
    pub fn look(&mut self, places: DiskPlaces) {
        if !self.looks.is_empty() || Instant::now() < self.due {
            return;
        }
        let token = CancellationToken::new();
        self.stop = Some(token.clone().drop_guard());
        self.looks.spawn(knarr_base::blocking::run(move || {
            places.measure(&|| {
                if token.is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        }));
    }

    /// Waits for what the look that is under way finds, or else until the next is due. Dropping it loses
    /// nothing.
    pub async fn next(&mut self) -> Option<Measured> {
        match self.looks.join_next().await {
            Some(ended) => {
                self.stop = None;
                self.due = Instant::now() + SIZE_CHECK;
                ended
                    .inspect_err(|error| tracing::error!(%error, "measuring a pod failed"))
                    .ok()
            }
            None => {
                tokio::time::sleep_until(self.due).await;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_of_a_container_counts_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        for (name, bytes) in [
            ("upper", 40_000),
            ("logs", 20_000),
            ("volume", 10_000),
            ("etc", 30_000),
        ] {
            std::fs::create_dir_all(path(name).join("below")).expect("made");
            std::fs::write(path(name).join("below/file"), vec![1; bytes]).expect("written");
        }
        let places = DiskPlaces {
            containers: vec![
                ("c".into(), vec![path("upper"), path("logs")]),
                ("none".into(), vec![path("missing")]),
            ],
            volumes: vec![("v".into(), path("volume"))],
            pod: vec![path("etc"), path("missing")],
        };
        let Measured { usage, unread } = places.measure(&|| ControlFlow::Continue(()));
        assert!(unread.is_empty(), "{unread:?}");
        assert!((30_000..60_000).contains(&usage.pod), "{usage:?}");
        assert!(usage.containers["c"] >= 60_000, "{usage:?}");
        assert_eq!(usage.containers["none"], 0);
        assert!((10_000..60_000).contains(&usage.volumes["v"]), "{usage:?}");
    }
    #[test]
    fn a_directory_that_became_a_link_is_told_and_does_not_count() {
        let dir = tempfile::tempdir().expect("tempdir");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("file"), vec![1; 40_000]).expect("written");
        let volume = dir.path().join("volume");
        std::os::unix::fs::symlink(&outside, &volume).expect("link");
        let places = DiskPlaces {
            containers: Vec::new(),
            volumes: vec![("v".into(), volume.clone())],
            pod: Vec::new(),
        };
        let Measured { usage, unread } = places.measure(&|| ControlFlow::Continue(()));
        assert_eq!(usage.volumes["v"], 0);
        assert_eq!(unread.len(), 1, "{unread:?}");
        assert!(
            unread[0].contains(&volume.display().to_string()),
            "{unread:?}"
        );
    }

    /// Places whose walk takes minutes.
    fn endless() -> (DiskPlaces, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("tempdir");
        for n in 0..1000 {
            std::fs::write(dir.path().join(n.to_string()), "").expect("written");
        }
        let again = vec![dir.path().to_owned(); 100_000];
        let places = DiskPlaces {
            containers: vec![("c".into(), again)],
            volumes: Vec::new(),
            pod: Vec::new(),
        };
        (places, dir)
    }

    #[tokio::test]
    async fn a_look_that_takes_long_holds_nobody_up_is_the_only_one_and_ends_with_its_owner() {
        let (places, _dir) = endless();
        let mut sizes = Sizes::new();
        sizes.look(places.clone());
        assert!(sizes.looks.is_empty(), "the first one is not due yet");
        sizes.due = Instant::now();
        sizes.look(places.clone());
        sizes.look(places);
        assert_eq!(sizes.looks.len(), 1);
        let waited = tokio::time::timeout(Duration::from_millis(50), sizes.next()).await;
        assert!(waited.is_err(), "it goes on and others may go on meanwhile");
        assert_eq!(sizes.looks.len(), 1, "dropping the wait loses nothing");
        // A runtime waits for blocking work when it ends, and with it this test would.
        drop(sizes);
    }

    #[tokio::test]
    async fn what_a_look_finds_is_handed_on_and_the_next_is_later() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("file"), vec![1; 40_000]).expect("written");
        let places = DiskPlaces {
            containers: Vec::new(),
            volumes: vec![("v".into(), dir.path().to_owned())],
            pod: Vec::new(),
        };
        let mut sizes = Sizes::new();
        sizes.due = Instant::now();
        assert_eq!(sizes.next().await, None, "one is due");
        sizes.look(places.clone());
        let found = sizes.next().await.expect("measured");
        assert!(found.usage.volumes["v"] >= 40_000, "{found:?}");
        sizes.look(places);
        assert!(sizes.looks.is_empty(), "the next one is not due yet");
    }
}
