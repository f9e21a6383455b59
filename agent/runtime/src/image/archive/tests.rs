// SPDX-License-Identifier: Apache-2.0
//! Tests of opening layouts and archives.

use super::*;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_fifo_in_a_layout_is_refused_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mode = Mode::from_bits_truncate(0o600);
    nix::unistd::mkfifo(&dir.path().join("index.json"), mode).unwrap();
    let (send, receive) = mpsc::channel();
    let path = dir.path().to_owned();
    std::thread::spawn(move || {
        let source = Source::open(&path, &path).unwrap();
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
    let error = match Source::open(&path, dir.path()) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("headers of one entry"), "{error}");
}
