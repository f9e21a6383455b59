// SPDX-License-Identifier: Apache-2.0
//! What the C library's allocator keeps: one heap for all threads, and memory given back after a burst.
//!
//! Not here: when it is given back (the agent's `memory`), and other allocators (the control plane has jemalloc).

/// Allocations from here on that have a mapping of their own, which goes back to the kernel as soon as it is freed. The
/// allocator's own bound at the start; unlike that one it does not grow with what is freed.
const MAPPING_BYTES: i32 = 128 * 1024;

/// Lets all threads of this process allocate from one heap. glibc gives each thread one of its own otherwise, in which
/// what a burst leaves behind lies scattered: twice the memory for the same Services. To be called before any thread
/// starts.
pub fn keep_together() {
    crate::sys::keep_memory_together(MAPPING_BYTES);
}

/// Gives freed memory of this process back to the kernel. glibc keeps it otherwise, wherever a live allocation is above
/// it; other C libraries give it back themselves. The call blocks for some milliseconds.
pub fn trim() {
    crate::sys::trim_memory();
}
