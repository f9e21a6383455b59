// SPDX-License-Identifier: Apache-2.0
//! The eBPF object that this program was built with. `build.rs` copies it; empty where there was none.

/// ELF readers want the file at an even place.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/knarr-ebpf")));

/// The object's bytes, or what to do about their absence.
pub fn datapath_object() -> anyhow::Result<&'static [u8]> {
    if OBJECT.0.is_empty() {
        anyhow::bail!("built without eBPF programs: run `cargo xtask build-ebpf` first")
    } else {
        Ok(&OBJECT.0)
    }
}
