// SPDX-License-Identifier: Apache-2.0
//! The desired state on disk: one file of checked frames, each a message of the feed, rewritten as a whole
//! when most of it is out of date.
//!
//! ```text
//! "KNARRDS1" | len u32 | crc32 u32 | ToNode | len | crc32 | ToNode | ...
//! ```
//!
//! A frame is in the file before the state shows it; it is on the disk before it is acknowledged. A torn
//! end is cut off at the next start. Not here: what the messages mean (`desired`).

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_api::feed::ToNode;
use knarr_api::feed::to_node::Message;
use prost::Message as _;

use crate::files;

const MAGIC: &[u8; 8] = b"KNARRDS1";
/// A larger frame is no frame: the feed's messages are far smaller.
const FRAME_BYTES_MAX: u32 = 256 << 20;
/// Bytes that may be out of date without a rewrite. A start reads them too, and a rewrite costs two waits for the disk.
const STALE_BYTES_MAX: u64 = 256 << 10;

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
        let len = file.metadata().map_err(fail("read"))?.len();
        let mut frames = Frames::new(&file, len);
        if len > 0 && !frames.has_magic().map_err(fail("read"))? {
            let aside = dir.join("state.unknown");
            std::fs::rename(&path, &aside).map_err(fail("move"))?;
            tracing::warn!(
                moved_to = %aside.display(),
                "the stored state is not of this version; starting without one"
            );
            return Journal::open(dir, take);
        }
        let whole = if len == 0 {
            file.write_all(MAGIC).map_err(fail("write"))?;
            MAGIC.len() as u64
        } else {
            while let Some(message) = frames.next().map_err(fail("read"))? {
                take(&message);
            }
            let whole = frames.whole;
            if whole < len {
                tracing::warn!(
                    bytes = len - whole,
                    "the stored state had a torn end; cut off"
                );
                file.set_len(whole).map_err(fail("cut"))?;
            }
            whole
        };
        file.seek(SeekFrom::Start(whole)).map_err(fail("seek in"))?;
        Ok(Journal {
            path,
            file: Arc::new(file),
            bytes: whole,
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

    /// Whether it is time for [`Journal::rewrite`], where a fresh file would have at most `live_bytes`. A rewrite is
    /// then paid for by as many bytes that went out of date.
    pub fn wants_rewrite(&self, live_bytes: u64) -> bool {
        self.health == Health::Torn || self.bytes > STALE_BYTES_MAX + 2 * live_bytes
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

/// Reads a file frame by frame, so that it is never in memory as a whole.
struct Frames<'f> {
    file: BufReader<&'f File>,
    /// Bytes that were not read yet.
    left: u64,
    /// Where the last whole frame ended.
    whole: u64,
    payload: Vec<u8>,
}

impl<'f> Frames<'f> {
    fn new(file: &'f File, len: u64) -> Frames<'f> {
        Frames {
            file: BufReader::new(file),
            left: len,
            whole: 0,
            payload: Vec::new(),
        }
    }

    /// Reads the beginning of the file; to be called once.
    fn has_magic(&mut self) -> io::Result<bool> {
        let is_magic = self.read(MAGIC.len() as u64)? && self.payload == MAGIC;
        self.whole = MAGIC.len() as u64;
        Ok(is_magic)
    }

    /// The next message; none where no whole frame follows.
    fn next(&mut self) -> io::Result<Option<Message>> {
        let (Some(len), Some(crc)) = (self.word()?, self.word()?) else {
            return Ok(None);
        };
        if len > FRAME_BYTES_MAX || !self.read(u64::from(len))? || crc32(&self.payload) != crc {
            return Ok(None);
        }
        let message = ToNode::decode(&*self.payload).ok().and_then(|m| m.message);
        if message.is_some() {
            self.whole += 8 + u64::from(len);
        }
        Ok(message)
    }

    fn word(&mut self) -> io::Result<Option<u32>> {
        let is_whole = self.read(4)?;
        let bytes = self.payload.first_chunk().filter(|_| is_whole);
        Ok(bytes.map(|bytes| u32::from_le_bytes(*bytes)))
    }

    /// Fills `payload` with the next `len` bytes. False where the file has fewer.
    fn read(&mut self, len: u64) -> io::Result<bool> {
        self.payload.clear();
        if len > self.left {
            return Ok(false);
        }
        self.left -= len;
        let read = self
            .file
            .by_ref()
            .take(len)
            .read_to_end(&mut self.payload)?;
        Ok(read as u64 == len)
    }
}
