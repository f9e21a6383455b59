// SPDX-License-Identifier: Apache-2.0
//! Attaching programs: pinned links that outlive the agent, replaced in place by the next version.
//!
//! A pinned link that leads to something else by now (a cgroup or an uplink that was made anew) is
//! dropped and made again. Classic TC has no links: there the filter of our priority and handle is
//! replaced. Called by `load` only.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{
    CgroupAttachMode, CgroupSock, CgroupSockAddr, LinkOrder, ProgramError, ProgramFd,
    SchedClassifier, TcAttachType,
};
use aya::util::KernelVersion;

use crate::config::TcHook;
use crate::error::DatapathError;
use crate::sys;

/// Socket programs, each attached to the node's cgroup.
pub(crate) const SOCKET_PROGRAMS: [&str; 4] = [
    "knarr_connect4",
    "knarr_connect6",
    "knarr_getpeername4",
    "knarr_getpeername6",
];

/// What takes a socket's entry out at its end.
pub(crate) const RELEASE_PROGRAM: &str = "knarr_sock_release";

/// A program that is attached to a cgroup.
pub(crate) trait CgroupProgram {
    /// Its descriptor.
    fn program_fd(&self) -> Result<&ProgramFd, ProgramError>;
    /// Attaches it; the link is the caller's.
    fn attach_to(&mut self, cgroup: &File) -> Result<FdLink, AttachError>;
}

/// Why a program could not be attached to a cgroup.
pub(crate) enum AttachError {
    /// The kernel says no.
    Program(ProgramError),
    /// It attaches, and knows no links.
    NoLink,
}

macro_rules! cgroup_program {
    ($program:ty) => {
        impl CgroupProgram for $program {
            fn program_fd(&self) -> Result<&ProgramFd, ProgramError> {
                self.fd()
            }

            fn attach_to(&mut self, cgroup: &File) -> Result<FdLink, AttachError> {
                // The kernel takes no other mode for links, which are always many.
                self.attach(cgroup, CgroupAttachMode::Single)
                    .and_then(|id| self.take_link(id))
                    .map_err(AttachError::Program)?
                    .try_into()
                    .map_err(|_| AttachError::NoLink)
            }
        }
    };
}

cgroup_program!(CgroupSock);
cgroup_program!(CgroupSockAddr);

/// Packet programs, each attached to every uplink.
pub(crate) const PACKET_PROGRAMS: [(&str, TcAttachType); 2] = [
    ("knarr_ingress", TcAttachType::Ingress),
    ("knarr_egress", TcAttachType::Egress),
];

/// The packet program of pods' links, on what arrives from the pod.
pub(crate) const POD_PROGRAM: &str = "knarr_pod";

/// Our place among classic TC filters.
const TC_PRIORITY: u16 = 1;
const TC_HANDLE: TcHandle = TcHandle::new(0, 0x6b6e);

/// Whether the running kernel is this version or newer.
pub(crate) fn kernel_at_least(major: u8, minor: u8) -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(major, minor, 0))
}

/// Attaches a socket program to the cgroup, or replaces the one that is attached.
pub(crate) fn socket(
    program: &mut impl CgroupProgram,
    name: &'static str,
    cgroup: &File,
    cgroup_path: &Path,
    link_dir: &Path,
) -> Result<(), DatapathError> {
    let pin = link_dir.join(name);
    let target = cgroup
        .metadata()
        .map_err(|source| DatapathError::File {
            action: "look at",
            path: cgroup_path.to_owned(),
            source,
        })?
        .ino();
    let fd = program
        .program_fd()
        .map_err(|error| attach_error("attach", name, error))?
        .try_clone()
        .map_err(|source| DatapathError::Attach {
            action: "attach",
            program: name,
            source,
        })?;
    if replace(&pin, target, fd.as_fd(), name)? {
        return Ok(());
    }
    let link = program.attach_to(cgroup).map_err(|error| match error {
        AttachError::Program(error) => attach_error("attach", name, error),
        AttachError::NoLink => DatapathError::KernelFeature {
            feature: "links for cgroup programs",
            since: "5.7",
            source: io::ErrorKind::Unsupported.into(),
        },
    })?;
    pin_link(link, &pin, name)
}

