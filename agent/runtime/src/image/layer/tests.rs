// SPDX-License-Identifier: Apache-2.0
//! Tests of names and times. Unpacking itself is tested in `tests/runtime/images.rs`, as root.

use super::*;

#[test]
fn names_stay_below_the_root() {
    let path = |name: &str| relative(name.as_bytes()).ok();
    assert_eq!(path("./etc/passwd"), Some(PathBuf::from("etc/passwd")));
    assert_eq!(path("/etc//passwd/"), Some(PathBuf::from("etc/passwd")));
    assert_eq!(path("./"), Some(PathBuf::new()));
    assert_eq!(path("a/../../b"), None);
    assert_eq!(path(".."), None);
}

#[test]
fn times_have_fractions() {
    assert_eq!(pax_time("12.5"), Some(TimeSpec::new(12, 500_000_000)));
    assert_eq!(pax_time("12.0000000019"), Some(TimeSpec::new(12, 1)));
    assert_eq!(pax_time("12"), Some(TimeSpec::new(12, 0)));
    assert_eq!(pax_time("x"), None);
}

#[test]
fn a_full_disk_is_told_apart() {
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    assert!(no_space(&full, "layer", Path::new("/")).is_some());
    let other = io::Error::from_raw_os_error(libc::EIO);
    assert!(no_space(&other, "layer", Path::new("/")).is_none());
}

/// More than any headers may have, and little enough for a test to read.
const BOMB_BYTES: u64 = 64 << 20;

/// One header block.
fn header(format: fn() -> tar::Header, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = format();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    header
}

