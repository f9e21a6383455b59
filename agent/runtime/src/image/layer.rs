// SPDX-License-Identifier: Apache-2.0
//! Unpacks one layer onto the layers below it.
//!
//! The walk writes to an overlay of the lower layers (or to an empty directory for the first), so the
//! kernel turns removals into whiteouts, and hard links and attributes of lower layers just work. Every
//! name is resolved inside that root. The `tar` crate only reads; it writes nothing.
//! Source: OCI image spec v1.1, layer.md.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    Mode, SFlag, UtimensatFlags, fchmod, fstatat, futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, linkat, symlinkat};

use super::ImageError;
use super::headers::{Bounded, HeadersTooLarge};
use super::text::{printable, quoted};
use crate::tree::{self, make_dirs_in_root, open_in_root, remove_at};

/// What marks a removed name.
const WHITEOUT: &[u8] = b".wh.";
/// What marks names for AUFS' own use.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// What marks a directory whose lower contents are hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Extended attributes in PAX headers.
const XATTR_PREFIX: &str = "SCHILY.xattr.";
/// An attribute that would change how the overlay works; never taken from an image.
const XATTR_OVERLAY: &str = "trusted.overlay.";
/// The largest value of one attribute that Linux takes.
const XATTR_BYTES_MAX: usize = 64 << 10;

/// Why a layer could not be unpacked, and where.
#[derive(Debug)]
pub(super) struct LayerError {
    /// The entry that was being read, or what came before it.
    pub place: String,
    pub cause: Cause,
}

#[derive(Debug)]
pub(super) enum Cause {
    /// The stream is damaged or ends early.
    Read(io::Error),
    /// The store cannot take it.
    Write(io::Error),
    /// The entry is not acceptable.
    Invalid(String),
}

/// The error for a full disk, if it is one.
pub(super) fn no_space(error: &io::Error, what: &str, path: &Path) -> Option<ImageError> {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::ENOSPC | Errno::EDQUOT)).then(|| ImageError::NoSpace {
        what: what.to_owned(),
        path: path.to_owned(),
    })
}

/// Unpacks a tar stream below `root` and returns how many bytes its files hold.
pub(super) fn unpack(reader: impl Read, root: &OwnedFd) -> Result<u64, LayerError> {
    let (reader, reading) = Bounded::new(reader);
    let mut archive = tar::Archive::new(reader);
    let mut walk = Walk {
        root,
        unpacked: HashSet::new(),
        directories: Vec::new(),
        size_bytes: 0,
    };
    let mut place = String::from("the start");
    let read = |place: &str, e: io::Error| LayerError {
        place: place.to_owned(),
        cause: if HeadersTooLarge::is_cause_of(&e) {
            Cause::Invalid(e.to_string())
        } else {
            Cause::Read(e)
        },
    };
    let entries = archive.entries().map_err(|e| read(&place, e))?;
    reading.headers();
    for entry in entries {
        let mut entry = entry.map_err(|e| read(&format!("after {place}"), e))?;
        reading.contents();
        let (start, size) = (reading.position(), size_in_archive(&entry));
        let name = entry.path_bytes().into_owned();
        place = format!(
            "entry {} at byte {}",
            quoted(&name),
            entry.raw_header_position()
        );
        walk.entry(&mut entry, &name).map_err(|cause| LayerError {
            place: place.clone(),
            cause,
        })?;
        // What nobody took, so that it is not taken for headers. What a sparse file has in memory is no measure of
        // what it has here; one that is not unpacked has to be small.
        if entry.header().entry_type() != tar::EntryType::GNUSparse {
            io::copy(&mut entry, &mut io::sink()).map_err(|e| read(&place, e))?;
        }
        // The crate takes the end of the stream for the end of an entry, and notices when it looks for the next one.
        if reading.position() - start == size {
            reading.headers_after_contents()
        } else {
            reading.headers()
        }
    }
    walk.finish().map_err(|cause| LayerError { place, cause })?;
    Ok(walk.size_bytes)
}

