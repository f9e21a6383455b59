// SPDX-License-Identifier: Apache-2.0
//! The desired state on disk: one file of checked frames, each a message of the feed, rewritten as a whole
//! when it has grown to twice its size.
//!
//! ```text
//! "KNARRDS1" | len u32 | crc32 u32 | ToNode | len | crc32 | ToNode | ...
//! ```
//!
//! A frame is in the file before the state shows it; it is on the disk before it is acknowledged. A torn
//! end is cut off at the next start. Not here: what the messages mean (`desired`).

use crate::files;
use knarr_api::feed::ToNode;
use knarr_api::feed::to_node::Message;
use prost::Message as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"KNARRDS1";
/// A larger frame is no frame: the feed's messages are far smaller.
const FRAME_BYTES_MAX: u32 = 256 << 20;
/// Below this size a rewrite is not worth it.
const REWRITE_BYTES_MIN: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the stored state {path}")]
pub struct JournalError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// The open file.
pub struct Journal {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    bytes_after_rewrite: u64,
    health: Health,
}

/// Whether the file holds everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Whole,
    /// A frame could not be written (a full disk) or not be made durable: only a rewrite makes it whole
    /// again.
    Torn,
}

impl Journal {
    /// Opens or makes the file and shows every whole frame to `take`.
    pub fn open(dir: &Path, mut take: impl FnMut(&Message)) -> Result<Journal, JournalError> {
        let path = dir.join("state");
        let fail = |action| {
            let path = path.clone();
            move |source| JournalError {
                action,
                path,
                source,
            }
        };
        files::private_dir(dir).map_err(fail("make the directory of"))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail("open"))?;
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).map_err(fail("read"))?;
        if !contents.is_empty() && !contents.starts_with(MAGIC) {
            let aside = dir.join("state.unknown");
            std::fs::rename(&path, &aside).map_err(fail("move"))?;
            tracing::warn!(
                moved_to = %aside.display(),
                "the stored state is not of this version; starting without one"
            );
            return Journal::open(dir, take);
        }
        let mut whole = MAGIC.len();
        if contents.is_empty() {
            file.write_all(MAGIC).map_err(fail("write"))?;
        } else {
            while let Some((message, end)) = frame(&contents, whole) {
                take(&message);
                whole = end;
            }
            if whole < contents.len() {
                tracing::warn!(
                    bytes = contents.len() - whole,
                    "the stored state had a torn end; cut off"
                );
                file.set_len(whole as u64).map_err(fail("cut"))?;
            }
        }
        file.seek(SeekFrom::Start(whole as u64))
            .map_err(fail("seek in"))?;
        Ok(Journal {
            path,
            file: Arc::new(file),
            bytes: whole as u64,
            bytes_after_rewrite: whole as u64,
            health: Health::Whole,
        })
    }

    /// Appends a message; it survives the end of this process when this returns.
    pub fn append(&mut self, message: &ToNode) -> Result<(), JournalError> {
        if self.health == Health::Torn {
            return Err(self.error("append to", io::ErrorKind::StorageFull.into()));
        }
        let bytes = encode(message);
        match (&*self.file).write_all(&bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(source) => {
                self.health = Health::Torn;
                // What was written of the frame is cut off again, now or at the next start.
                let cut = self.file.set_len(self.bytes);
                if cut.is_ok() && (&*self.file).seek(SeekFrom::Start(self.bytes)).is_err() {
                    tracing::warn!("the stored state cannot be positioned; it will be rewritten");
                }
                Err(self.error("append to", source))
            }
        }
    }

    /// The file, for making it durable elsewhere; absent where it does not hold everything.
    pub fn to_sync(&self) -> Option<Arc<File>> {
        (self.health == Health::Whole).then(|| self.file.clone())
    }

    /// Whether only a rewrite helps.
    pub fn is_torn(&self) -> bool {
        self.health == Health::Torn
    }

    /// Whether `file` is this journal's and cannot be trusted. One that was replaced by a rewrite can: the
    /// rewrite is durable.
    pub fn is_torn_file(&self, file: &Arc<File>) -> bool {
        self.is_torn() && Arc::ptr_eq(&self.file, file)
    }

    /// Notes that `file` lost what was written to it. Whether it still is this journal's.
    pub fn tear(&mut self, file: &Arc<File>) -> bool {
        let own = Arc::ptr_eq(&self.file, file);
        if own {
            self.health = Health::Torn;
        }
        own
    }

    /// Whether it is time for [`Journal::rewrite`].
    pub fn wants_rewrite(&self) -> bool {
        self.health == Health::Torn
            || self.bytes > REWRITE_BYTES_MIN.max(2 * self.bytes_after_rewrite)
    }

    /// Replaces the file by these messages, as a whole and durably.
    pub fn rewrite(&mut self, messages: impl Iterator<Item = ToNode>) -> Result<(), JournalError> {
        let new = self.path.with_extension("new");
        let written = (|| {
            // What an attempt left that was cut off may have any mode and takes room.
            files::remove(&new)?;
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)?;
            let mut bytes = MAGIC.len() as u64;
            file.write_all(MAGIC)?;
            for message in messages {
                let frame = encode(&message);
                file.write_all(&frame)?;
                bytes += frame.len() as u64;
            }
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            // From here on the open file is no longer the one of that name: until it is taken over, nothing
            // may be acknowledged.
            self.health = Health::Torn;
            if let Some(dir) = self.path.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok((file, bytes))
        })();
        match written {
            Ok((file, bytes)) => {
                self.file = Arc::new(file);
                self.bytes = bytes;
                self.bytes_after_rewrite = bytes;
                self.health = Health::Whole;
                Ok(())
            }
            Err(source) => {
                // Half a file on a full disk would keep others from writing.
                if let Err(error) = files::remove(&new) {
                    tracing::debug!(%error, "the unfinished state file stays");
                }
                Err(self.error("rewrite", source))
            }
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> JournalError {
        JournalError {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

fn encode(message: &ToNode) -> Vec<u8> {
    let len = message.encoded_len();
    let mut bytes = Vec::with_capacity(len + 8);
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    // A vector grows, so there is always room.
    if message.encode(&mut bytes).is_err() {
        bytes.truncate(8);
    }
    let crc = crc32(&bytes[8..]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The frame that begins at `at`, and where it ends.
fn frame(contents: &[u8], at: usize) -> Option<(Message, usize)> {
    let word = |at: usize| -> Option<u32> {
        let bytes = contents.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let len = word(at)?;
    if len > FRAME_BYTES_MAX {
        return None;
    }
    let crc = word(at + 4)?;
    let end = at + 8 + len as usize;
    let payload = contents.get(at + 8..end)?;
    if crc32(payload) != crc {
        return None;
    }
    let message = ToNode::decode(payload).ok()?.message?;
    Some((message, end))
}
