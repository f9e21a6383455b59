// SPDX-License-Identifier: Apache-2.0
//! Volumes in memory, and trees that containers leave in them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::Result;
use knarr_pod::{Access, Mount, MountSource, Propagation};
use knarr_runtime::volume;

use crate::harness::{on_host, run, sandbox, shell};

/// A group that nobody has.
const GROUP: u32 = 4321;

fn group_and_mode(path: &Path) -> Result<(u32, u32)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.gid(), metadata.mode() & 0o7777))
}

#[test]
fn a_volume_in_memory_is_given_to_the_group_when_it_is_made_and_never_again() {
    on_host(|host| async move {
        let dir = host.dir.join("volume");
        volume::make_memory(&dir, Some(1 << 20), Some(GROUP))?;
        assert_eq!(group_and_mode(&dir)?, (GROUP, 0o2777));
        let key = dir.join("key");
        std::fs::write(&key, "secret")?;
        assert_eq!(group_and_mode(&key)?.0, GROUP);
        std::os::unix::fs::chown(&key, Some(33), Some(33))?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        volume::make_memory(&dir, Some(1 << 20), Some(GROUP))?;
        assert_eq!(group_and_mode(&key)?, (33, 0o600));
        assert_eq!(group_and_mode(&dir)?, (GROUP, 0o700));
        volume::remove(&dir)?;
        assert!(!dir.exists());
        Ok(())
    });
}

#[test]
fn a_pod_whose_container_nested_directories_without_end_is_removed() {
    on_host(|host| async move {
        let runtime = host.runtime().await?;
        let pod = runtime.create_sandbox(sandbox("a")).await?;
        let dir = runtime.volume_dir("a", "kubernetes.io~empty-dir", "v");
        volume::make_dir(&dir, None)?;
        // Moving the tree down gets it deeper than any path is long.
        let script = "
            for top in /data /tmp; do
                cd $top; n=0
                while [ $n -lt 40 ]; do
                    d=$(printf 'd/%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20)
                    mkdir -p new/$d$d$d || exit 1
                    if [ -e old ]; then mv old new/$d$d$d || exit 2; fi
                    mv new old || exit 3; n=$((n+1))
                done
            done; echo made";
        let mut spec = shell("main", script);
        spec.mounts.push(Mount {
            source: MountSource::Bind(dir.clone()),
            target: "/data".into(),
            access: Access::ReadWrite,
            propagation: Propagation::Private,
        });
        assert_eq!(run(&pod, spec).await?, (0, "made\n".to_owned()));
        pod.destroy().await?;
        runtime.remove_pod("a").await?;
        assert!(!runtime.pod_dir("a").exists());
        host.assert_clean().await
    });
}