/// Where a packet program of an uplink is pinned.
pub(crate) fn uplink_pin(link_dir: &Path, name: &str, uplink: &str) -> PathBuf {
    link_dir.join(format!("{name}-{uplink}"))
}

/// Where the program of a pod's link is pinned: by the pod's address, which is given out again only when the pod is gone. In
/// hexadecimal, for a bpffs refuses names with dots.
pub(crate) fn pod_pin(link_dir: &Path, pod_ip: Ipv4Addr) -> PathBuf {
    link_dir.join(format!("{POD_PROGRAM}-{:08x}", u32::from(pod_ip)))
}

/// Attaches a packet program to a link, or replaces the one that is attached. A pin outlives its link; with classic TC
/// there is none.
pub(crate) fn packet(
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    uplink: &str,
    hook: TcHook,
    pin: &Path,
) -> Result<(), DatapathError> {
    let index = nix::net::if_::if_nametoindex(uplink).map_err(|_| DatapathError::NoUplink {
        name: uplink.to_owned(),
    })?;
    if hook == TcHook::Classic || !kernel_at_least(6, 6) {
        drop_pin(pin);
        return classic(program, name, direction, uplink);
    }
    let fd = program
        .fd()
        .map_err(|error| attach_error("attach", name, error))?
        .try_clone()
        .map_err(|source| DatapathError::Attach {
            action: "attach",
            program: name,
            source,
        })?;
    if replace(pin, u64::from(index), fd.as_fd(), name)? {
        return Ok(());
    }
    let link = program
        .attach_with_options(
            uplink,
            direction,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .and_then(|id| program.take_link(id))
        .map_err(|error| attach_error("attach", name, error))?;
    let link: FdLink = link.try_into().map_err(|_| DatapathError::KernelFeature {
        feature: "links for TC programs (TCX)",
        since: "6.6",
        source: io::ErrorKind::Unsupported.into(),
    })?;
    pin_link(link, pin, name)
}

fn classic(
    program: &mut SchedClassifier,
    name: &'static str,
    direction: TcAttachType,
    uplink: &str,
) -> Result<(), DatapathError> {
    // Fails when it is there already; a real failure shows when the filter is added.
    let _exists = qdisc_add_clsact(uplink);
    let attached = SchedClassifierLink::attached(uplink, direction, TC_PRIORITY, TC_HANDLE, None)
        .map_err(|source| DatapathError::Attach {
        action: "find",
        program: name,
        source,
    })?;
    let replaced = program.attach_to_link(attached);
    let id = match replaced {
        Ok(id) => id,
        Err(_) => program
            .attach_with_options(
                uplink,
                direction,
                TcAttachOptions::Netlink(NlOptions {
                    priority: TC_PRIORITY,
                    handle: TC_HANDLE,
                    ..NlOptions::default()
                }),
            )
            .map_err(|error| attach_error("attach", name, error))?,
    };
    let link = program
        .take_link(id)
        .map_err(|error| attach_error("attach", name, error))?;
    // The filter stays when this process ends; dropping the link would take it away.
    std::mem::forget(link);
    Ok(())
}

/// Replaces the program of a pinned link that leads to `target`; says whether there was one.
fn replace(
    pin: &Path,
    target: u64,
    program: std::os::fd::BorrowedFd<'_>,
    name: &'static str,
) -> Result<bool, DatapathError> {
    let Ok(link) = sys::object_get(pin) else {
        return Ok(false);
    };
    let same = sys::link_info(link.as_fd())
        .is_ok_and(|info| info.target == target || info.target & u64::from(u32::MAX) == target);
    if !same {
        drop_pin(pin);
        return Ok(false);
    }
    match sys::link_update(link.as_fd(), program) {
        Ok(()) => Ok(true),
        // The cgroup or link that it was attached to is gone.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
            drop_pin(pin);
            Ok(false)
        }
        Err(source) => Err(DatapathError::Attach {
            action: "replace",
            program: name,
            source,
        }),
    }
}

