// SPDX-License-Identifier: Apache-2.0
//! A source on the node's disk: a directory, or a tar file with random access by name.
//!
//! Not here: what the files mean (`layout`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::headers::{Bounded, HeadersTooLarge};
use super::section::{Packing, Section};
use super::source::{Blob, Found, Source};
use super::text::{printable, quoted};
use super::{AGAIN, ImageError, layout};
use crate::tree;

/// JSON documents larger than this are refused; the largest known index has some hundred kilobytes.
const DOCUMENT_BYTES_MAX: u64 = 16 << 20;
/// Links from name to name in an archive; docker's have one.
const LINKS_MAX: usize = 8;
/// More entries than any layout has: each layer has one to three.
const ENTRIES_MAX: usize = 100_000;

/// An opened layout or archive.
pub(super) struct Files {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory(OwnedFd),
    Tar {
        file: Arc<File>,
        entries: HashMap<String, Entry>,
    },
}

enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

impl Files {
    /// Opens a directory or archive. A compressed archive is unpacked to an unnamed file in `tmp` first.
    pub fn open(path: &Path, tmp: &Path) -> Result<Files, ImageError> {
        let metadata = std::fs::metadata(path).map_err(ImageError::io("reading", path))?;
        let kind = if metadata.is_dir() {
            Kind::Directory(tree::open_dir(path).map_err(ImageError::io("opening", path))?)
        } else {
            let file = File::open(path).map_err(ImageError::io("opening", path))?;
            let file = Arc::new(expand(path, file, tmp)?);
            let entries = index(path, &file)?;
            Kind::Tar { file, entries }
        };
        Ok(Files {
            path: path.to_owned(),
            kind,
        })
    }
}

impl Source for Files {
    /// Where it came from, for messages.
    fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file by its name in the archive; `None` when there is none.
    fn blob(&self, name: &str) -> Result<Option<Blob>, ImageError> {
        let blob = match &self.kind {
            Kind::Directory(root) => {
                // A fifo would wait for somebody who writes into it.
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let opened = tree::open_in_root(root, Path::new(name), flags, Mode::empty());
                let file = match opened {
                    Ok(fd) => File::from(fd),
                    Err(nix::errno::Errno::ENOENT) => return Ok(None),
                    Err(e) => {
                        return Err(ImageError::io("opening", &self.path.join(name))(e.into()));
                    }
                };
                let metadata = file
                    .metadata()
                    .map_err(ImageError::io("reading", &self.path.join(name)))?;
                if !metadata.is_file() {
                    return Err(ImageError::invalid(
                        &self.path,
                        format!("{} is not a file", printable(name)),
                    ));
                }
                Blob {
                    size: metadata.len(),
                    file: Section {
                        file: Arc::new(file),
                        at: 0,
                        end: metadata.len(),
                    },
                }
            }
            Kind::Tar { file, entries } => {
                let mut name = clean(name);
                let mut links = 0;
                loop {
                    match entries.get(&name) {
                        None => return Ok(None),
                        Some(Entry::File { offset, size }) => {
                            break Blob {
                                size: *size,
                                file: Section {
                                    file: file.clone(),
                                    at: *offset,
                                    end: offset + size,
                                },
                            };
                        }
                        Some(Entry::Link(target)) if links < LINKS_MAX => {
                            links += 1;
                            name.clone_from(target);
                        }
                        Some(Entry::Link(_)) => {
                            return Err(ImageError::invalid(
                                &self.path,
                                format!("{} is a link that leads in circles", printable(&name)),
                            ));
                        }
                    }
                }
            }
        };
        Ok(Some(blob))
    }

    /// Reads a small file; `None` when there is none.
    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let Some(mut blob) = self.blob(name)? else {
            return Ok(None);
        };
        if blob.size > DOCUMENT_BYTES_MAX {
            return Err(ImageError::invalid(
                &self.path,
                format!(
                    "{} has {} bytes; it should be a small JSON document",
                    printable(name),
                    blob.size
                ),
            ));
        }
        let mut bytes = Vec::new();
        blob.file
            .read_to_end(&mut bytes)
            .map_err(ImageError::io("reading", &self.path.join(name)))?;
        Ok(Some(bytes))
    }

    fn images(&self) -> Result<Vec<Found>, ImageError> {
        layout::find_images(self)
    }
}

