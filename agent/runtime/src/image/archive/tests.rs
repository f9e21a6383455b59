// SPDX-License-Identifier: Apache-2.0
//! Tests of opening layouts and archives.

use std::sync::mpsc;
use std::time::Duration;

use super::*;

#[test]
fn a_fifo_in_a_layout_is_refused_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mode = Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&dir.path().join("index.json"), mode).unwrap();
    let (send, receive) = mpsc::channel();
    let path = dir.path().to_owned();
    std::thread::spawn(move || {
        let source = Files::open(&path, &path).unwrap();
        let error = source.document("index.json").unwrap_err();
        send.send(error.to_string())
    });
    let error = receive
        .recv_timeout(Duration::from_secs(30))
        .expect("it waits for somebody who writes");
    assert!(error.contains("index.json is not a file"), "{error}");
}

#[test]
fn an_archive_whose_headers_would_fill_the_memory_is_refused() {
    const BYTES: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::XHeader);
    header.set_size(BYTES);
    header.set_cksum();
    std::fs::write(&path, header.as_bytes()).unwrap();
    // A hole: nothing of it is on disk.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(512 + BYTES).unwrap();
    let error = match Files::open(&path, dir.path()) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("headers of one entry"), "{error}");
}

#[test]
fn streams_of_several_parts_are_read_to_their_end() {
    use std::io::Write;
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    // Three bytes that no reader is to look at (RFC 8878, 3.1.2).
    let skippable = [0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
    for (what, stream) in [
        ("gzip", [gzip(b"one "), gzip(b""), gzip(b"two")].concat()),
        ("zstd", [zstd(b"one "), zstd(b"two")].concat()),
        (
            "zstd, skippable last",
            [zstd(b"one two"), skippable.clone()].concat(),
        ),
        (
            "zstd, skippable first",
            [skippable, zstd(b"one "), zstd(b"two")].concat(),
        ),
    ] {
        let mut text = String::new();
        let mut reader = Packing::of(&stream).reader(stream.as_slice()).unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two", "{what}");
    }
}

#[test]
fn an_archive_without_padding_and_end_marker_is_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..4].copy_from_slice(b"file");
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(3);
    header.set_cksum();
    let archive = [header.as_bytes().as_slice(), b"abc"].concat();
    std::fs::write(&path, &archive).unwrap();
    let source = Files::open(&path, dir.path()).unwrap();
    assert_eq!(source.document("file").unwrap().unwrap(), b"abc");
    std::fs::write(&path, &archive[..archive.len() - 1]).unwrap();
    assert!(Files::open(&path, dir.path()).is_err());
}
