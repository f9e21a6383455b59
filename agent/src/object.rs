// SPDX-License-Identifier: Apache-2.0
//! The eBPF object that this program was built with; `build.rs` says which.

/// The object's bytes, or what to do about their absence.
pub fn datapath_object() -> anyhow::Result<&'static [u8]> {
    #[cfg(knarr_ebpf_object)]
    return Ok(include_bytes!(env!("KNARR_EBPF_OBJECT_FILE")));
    #[cfg(not(knarr_ebpf_object))]
    anyhow::bail!("built without eBPF programs: run `cargo xtask build-ebpf` first")
}
