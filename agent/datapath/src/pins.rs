// SPDX-License-Identifier: Apache-2.0
//! Where this layout's maps and links are pinned in a BPF file system.

use std::path::{Path, PathBuf};

use knarr_ebpf_common::LAYOUT_VERSION;

/// Where the pins of this layout are.
pub fn pin_root(bpf_root: &Path) -> PathBuf {
    bpf_root.join("knarr").join(format!("v{LAYOUT_VERSION}"))
}

/// Where the links of attached programs are pinned.
pub(crate) fn link_dir(bpf_root: &Path) -> PathBuf {
    pin_root(bpf_root).join("links")
}

/// Where the maps are pinned.
pub(crate) fn pinned_maps(bpf_root: &Path) -> PathBuf {
    pin_root(bpf_root).join("maps")
}

/// Where larger maps are made before they take the place of pinned ones.
pub(crate) fn growing(bpf_root: &Path) -> PathBuf {
    pin_root(bpf_root).join("growing")
}

/// Removes what an agent left that was killed while maps grew.
pub(crate) fn forget_unfinished(bpf_root: &Path) {
    let directory = growing(bpf_root);
    let Ok(entries) = std::fs::read_dir(&directory) else {
        return;
    };
    for entry in entries.flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, path = %entry.path().display(), "a map that was begun cannot be removed");
        }
    }
}