/// How many bytes of the archive are an entry's contents. A sparse file is larger than that.
fn size_in_archive(entry: &tar::Entry<'_, impl Read>) -> u64 {
    match entry.header().entry_type() {
        tar::EntryType::GNUSparse => entry.header().entry_size().unwrap_or(u64::MAX),
        _ => entry.size(),
    }
}

struct Walk<'a> {
    root: &'a OwnedFd,
    /// Names this layer brought, which its own whiteouts do not touch.
    unpacked: HashSet<PathBuf>,
    /// Times of directories, set when nothing more is written into them.
    directories: Vec<(PathBuf, TimeSpec)>,
    size_bytes: u64,
}

impl From<Errno> for Cause {
    fn from(e: Errno) -> Cause {
        Cause::Write(e.into())
    }
}

/// What the header says about the file.
struct Attributes {
    mode: Mode,
    uid: Uid,
    gid: Gid,
    mtime: TimeSpec,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Walk<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>, name: &[u8]) -> Result<(), Cause> {
        let kind = entry.header().entry_type();
        if matches!(kind, tar::EntryType::XGlobalHeader) {
            return Ok(());
        }
        if matches!(kind, tar::EntryType::XHeader) {
            // The crate takes one for an entry where the archive's format has none.
            return Err(Cause::Invalid(
                "extended attributes in an archive of a format without them".to_owned(),
            ));
        }
        let path = relative(name)?;
        let attributes = attributes(entry)?;
        let Some(base) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            let fd = self.root.try_clone().map_err(Cause::Write)?;
            set_attributes(&fd, &attributes)?;
            self.directories.push((path, attributes.mtime));
            return Ok(());
        };
        let dir = path.parent().unwrap_or(Path::new(""));
        let parent = make_dirs_in_root(self.root, dir, Mode::from_bits_truncate(0o755))
            .map_err(Cause::Write)?;
        if base.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&parent, dir, &base);
        }
        let is_dir = kind.is_dir();
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let existing = match fstatat(&parent, base.as_os_str(), flags) {
            Ok(stat) => Some(SFlag::from_bits_truncate(
                stat.st_mode & SFlag::S_IFMT.bits(),
            )),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e.into()),
        };
        if existing.is_some_and(|found| !(is_dir && found == SFlag::S_IFDIR)) {
            remove_at(&parent, &base).map_err(Cause::Write)?;
        }
        match kind {
            tar::EntryType::Directory => {
                if existing != Some(SFlag::S_IFDIR) {
                    mkdirat(&parent, base.as_os_str(), Mode::from_bits_truncate(0o700))?;
                }
                let flags =
                    OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(&parent, base.as_os_str(), flags, Mode::empty())?;
                set_attributes(&fd, &attributes)?;
                self.directories.push((path.clone(), attributes.mtime));
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_WRONLY
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_CLOEXEC;
                let mode = Mode::from_bits_truncate(0o600);
                let fd = openat(&parent, base.as_os_str(), flags, mode)?;
                let mut file = File::from(fd);
                self.size_bytes += copy(entry, &mut file)?;
                let fd = OwnedFd::from(file);
                set_attributes(&fd, &attributes)?;
                futimens(&fd, &attributes.mtime, &attributes.mtime)?;
            }
            tar::EntryType::Symlink => {
                let target = link_target(entry)?;
                symlinkat(target.as_os_str(), &parent, base.as_os_str())?;
                set_node_attributes(&parent, &base, &attributes, Chmod::Skip)?;
            }
            tar::EntryType::Link => self.hard_link(&link_target(entry)?, &parent, &base)?,
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
                let header = entry.header();
                let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0).into();
                let device = makedev(number(header.device_major()), number(header.device_minor()));
                let kind = match kind {
                    tar::EntryType::Char => SFlag::S_IFCHR,
                    tar::EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                mknodat(&parent, base.as_os_str(), kind, attributes.mode, device)?;
                set_node_attributes(&parent, &base, &attributes, Chmod::Apply)?;
            }
            other => {
                return Err(Cause::Invalid(format!(
                    "entries of type {:?} do not belong into an image",
                    char::from(other.as_byte())
                )));
            }
        }
        self.unpacked.insert(path);
        Ok(())
    }

    /// Removes what a whiteout names from the layers below, not what this layer brought.
    fn whiteout(&mut self, parent: &OwnedFd, dir: &Path, base: &OsStr) -> Result<(), Cause> {
        let bytes = base.as_bytes();
        if bytes == OPAQUE {
            return self.remove_lower(parent, dir);
        }
        if bytes.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(bytes.get(WHITEOUT.len()..).unwrap_or_default());
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(Cause::Invalid("a whiteout that names nothing".to_owned()));
        }
        let path = dir.join(hidden);
        if !self.unpacked.contains(&path) {
            return remove_at(parent, hidden).map_err(Cause::Write);
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(parent, hidden, flags, Mode::empty()) {
            Ok(fd) => self.remove_lower(&fd, &path),
            Err(Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Empties a directory of everything that this layer did not bring.
    fn remove_lower(&self, dir: &OwnedFd, path: &Path) -> Result<(), Cause> {
        let readable = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(dir, ".", readable, Mode::empty())?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::from_fd(fd.try_clone().map_err(Cause::Write)?)?.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        for name in names {
            let path = path.join(&name);
            if self.unpacked.contains(&path) {
                let flags = readable | OFlag::O_NOFOLLOW;
                if let Ok(child) = openat(&fd, name.as_os_str(), flags, Mode::empty()) {
                    self.remove_lower(&child, &path)?;
                }
            } else if self.unpacked.iter().any(|p| p.starts_with(&path)) {
                // A directory that was made on the way to one of this layer's files.
                let flags = readable | OFlag::O_NOFOLLOW;
                let child = openat(&fd, name.as_os_str(), flags, Mode::empty())?;
                self.remove_lower(&child, &path)?;
            } else {
                remove_at(&fd, &name).map_err(Cause::Write)?;
            }
        }
        Ok(())
    }

    fn hard_link(&self, target: &OsStr, parent: &OwnedFd, base: &OsStr) -> Result<(), Cause> {
        let target = relative(target.as_bytes())?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let source = open_in_root(self.root, &target, flags, Mode::empty()).map_err(|e| {
            if e == Errno::ENOENT {
                Cause::Invalid(format!(
                    "a hard link to {}, which does not exist",
                    quoted(target.as_os_str().as_bytes())
                ))
            } else {
                e.into()
            }
        })?;
        linkat(&source, "", parent, base, AtFlags::AT_EMPTY_PATH)?;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Cause> {
        for (path, mtime) in self.directories.drain(..).rev() {
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY;
            match open_in_root(self.root, &path, flags, Mode::empty()) {
                Ok(fd) => futimens(&fd, &mtime, &mtime)?,
                // A later entry replaced it.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Copies an entry's contents; knows whose fault an error is.
fn copy(entry: &mut impl Read, file: &mut File) -> Result<u64, Cause> {
    let mut buffer = [0_u8; 64 << 10];
    let mut total = 0;
    loop {
        let n = entry.read(&mut buffer).map_err(Cause::Read)?;
        let Some(part) = buffer.get(..n).filter(|part| !part.is_empty()) else {
            return Ok(total);
        };
        io::Write::write_all(file, part).map_err(Cause::Write)?;
        total += n as u64;
    }
}

/// A name as a path below the root. Leading slashes are dropped, `..` is refused.
fn relative(name: &[u8]) -> Result<PathBuf, Cause> {
    let mut path = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Cause::Invalid(
                    "its name leaves the image's root".to_owned(),
                ));
            }
        }
    }
    Ok(path)
}

fn link_target(entry: &tar::Entry<'_, impl Read>) -> Result<OsString, Cause> {
    let target = entry.link_name_bytes().map(|t| t.into_owned());
    match target {
        Some(target) if !target.is_empty() => Ok(OsString::from_vec(target)),
        _ => Err(Cause::Invalid("a link without a target".to_owned())),
    }
}

fn attributes(entry: &mut tar::Entry<'_, impl Read>) -> Result<Attributes, Cause> {
    let header = entry.header();
    let mode = header.mode().map_err(Cause::Read)?;
    let id = |id: io::Result<u64>| {
        u32::try_from(id.map_err(Cause::Read)?)
            .map_err(|_| Cause::Invalid("an owner beyond 32 bits".to_owned()))
    };
    let (uid, gid) = (id(header.uid())?, id(header.gid())?);
    let seconds = i64::try_from(header.mtime().map_err(Cause::Read)?).unwrap_or(0);
    let mut mtime = TimeSpec::new(seconds, 0);
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions().map_err(Cause::Read)? {
        for extension in extensions {
            let extension = extension.map_err(Cause::Read)?;
            let Ok(key) = extension.key() else { continue };
            if key == "mtime" {
                mtime = extension.value().ok().and_then(pax_time).unwrap_or(mtime);
            } else if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                let value = extension.value_bytes();
                if value.len() > XATTR_BYTES_MAX {
                    return Err(Cause::Invalid(format!(
                        "attribute {} is too large",
                        printable(name)
                    )));
                }
                if !name.starts_with(XATTR_OVERLAY) {
                    xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
    Ok(Attributes {
        mode: Mode::from_bits_truncate(mode & 0o7777),
        uid: Uid::from_raw(uid),
        gid: Gid::from_raw(gid),
        mtime,
        xattrs,
    })
}

/// `seconds[.fraction]`.
fn pax_time(text: &str) -> Option<TimeSpec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut nanos = 0_i64;
    for at in 0..9 {
        let digit = fraction
            .as_bytes()
            .get(at)
            .map_or(0, |b| b.wrapping_sub(b'0'));
        nanos = nanos * 10 + i64::from(digit.min(9));
    }
    Some(TimeSpec::new(seconds.parse().ok()?, nanos))
}

/// Owner first: changing it clears the set-user-ID bit and file capabilities.
fn set_attributes(fd: &OwnedFd, attributes: &Attributes) -> Result<(), Cause> {
    fchown(fd, Some(attributes.uid), Some(attributes.gid))?;
    fchmod(fd, attributes.mode)?;
    set_xattrs(&tree::fd_path(fd), attributes)
}

/// Whether permission bits mean something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chmod {
    Apply,
    Skip,
}

/// The same for what must not be opened: links, devices, fifos.
fn set_node_attributes(
    parent: &OwnedFd,
    base: &OsStr,
    attributes: &Attributes,
    chmod: Chmod,
) -> Result<(), Cause> {
    let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
    fchownat(
        parent,
        base,
        Some(attributes.uid),
        Some(attributes.gid),
        nofollow,
    )?;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = openat(parent, base, flags, Mode::empty())?;
    let path = tree::fd_path(&node);
    if chmod == Chmod::Apply {
        nix::sys::stat::fchmodat(
            nix::fcntl::AT_FDCWD,
            &path,
            attributes.mode,
            nix::sys::stat::FchmodatFlags::FollowSymlink,
        )?;
    }
    set_xattrs(&path, attributes)?;
    utimensat(
        parent,
        base,
        &attributes.mtime,
        &attributes.mtime,
        UtimensatFlags::NoFollowSymlink,
    )?;
    Ok(())
}

fn set_xattrs(path: &Path, attributes: &Attributes) -> Result<(), Cause> {
    for (name, value) in &attributes.xattrs {
        match rustix::fs::setxattr(path, name.as_str(), value, rustix::fs::XattrFlags::empty()) {
            Ok(()) => {}
            // A file system or kind of file without such attributes, as containerd does.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM)
                if !name.starts_with("security.capability") =>
            {
                tracing::debug!(attribute = name, "attribute is not supported here");
            }
            Err(e) => return Err(Cause::Write(e.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