/// Unpacks a stream and returns how much of it was read and why it was refused.
fn refused(stream: impl Read) -> (u64, String) {
    struct Counting<R>(R, u64);
    impl<R: Read> Read for Counting<R> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buf)?;
            self.1 += n as u64;
            Ok(n)
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let root = tree::open_dir(dir.path()).unwrap();
    let mut stream = Counting(stream, 0);
    let error = unpack(&mut stream, &root).unwrap_err();
    match error.cause {
        Cause::Invalid(why) => (stream.1, why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_that_would_fill_the_memory_are_refused_before_they_are_read() {
    use tar::EntryType::{GNULongLink, GNULongName, XHeader};
    let formats: [fn() -> tar::Header; 2] = [tar::Header::new_gnu, tar::Header::new_ustar];
    for kind in [XHeader, GNULongName, GNULongLink] {
        for format in formats {
            let first = header(format, kind, BOMB_BYTES);
            let stream = first.as_bytes().chain(io::repeat(b'a').take(BOMB_BYTES));
            let (read, why) = refused(stream);
            assert!(read < BOMB_BYTES / 8, "{kind:?}: {read}");
            assert!(why.contains("headers"), "{kind:?}: {why}");
        }
    }
    // Where the format has no such headers the crate hands them out as entries.
    let first = header(tar::Header::new_old, XHeader, BOMB_BYTES);
    let (read, why) = refused(first.as_bytes().chain(io::repeat(b'a').take(BOMB_BYTES)));
    assert!(read < BOMB_BYTES / 8, "{read}");
    assert!(why.contains("format"), "{why}");
}

#[test]
fn a_map_of_a_sparse_file_that_would_fill_the_memory_is_refused() {
    let mut first = header(tar::Header::new_gnu, tar::EntryType::GNUSparse, 0);
    first.as_gnu_mut().unwrap().isextended[0] = 1;
    first.set_cksum();
    // One block after the other says that nothing is there, and that another follows.
    let mut more = tar::GnuExtSparseHeader::new();
    more.isextended[0] = 1;
    for block in &mut more.sparse {
        block.offset = *b"00000000000\0";
        block.numbytes = *b"00000000000\0";
    }
    let blocks = usize::try_from(BOMB_BYTES).unwrap() / more.as_bytes().len();
    let bomb = more.as_bytes().repeat(blocks);
    let (read, why) = refused(first.as_bytes().chain(bomb.as_slice()));
    assert!(read < BOMB_BYTES / 8, "{read}");
    assert!(why.contains("headers"), "{why}");
}

#[test]
fn contents_that_nobody_unpacks_are_not_taken_for_headers() {
    // A global header is not kept, and neither is what it says; then comes what may not be there.
    let global = header(
        tar::Header::new_ustar,
        tar::EntryType::XGlobalHeader,
        8 << 20,
    );
    let mut last = header(tar::Header::new_ustar, tar::EntryType::Regular, 0);
    last.as_old_mut().name[..4].copy_from_slice(b"../x");
    last.set_cksum();
    let stream = global.as_bytes().chain(io::repeat(b'a').take(8 << 20));
    let (read, why) = refused(stream.chain(last.as_bytes().as_slice()));
    assert!(read > 8 << 20, "{read}");
    assert!(why.contains("leaves"), "{why}");
}

/// One file as an archive holds it: its header and its contents, filled up to a block.
fn member(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = header(
        tar::Header::new_gnu,
        tar::EntryType::Regular,
        contents.len() as u64,
    );
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_uid(nix::unistd::getuid().as_raw().into());
    header.set_gid(nix::unistd::getgid().as_raw().into());
    header.set_cksum();
    let mut bytes = [header.as_bytes().as_slice(), contents].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// Unpacks a stream and returns the files, or why it cannot be read.
fn unpacked(stream: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let dir = tempfile::tempdir().unwrap();
    let root = tree::open_dir(dir.path()).unwrap();
    match unpack(stream, &root) {
        Ok(_) => {}
        Err(LayerError {
            cause: Cause::Read(e),
            place,
        }) => return Err(format!("{place}: {e}")),
        Err(other) => panic!("{other:?}"),
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    Ok(files)
}

#[test]
fn an_archive_may_end_with_the_contents_of_its_last_file_and_not_before() {
    for size in [0, 1, 511, 512, 513, 1000, 1024] {
        let contents = vec![7_u8; size];
        let first = member("first", b"one");
        let archive = [first.clone(), member("last", &contents)].concat();
        let whole = vec![
            ("first".to_owned(), b"one".to_vec()),
            ("last".to_owned(), contents),
        ];
        let data = first.len() + 512;
        let marker = [0_u8; 1024];
        // However much there is after the last byte of the last file.
        for end in [
            data + size,
            data + size + 1,
            archive.len() - 1,
            archive.len(),
        ] {
            let Some(cut) = archive.get(..end).filter(|_| end >= data + size) else {
                continue;
            };
            assert_eq!(unpacked(cut), Ok(whole.clone()), "{size} bytes, to {end}");
        }
        let longer = [archive.as_slice(), &marker, b"rest"].concat();
        assert_eq!(unpacked(&longer), Ok(whole.clone()), "{size} bytes");
        // Every shorter one lacks something: of the last file's contents, or of a header.
        for end in (first.len() + 1..data + size).chain(512..512 + 3) {
            let cut = unpacked(&archive[..end]);
            assert!(cut.is_err(), "{size} bytes, to {end}: {cut:?}");
        }
    }
}

#[test]
fn a_sparse_file_may_end_an_archive_without_the_rest_of_its_block() {
    let mut sparse = header(tar::Header::new_gnu, tar::EntryType::GNUSparse, 700);
    sparse.as_old_mut().name[..1].copy_from_slice(b"s");
    sparse.set_uid(nix::unistd::getuid().as_raw().into());
    sparse.set_gid(nix::unistd::getgid().as_raw().into());
    let gnu = sparse.as_gnu_mut().unwrap();
    // 4096 bytes of which the last 700 are there.
    gnu.realsize = *b"00000010000\0";
    gnu.sparse[0].offset = *b"00000006504\0";
    gnu.sparse[0].numbytes = *b"00000001274\0";
    sparse.set_cksum();
    let archive = [sparse.as_bytes().as_slice(), &[7; 700]].concat();
    let whole = [vec![0; 3396], vec![7; 700]].concat();
    assert_eq!(unpacked(&archive), Ok(vec![("s".to_owned(), whole)]));
    for end in [513, 512 + 511, 512 + 512, 512 + 699] {
        let cut = unpacked(&archive[..end]);
        assert!(cut.is_err(), "to {end}: {cut:?}");
    }
}
