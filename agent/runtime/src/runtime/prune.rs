// SPDX-License-Identifier: Apache-2.0
//! Removes what no wanted pod owns, from the whole list of wanted pods: after a crash, a reboot, or a
//! missed event the same code runs as always.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Inner, Pruned, RuntimeError, failed, list};
use crate::sandbox::teardown;
use crate::tree;

impl Inner {
    /// See [`super::Runtime::prune`]. Goes on after an error, and tells the first.
    pub(super) fn prune(&self, keep: &BTreeSet<String>) -> Result<Pruned, RuntimeError> {
        let mut pruned = Pruned::default();
        let mut first_error = None;
        let mut note = |result: Result<(), RuntimeError>| match result {
            Ok(()) => true,
            Err(e) => {
                tracing::warn!("pruning: {}", knarr_base::chain(&e));
                first_error.get_or_insert(e);
                false
            }
        };
        let layout = &self.config.cgroup;
        for uid in list(&self.sandboxes_dir())? {
            if keep.contains(&uid) {
                continue;
            }
            let dir = self.sandbox_dir(&uid);
            pruned.mounts.extend(mounts(&dir));
            if note(teardown(layout, &dir, &uid, None).map_err(RuntimeError::from)) {
                pruned.sandboxes.push(uid);
            }
        }
        for cgroup in layout.pods() {
            let wanted = cgroup.uid().is_some_and(|uid| keep.contains(uid));
            if !wanted && note(layout.kill_and_remove(&cgroup).map_err(RuntimeError::from)) {
                pruned.cgroups.push(cgroup.path().to_owned());
            }
        }
        for uid in list(&self.pods_dir())? {
            let dir = self.pods_dir().join(&uid);
            if !keep.contains(&uid) {
                pruned.mounts.extend(mounts(&dir));
                if note(remove(&dir)) {
                    pruned.pod_dirs.push(uid);
                }
            }
        }
        for name in list(&self.config.log_dir)? {
            // Anything that does not look like a pod's log directory is not ours.
            let Some((_, uid)) = name.rsplit_once('_') else {
                continue;
            };
            let dir = self.config.log_dir.join(&name);
            if !keep.contains(uid) && note(remove(&dir)) {
                pruned.log_dirs.push(dir);
            }
        }
        match first_error {
            None => Ok(pruned),
            Some(e) => Err(e),
        }
    }
}

fn mounts(dir: &Path) -> Vec<std::path::PathBuf> {
    tree::mounts_below(dir).unwrap_or_default()
}

fn remove(dir: &Path) -> Result<(), RuntimeError> {
    tree::remove_tree(dir).map_err(failed("removing", dir))
}