pub(crate) fn drop_pin(pin: &Path) {
    if let Err(error) = std::fs::remove_file(pin)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(pin = %pin.display(), %error, "cannot remove an old pin");
    }
}

fn pin_link(link: FdLink, pin: &Path, name: &'static str) -> Result<(), DatapathError> {
    let _pinned: PinnedLink = link.pin(pin).map_err(|error| DatapathError::Attach {
        action: "pin",
        program: name,
        source: io::Error::other(error),
    })?;
    Ok(())
}

/// Lets go of uplinks that are not named any more.
pub(crate) fn forget_other_uplinks(uplinks: &[String], link_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(link_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let Some(file) = file.to_str() else { continue };
        let old = PACKET_PROGRAMS.iter().any(|(program, _)| {
            file.strip_prefix(program)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|uplink| !uplinks.iter().any(|known| known == uplink))
        });
        if old {
            drop_pin(&entry.path());
        }
    }
}

/// Drops the pins of pods' links whose address is not kept. The links themselves are gone: the kernel detaches a program with
/// its link.
pub(crate) fn forget_other_pods(is_kept: impl Fn(Ipv4Addr) -> bool, link_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(link_dir) else {
        return;
    };
    for entry in entries.flatten() {
        let file = entry.file_name();
        let pod_ip = file
            .to_str()
            .and_then(|file| file.strip_prefix(POD_PROGRAM)?.strip_prefix('-'))
            .and_then(|ip| u32::from_str_radix(ip, 16).ok());
        if pod_ip.is_some_and(|ip| !is_kept(ip.into())) {
            drop_pin(&entry.path());
        }
    }
}

/// Whether the kernel refused a program because it is older than the youngest of the hooks, getpeername and
/// sock_release: it says so with EINVAL when the program is loaded for such a hook, or when it is attached.
pub(crate) fn lacks_hooks(errno: i32, kernel: Option<KernelVersion>) -> bool {
    errno == libc::EINVAL && kernel.is_some_and(|kernel| kernel < KernelVersion::new(5, 9, 0))
}

/// The error for it.
pub(crate) fn hooks_missing(source: io::Error) -> DatapathError {
    DatapathError::KernelFeature {
        feature: "getpeername and sock_release hooks for cgroup programs",
        since: "5.9",
        source,
    }
}

fn attach_error(action: &'static str, program: &'static str, error: ProgramError) -> DatapathError {
    let text = error.to_string();
    let source = match error {
        ProgramError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    };
    match source.raw_os_error() {
        Some(libc::EPERM) => DatapathError::NotPermitted {
            what: "attaching eBPF programs",
            source,
        },
        Some(errno) if lacks_hooks(errno, KernelVersion::current().ok()) => hooks_missing(source),
        Some(_) => DatapathError::Attach {
            action,
            program,
            source,
        },
        None => DatapathError::Attach {
            action,
            program,
            source: io::Error::new(source.kind(), text),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_lacks_the_hooks_is_said_to_lack_them() {
        let kernel = |major, minor| Some(KernelVersion::new(major, minor, 0));
        for (errno, kernel, lacks) in [
            (libc::EINVAL, kernel(5, 8), true),
            (libc::EINVAL, kernel(4, 19), true),
            (libc::EINVAL, kernel(5, 9), false),
            (libc::EINVAL, kernel(6, 1), false),
            (libc::EINVAL, None, false),
            (libc::ENOMEM, kernel(5, 8), false),
        ] {
            assert_eq!(lacks_hooks(errno, kernel), lacks, "{errno} {kernel:?}");
        }
        let error = hooks_missing(io::Error::from_raw_os_error(libc::EINVAL)).to_string();
        assert!(error.contains("5.9"), "{error}");
    }
}
