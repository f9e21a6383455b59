// SPDX-License-Identifier: Apache-2.0
//! Programs that are executed without a file that anybody could write to, or that a mount option could forbid.
//!
//! systemd mounts /run with `noexec`, and the data directory may be mounted so: what the runtime brings along is executed
//! from a sealed memfd. Called by the runtime when it opens and by the shim.

use nix::fcntl::AtFlags;
use rustix::fs::{MemfdFlags, SealFlags, StatVfsMountFlags};
use std::ffi::CStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// Since Linux 6.3; decides whether a memfd can be executed.
const MEMFD_SYSCTL: &str = "/proc/sys/vm/memfd_noexec";

/// A program in a sealed memfd: nobody can write to it, however it is opened (memfd_create(2), fcntl(2) F_ADD_SEALS).
#[derive(Debug)]
pub(crate) struct SealedProgram {
    fd: OwnedFd,
}

impl SealedProgram {
    /// `name` is what /proc shows.
    pub fn new(name: &str, bytes: &[u8]) -> io::Result<SealedProgram> {
        let fd = executable_memfd(name).map_err(explain)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(bytes)?;
        let fd = OwnedFd::from(file);
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&fd, seals)?;
        Ok(SealedProgram { fd })
    }

    /// The descriptor, for those who close all others.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Executes it in place of this process, without an environment. Returns only with why that is not possible.
    pub fn execute(&self, argv: &[&CStr]) -> io::Error {
        let environment: [&CStr; 0] = [];
        match nix::unistd::execveat(&self.fd, c"", argv, &environment, AtFlags::AT_EMPTY_PATH) {
            Err(e) => e.into(),
            Ok(never) => match never {},
        }
    }

    /// Starts it once and kills it: what the kernel and its security modules allow is known only then.
    pub fn check(&self) -> io::Result<()> {
        let mut child = Command::new(crate::tree::fd_path(&self.fd))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(explain)?;
        child.kill()?;
        child.wait().map(drop)
    }
}

fn executable_memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and every memfd is executable.
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?),
        made => Ok(made?),
    }
}

/// Names the setting that refuses executable memfds, if it is the reason.
fn explain(error: io::Error) -> io::Error {
    let setting = std::fs::read_to_string(MEMFD_SYSCTL).unwrap_or_default();
    if error.kind() == io::ErrorKind::PermissionDenied && setting.trim() == "2" {
        let text =
            "the sysctl vm.memfd_noexec is 2, which forbids executable memfds; set it to 0 or 1";
        return io::Error::new(error.kind(), text);
    }
    error
}

/// Mount options of the file system at `path` that take something away from volumes of pods that lie there. A
/// container's root file system is an overlay with options of its own, and loses nothing.
pub(crate) fn limits_of_volumes(path: &Path) -> io::Result<Vec<(&'static str, &'static str)>> {
    let flags = rustix::fs::statvfs(path)?.f_flag;
    let all = [
        (
            StatVfsMountFlags::NOEXEC,
            "noexec",
            "programs in emptyDir volumes cannot be executed",
        ),
        (
            StatVfsMountFlags::NOSUID,
            "nosuid",
            "set-user-ID bits of files in emptyDir volumes have no effect",
        ),
        (
            StatVfsMountFlags::NODEV,
            "nodev",
            "device files in emptyDir volumes cannot be opened",
        ),
    ];
    let set = all.into_iter().filter(|(flag, ..)| flags.contains(*flag));
    Ok(set.map(|(_, option, effect)| (option, effect)).collect())
}

#[cfg(test)]
mod tests;
