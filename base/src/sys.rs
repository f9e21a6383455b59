// SPDX-License-Identifier: Apache-2.0
//! The one place of this crate with `unsafe` code: calls of the C library that no safe crate wraps. Called by `memory`.

/// One arena, and a fixed bound above which an allocation is a mapping of its own.
pub(crate) fn keep_memory_together(mapping_bytes: i32) {
    #[cfg(target_env = "gnu")]
    {
        set_allocator(libc::M_ARENA_MAX, 1);
        set_allocator(libc::M_MMAP_THRESHOLD, mapping_bytes);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = mapping_bytes;
}

#[cfg(target_env = "gnu")]
fn set_allocator(parameter: i32, value: i32) {
    // SAFETY: the call sets a number of the allocator under the allocator's own lock and touches no allocation.
    unsafe {
        libc::mallopt(parameter, value);
    }
}

/// Gives freed memory back to the kernel.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and touches no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
