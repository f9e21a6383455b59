// SPDX-License-Identifier: Apache-2.0
//! Device access on cgroup v2, where it is a program and not a file.
//!
//! libcontainer would need libbpf for it and without it lets a container open every device. On v1 it
//! writes `devices.allow` itself. The list is containerd's default. Called by `creator`.

use std::io;
use std::os::fd::OwnedFd;

use crate::sys::{BpfInstruction, attach_device_program};

/// struct bpf_cgroup_dev_ctx: the low half of the first field is the type (1 block, 2 character), the high
/// half the access (1 mknod, 2 read, 4 write).
const ACCESS_MKNOD: i32 = 1;
const TYPE_CHAR: i32 = 2;

/// Character devices that every container may use; a missing minor means all.
pub(super) const ALLOWED: [(i32, Option<i32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(1)), // console
    (5, Some(2)), // ptmx
    (136, None),  // pts
];

// Instruction codes (linux/bpf.h): class | size or operation | mode or source.
const LDX_W: u8 = 0x61;
const MOV_REG: u8 = 0xbf;
const AND_IMM32: u8 = 0x54;
const RSH_IMM32: u8 = 0x74;
const MOV_IMM: u8 = 0xb7;
const JNE_IMM: u8 = 0x55;
const EXIT: u8 = 0x95;

fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction {
        code,
        registers: to | (from << 4),
        offset,
        immediate,
    }
}

/// Attaches the default list to a container's cgroup.
pub(super) fn confine(cgroup: &OwnedFd) -> io::Result<()> {
    attach_device_program(cgroup, &program())
}

fn program() -> Vec<BpfInstruction> {
    // r2 type, r3 access, r4 major, r5 minor.
    let mut code = vec![
        op(LDX_W, 2, 1, 0, 0),
        op(MOV_REG, 3, 2, 0, 0),
        op(AND_IMM32, 2, 0, 0, 0xffff),
        op(RSH_IMM32, 3, 0, 0, 16),
        op(LDX_W, 4, 1, 4, 0),
        op(LDX_W, 5, 1, 8, 0),
        // Making nodes alone is harmless: opening them is asked for again.
        op(JNE_IMM, 3, 0, 2, ACCESS_MKNOD),
        op(MOV_IMM, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
    ];
    for (major, minor) in ALLOWED {
        let skip = if minor.is_some() { 4 } else { 3 };
        code.push(op(JNE_IMM, 2, 0, skip, TYPE_CHAR));
        code.push(op(JNE_IMM, 4, 0, skip - 1, major));
        if let Some(minor) = minor {
            code.push(op(JNE_IMM, 5, 0, 2, minor));
        }
        code.push(op(MOV_IMM, 0, 0, 0, 1));
        code.push(op(EXIT, 0, 0, 0, 0));
    }
    code.push(op(MOV_IMM, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}
