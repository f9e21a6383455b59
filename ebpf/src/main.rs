// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The kernel programs of the Service datapath: socket hooks for whatever starts on the node, packet
//! programs on the uplink for whatever arrives from outside, and on pods' links for what pods send.
//!
//! Each is entry, parse, lookup, verdict. Decisions that need no kernel helper are in `knarr-ebpf-common`,
//! where they are tested. Built for the BPF target by `cargo xtask build-ebpf`, loaded by
//! `knarr-datapath`; for the host this is a program that only says so.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]
#![cfg_attr(not(target_arch = "bpf"), allow(dead_code))]

mod address;
mod flow;
mod maps;
mod packet;
mod pod;
mod read;
mod select;
mod socket;
mod uplink;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    println!("these programs run in the kernel; build them with `cargo xtask build-ebpf`");
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier proves that no path reaches this.
    loop {}
}

// Of the two licences this is the one that the kernel asks for before it lends its helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 7] = *b"GPL v2\0";
