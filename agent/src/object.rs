// SPDX-License-Identifier: Apache-2.0
//! The eBPF object that this program was built with.

/// The object's bytes, or what to do about their absence.
pub fn datapath_object() -> anyhow::Result<&'static [u8]> {
    anyhow::bail!("built without eBPF programs: run `cargo xtask build-ebpf` first")
}
