// SPDX-License-Identifier: Apache-2.0
//! What the attached programs cost, as the kernel measures it (`bpf_stats_enabled`): runs and nanoseconds of each.
//!
//! Measuring slows every program of the machine a little, so it is on only while a [`Meter`] lives. For benches.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

use crate::error::DatapathError;
use crate::pins::pin_root;
use crate::sys;

/// Runs of one program and the time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs.
    pub runs: u64,
    /// Nanoseconds of all of them.
    pub nanos: u64,
}

/// Has the kernel measure while it lives.
#[derive(Debug)]
pub struct Meter {
    _enabled: OwnedFd,
}

impl Meter {
    /// Begins.
    pub fn start() -> Result<Self, DatapathError> {
        let enabled = enable_stats(Stats::RunTime);
        let enabled = enabled.map_err(|error| DatapathError::File {
            action: "enable",
            path: "/proc/sys/kernel/bpf_stats_enabled".into(),
            source: io::Error::other(error),
        })?;
        Ok(Self { _enabled: enabled })
    }

    /// What the programs of a node's pinned links cost so far, by the name of the pin.
    pub fn read(&self, bpf_root: &Path) -> Result<BTreeMap<String, Cost>, DatapathError> {
        let links = pin_root(bpf_root).join("links");
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source| DatapathError::File {
                action: "read",
                path,
                source,
            }
        };
        let mut names = BTreeMap::new();
        for entry in std::fs::read_dir(&links).map_err(file_error(&links))? {
            let path = entry.map_err(file_error(&links))?.path();
            let link = sys::object_get(&path).map_err(file_error(&path))?;
            let info = sys::link_info(link.as_fd()).map_err(file_error(&path))?;
            let name = path.file_name().unwrap_or_default();
            names.insert(info.program_id, name.to_string_lossy().into_owned());
        }
        let mut costs = BTreeMap::new();
        // A program of another lab may end while the list is read.
        for program in loaded_programs().flatten() {
            let Some(name) = names.get(&program.id()) else {
                continue;
            };
            let fd = program.fd().map_err(|source| DatapathError::Load {
                program: "a pinned link's program",
                source: Box::new(source),
            })?;
            let path = format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd());
            let text = std::fs::read_to_string(&path).map_err(file_error(Path::new(&path)))?;
            costs.insert(name.clone(), cost(&text));
        }
        Ok(costs)
    }
}

/// The lines `run_time_ns` and `run_cnt` of a program's fdinfo.
fn cost(text: &str) -> Cost {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
    };
    Cost {
        runs: value("run_cnt:").unwrap_or_default(),
        nanos: value("run_time_ns:").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_time_are_read_as_the_kernel_writes_them() {
        let text =
            "pos:\t0\nprog_type:\t9\nrun_time_ns:\t1520\nrun_cnt:\t4\nrecursion_misses:\t0\n";
        let wanted = Cost {
            runs: 4,
            nanos: 1_520,
        };
        assert_eq!(cost(text), wanted);
        assert_eq!(cost("pos:\t0\n"), Cost::default());
    }
}
