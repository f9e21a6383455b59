// SPDX-License-Identifier: Apache-2.0
//! Measures what a pod with a limit keeps on the node's disk.
//!
//! Not here: what is too much (`knarr_agent_plan::storage`) and when to look (`worker`).

use super::volumes::used_bytes;
use knarr_agent_plan::storage::DiskUsage;
use std::path::PathBuf;

/// Where a pod writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskPlaces {
    /// Container names with the directories of each.
    pub containers: Vec<(String, Vec<PathBuf>)>,
    /// emptyDir volumes on disk.
    pub volumes: Vec<(String, PathBuf)>,
}

impl DiskPlaces {
    /// Blocking.
    pub fn measure(&self) -> DiskUsage {
        let bytes = |dir: &PathBuf| i64::try_from(used_bytes(dir)).unwrap_or(i64::MAX);
        let sum = |dirs: &Vec<PathBuf>| {
            let sizes = dirs.iter().map(bytes);
            sizes.fold(0_i64, i64::saturating_add)
        };
        let containers = self.containers.iter();
        let volumes = self.volumes.iter();
        DiskUsage {
            containers: containers.map(|(n, dirs)| (n.clone(), sum(dirs))).collect(),
            volumes: volumes.map(|(n, dir)| (n.clone(), bytes(dir))).collect(),
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
        for (name, bytes) in [("upper", 40_000), ("logs", 20_000), ("volume", 10_000)] {
            std::fs::create_dir_all(path(name).join("below")).expect("made");
            std::fs::write(path(name).join("below/file"), vec![1; bytes]).expect("written");
        }
        let places = DiskPlaces {
            containers: vec![
                ("c".into(), vec![path("upper"), path("logs")]),
                ("none".into(), vec![path("missing")]),
            ],
            volumes: vec![("v".into(), path("volume"))],
        };
        let usage = places.measure();
        assert!(usage.containers["c"] >= 60_000, "{usage:?}");
        assert_eq!(usage.containers["none"], 0);
        assert!((10_000..60_000).contains(&usage.volumes["v"]), "{usage:?}");
    }
}