/// A name without `./`, `/` and `..`, as it is looked up.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Unpacks a compressed archive next to the store, so that it can be read by position.
fn expand(path: &Path, file: File, tmp: &Path) -> Result<File, ImageError> {
    let mut start = [0_u8; 4];
    let n = file
        .read_at(&mut start, 0)
        .map_err(ImageError::io("reading", path))?;
    let packing = Packing::of(start.get(..n).unwrap_or_default());
    if packing == Packing::Plain {
        return Ok(file);
    }
    let mut reader = packing
        .reader(file)
        .map_err(ImageError::io("reading", path))?;
    let mut plain = tempfile::tempfile_in(tmp).map_err(ImageError::io("writing to", tmp))?;
    let mut buffer = vec![0_u8; 256 << 10];
    loop {
        let n = reader.read(&mut buffer).map_err(|e| {
            ImageError::invalid(
                path,
                format!(
                    "the compressed archive is damaged: {}{AGAIN}",
                    printable(&e.to_string())
                ),
            )
        })?;
        let Some(part) = buffer.get(..n).filter(|part| !part.is_empty()) else {
            return Ok(plain);
        };
        io::Write::write_all(&mut plain, part).map_err(|e| {
            super::layer::no_space(&e, "the archive", tmp)
                .unwrap_or_else(|| ImageError::io("writing to", tmp)(e))
        })?;
    }
}

/// Lists what is in a tar file, and checks that all of it is there.
fn index(path: &Path, file: &Arc<File>) -> Result<HashMap<String, Entry>, ImageError> {
    let length = file
        .metadata()
        .map_err(ImageError::io("reading", path))?
        .len();
    let whole = Section {
        file: file.clone(),
        at: 0,
        end: length,
    };
    let mut seekable = SeekSection(whole);
    let (bounded, reading) = Bounded::new(&mut seekable);
    let mut archive = tar::Archive::new(bounded);
    let mut entries = HashMap::new();
    let mut last = String::from("its start");
    let broken = |last: &str, e: io::Error| {
        if HeadersTooLarge::is_cause_of(&e) {
            return ImageError::invalid(path, format!("after {last}: {e}"));
        }
        ImageError::invalid(
            path,
            format!(
                "not a tar archive, or damaged after {last}: {}{AGAIN}",
                printable(&e.to_string())
            ),
        )
    };
    let mut walk = archive.entries_with_seek().map_err(|e| broken(&last, e))?;
    loop {
        // Contents are jumped over.
        reading.headers();
        let Some(entry) = walk.next() else { break };
        let entry = entry.map_err(|e| broken(&last, e))?;
        let name = clean(&String::from_utf8_lossy(&entry.path_bytes()));
        let offset = entry.raw_file_position();
        let size = entry.size();
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return Err(ImageError::invalid(
                path,
                format!(
                    "the archive ends at byte {length}, in the middle of entry {} \
                     ({size} bytes from {offset}){AGAIN}",
                    quoted(name.as_bytes())
                ),
            ));
        }
        let target = || {
            let link = entry.link_name_bytes();
            String::from_utf8_lossy(&link.unwrap_or_default()).into_owned()
        };
        let kind = entry.header().entry_type();
        let found = match kind {
            tar::EntryType::Symlink => {
                let dir = Path::new(&name).parent().unwrap_or(Path::new(""));
                Entry::Link(clean(&dir.join(target()).to_string_lossy()))
            }
            tar::EntryType::Link => Entry::Link(clean(&target())),
            _ if kind.is_file() => Entry::File { offset, size },
            _ => continue,
        };
        last = format!("entry {}", quoted(name.as_bytes()));
        entries.insert(name, found);
        if entries.len() > ENTRIES_MAX {
            return Err(ImageError::invalid(
                path,
                "it has too many entries for an image",
            ));
        }
    }
    if entries.is_empty() {
        return Err(ImageError::invalid(
            path,
            format!("it is an empty archive{AGAIN}"),
        ));
    }
    Ok(entries)
}

/// A section that can be skipped through.
struct SeekSection(Section);

impl Read for &mut SeekSection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl io::Seek for &mut SeekSection {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.0.at.checked_add_signed(by),
            io::SeekFrom::End(by) => self.0.end.checked_add_signed(by),
        };
        self.0.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.0.at)
    }
}

#[cfg(test)]
mod tests;
