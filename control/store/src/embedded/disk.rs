// SPDX-License-Identifier: Apache-2.0
//! The file under the engine: reserves space before it is used, so that a full disk is noticed while
//! growing and never in the middle of a commit.
//!
//! redb refuses everything, reads as well, once a write has failed, until the file is opened again.
//! Because what is inside the file's length is reserved on the disk, opening it again works on a full
//! disk too, and reads go on.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

/// A file whose length is always backed by blocks, and which can be told to be full. `B` reads and writes it; tests
/// have one whose power can fail.
#[derive(Debug)]
pub(super) struct Disk<B = FileBackend> {
    inner: B,
    file: File,
    quota_bytes: Quota,
}

/// The longest a file may grow to, in bytes; stands for the size of the disk in tests.
#[derive(Clone, Debug)]
pub(super) struct Quota(pub(super) Arc<AtomicU64>);

impl Default for Quota {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }
}

impl Disk {
    pub(super) fn new(file: File, quota_bytes: Quota) -> Result<Self, DatabaseError> {
        let own = file.try_clone().map_err(DatabaseError::from)?;
        Ok(Self::over(FileBackend::new(file)?, own, quota_bytes))
    }
}

impl<B> Disk<B> {
    /// `inner` reads and writes `file`.
    pub(super) fn over(inner: B, file: File, quota_bytes: Quota) -> Self {
        Self {
            inner,
            file,
            quota_bytes,
        }
    }
}

impl<B: StorageBackend> StorageBackend for Disk<B> {
    fn len(&self) -> Result<u64, io::Error> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        if len > self.quota_bytes.0.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(Errno::ENOSPC as i32));
        }
        let old = self.inner.len()?;
        if len > old {
            reserve(&self.file, old, len)?;
        }
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let synced = self.inner.sync_data();
        if synced.is_err() {
            // Linux takes pages that it could not write for written, so what is cached may not be on the disk and never
            // gets there. Without them the file, opened again, is what the disk has: every commit that was acknowledged.
            let dropped = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
            if let Err(error) = dropped {
                tracing::error!(%error, "the store's cached pages could not be dropped after a failed sync");
            }
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

/// Gives the file blocks from `old` up to `len`. On failure the length is as before.
fn reserve(file: &File, old: u64, len: u64) -> Result<(), io::Error> {
    let (Ok(offset), Ok(grown)) = (i64::try_from(old), i64::try_from(len - old)) else {
        return Err(io::Error::from_raw_os_error(Errno::EFBIG as i32));
    };
    match fallocate(file, FallocateFlags::empty(), offset, grown) {
        Ok(()) => Ok(()),
        // A file system without the call; a full disk then shows in a write.
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
        Err(error) => {
            // Part of the range may have been reserved, and the length with it.
            file.set_len(old)?;
            Err(io::Error::from_raw_os_error(error as i32))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{self, IoSliceMut};
    use std::path::Path;

    use redb::StorageBackend;
    use redb::backends::FileBackend;
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::{Disk, Quota};

    /// A file whose pages the kernel takes for written and whose sync fails nevertheless: what Linux leaves after an
    /// error of the disk under it.
    #[derive(Debug)]
    struct Unsynced(FileBackend);

    impl StorageBackend for Unsynced {
        fn len(&self) -> Result<u64, io::Error> {
            self.0.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
            self.0.read(offset, out)
        }

        fn set_len(&self, len: u64) -> Result<(), io::Error> {
            self.0.set_len(len)
        }

        fn sync_data(&self) -> Result<(), io::Error> {
            self.0.sync_data()?;
            Err(Errno::IO.into())
        }

        fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
            self.0.write(offset, data)
        }
    }

    /// Whether the first page is read without asking the disk.
    fn is_cached(file: &File) -> bool {
        let mut page = [0; 4096];
        let mut parts = [IoSliceMut::new(&mut page)];
        match preadv2(file, &mut parts, 0, ReadWriteFlags::NOWAIT) {
            Ok(read) => read > 0,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("preadv2: {error}"),
        }
    }

    #[test]
    fn nothing_of_what_a_failed_sync_was_to_write_stays_cached() {
        // Under the build's folder: what lies in a tmpfs is never out of memory.
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let target = Path::new(&package).join("../../target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(dir.path().join("store"))
            .unwrap();
        let inner = Unsynced(FileBackend::new(file.try_clone().unwrap()).unwrap());
        let disk = Disk::over(inner, file.try_clone().unwrap(), Quota::default());
        disk.set_len(1 << 20).unwrap();
        disk.write(0, &[1; 1 << 20]).unwrap();
        assert!(is_cached(&file), "what was just written is in memory");

        let synced = disk.sync_data();

        assert!(synced.is_err(), "{synced:?}");
        assert!(!is_cached(&file), "the file is read from memory still");
    }
}
