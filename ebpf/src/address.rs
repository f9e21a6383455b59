// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Addresses in keys and values of maps, written word by word.
//!
//! An address is an array of bytes. The compiler sets and copies such arrays by calls of `memset` and `memmove`, which cost
//! time at every packet, and each of which counts as 32 of the 512 bytes of stack on older kernels (Linux 6.1).

use core::mem::{align_of, offset_of};
use core::ptr::{read_volatile, write_volatile};

use knarr_ebpf_common::{Address, BackendEntry, Config, Flow, FlowKey};

/// The word before an IPv4 address that makes it a v4-mapped one.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

// Where the addresses are that are given to these functions.
const _: () = {
    assert!(align_of::<FlowKey>() >= align_of::<u32>());
    assert!(align_of::<Flow>() >= align_of::<u32>());
    assert!(align_of::<BackendEntry>() >= align_of::<u32>());
    assert!(offset_of!(FlowKey, source).is_multiple_of(4));
    assert!(offset_of!(FlowKey, destination).is_multiple_of(4));
    assert!(offset_of!(Flow, client).is_multiple_of(4));
    assert!(offset_of!(Flow, called).is_multiple_of(4));
    assert!(offset_of!(Flow, backend).is_multiple_of(4));
    assert!(offset_of!(Flow, snat).is_multiple_of(4));
    assert!(offset_of!(BackendEntry, address).is_multiple_of(4));
    assert!(align_of::<Config>() >= align_of::<u32>());
    assert!(offset_of!(Config, node_ip).is_multiple_of(4));
};

/// Writes an IPv4 address as a v4-mapped one, as `knarr_ebpf_common::mapped` makes it.
///
/// # Safety
/// `to` lies at a multiple of four.
#[inline(always)]
pub unsafe fn set(to: &mut Address, v4: [u8; 4]) {
    write(to, [0, 0, MAPPED, u32::from_ne_bytes(v4)]);
}

/// Copies an address.
///
/// # Safety
/// Both lie at a multiple of four.
#[inline(always)]
pub unsafe fn copy(to: &mut Address, from: &Address) {
    let from = from.as_ptr().cast::<u32>();
    let words = core::array::from_fn(|at| {
        // SAFETY: four words of an array of sixteen bytes, at a multiple of four as the caller says.
        unsafe { read_volatile(from.wrapping_add(at)) }
    });
    write(to, words);
}

/// Whether two addresses are the same.
///
/// # Safety
/// Both lie at a multiple of four.
#[inline(always)]
pub unsafe fn same(a: &Address, b: &Address) -> bool {
    let (a, b) = (a.as_ptr().cast::<u32>(), b.as_ptr().cast::<u32>());
    (0..4).all(|at| {
        // SAFETY: four words of an array of sixteen bytes, at a multiple of four as the caller says.
        let a = unsafe { read_volatile(a.wrapping_add(at)) };
        // SAFETY: as above.
        a == unsafe { read_volatile(b.wrapping_add(at)) }
    })
}

/// Volatile, or the compiler would make a call of `memmove` of it again.
#[inline(always)]
fn write(to: &mut Address, words: [u32; 4]) {
    let to = to.as_mut_ptr().cast::<u32>();
    for (at, word) in words.into_iter().enumerate() {
        // SAFETY: four words of an array of sixteen bytes, at a multiple of four as the callers say.
        unsafe { write_volatile(to.wrapping_add(at), word) };
    }
}
