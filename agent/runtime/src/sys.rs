// SPDX-License-Identifier: Apache-2.0
//! The only place with `unsafe`: system calls that no dependency wraps safely.
//!
//! Each function says what its caller has to keep to. Called by the shim and the image store.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};

/// Which side of a fork this is.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old process, with the id of the new one.
    Parent(i32),
}

/// fork(2). Refuses when the process has more than one thread, where a child could not even allocate.
pub(crate) fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!(
            "a process with {threads} threads cannot fork safely"
        )));
    }
    // SAFETY: the process has one thread, checked above, so no lock can be held by another one.
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(match forked {
        nix::unistd::ForkResult::Child => Forked::Child,
        nix::unistd::ForkResult::Parent { child } => Forked::Parent(child.as_raw()),
    })
}

/// Ends the process at once: nothing is flushed or dropped.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status) }
}

/// A child whose first thread ends while another one sleeps for a minute.
#[cfg(test)]
pub(crate) fn child_without_first_thread() -> nix::Result<nix::unistd::Pid> {
    // SAFETY: the child only makes a thread. That allocates, and the C library hands its allocator whole to a child.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(60)));
            // SAFETY: exit(2) ends this thread alone, and nothing of it is used any more.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!("a thread that has ended does not go on");
        }
    }
}

/// Default action for every signal, and none blocked, as a new program expects.
pub(crate) fn reset_signals() -> nix::Result<()> {
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        set_signal(signal, SigHandler::SigDfl)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Ignored: children are reaped by the kernel. Inherited by the program that is executed next.
pub(crate) fn ignore_children() -> nix::Result<()> {
    set_signal(Signal::SIGCHLD, SigHandler::SigIgn)
}

fn set_signal(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    // SAFETY: only SIG_DFL and SIG_IGN are passed, so no Rust code runs in a signal handler.
    unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(())
}

/// pidfd_send_signal(2) with any number: the types of nix and rustix know no real-time signals.
pub(crate) fn pidfd_signal(process: &OwnedFd, signal: i32) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let fd = process.as_raw_fd();
    // SAFETY: the descriptor is open during the call, and the kernel takes a null siginfo as none.
    let status = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0_u32) };
    Errno::result(status).map(drop)
}

/// Makes a mount that open_tree(2) has cloned read-only, without set-user-ID and devices (mount_setattr(2), Linux 5.12).
pub(crate) fn set_mount_read_only(tree: &OwnedFd) -> nix::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let size = std::mem::size_of::<libc::mount_attr>();
    // SAFETY: the descriptor is open, the path is a live empty C string, and `attributes` is live and of the size given.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &attributes,
            size,
        )
    };
    Errno::result(status).map(drop)
}

/// Closes every descriptor from 3 on that is not in `keep`. For a forked child that ends in `exit_now` or
/// exec: the owners of the closed descriptors must never be dropped.
pub(crate) fn close_others(keep: &[RawFd]) -> nix::Result<()> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .collect();
    keep.sort_unstable();
    let mut first = 3_u32;
    for fd in keep.into_iter().filter(|fd| *fd >= 3).chain([u32::MAX]) {
        if let Some(last) = fd.checked_sub(1).filter(|last| *last >= first) {
            close_range(first, last)?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

fn close_range(first: u32, last: u32) -> nix::Result<()> {
    // SAFETY: close_range takes three integers; the caller promises that no owner is dropped later.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0_u32) };
    Errno::result(status).map(drop)
}

/// Sets the loopback interface of the calling thread's network namespace up.
pub(crate) fn set_loopback_up() -> io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the descriptor is open and the pointer is to a live ifreq, as SIOCSIFFLAGS expects.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    Errno::result(status)?;
    Ok(())
}

/// Lets tokio wait for a descriptor.
pub(crate) fn async_fd(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the wrapper owns the descriptor, so it stays open and the same as long as it is registered.
    let registered = unsafe { tokio::io::unix::AsyncFd::register(fd) };
    Ok(registered?)
}

/// A kernel instruction (struct bpf_insn).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct BpfInstruction {
    pub code: u8,
    /// Destination register in the low half, source in the high half.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// union bpf_attr, the part for BPF_PROG_LOAD up to the log.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// union bpf_attr, the part for BPF_PROG_ATTACH.
#[repr(C)]
#[derive(Default)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of cgroups above and below go on being asked, and each may refuse.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Loads a program that decides about device access and attaches it to a cgroup v2 directory. It goes
/// away with the cgroup.
pub(crate) fn attach_device_program(
    cgroup: &OwnedFd,
    program: &[BpfInstruction],
) -> io::Result<()> {
    use std::os::fd::FromRawFd;
    let load = ProgLoad {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..ProgLoad::default()
    };
    let size = std::mem::size_of::<ProgLoad>();
    // SAFETY: `load` is live and of the size given; its pointers are to live arrays of the stated lengths.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &load, size) };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let raw = |fd: &OwnedFd| u32::try_from(fd.as_fd().as_raw_fd()).map_err(io::Error::other);
    let attach = ProgAttach {
        target_fd: raw(cgroup)?,
        attach_bpf_fd: raw(&fd)?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    let size = std::mem::size_of::<ProgAttach>();
    // SAFETY: `attach` is live and of the size given and holds no pointers.
    let status = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &attach, size) };
    Errno::result(status)?;
    Ok(())
}
