// SPDX-License-Identifier: Apache-2.0
//! Writes the test image: busybox in one layer, as an OCI layout.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Its reference.
pub const NAME: &str = "localhost/knarr-test:dev";

/// Commands that the tests use.
const APPLETS: [&str; 32] = [
    "sh", "cat", "echo", "sleep", "id", "ls", "hostname", "mount", "touch", "kill", "ps", "head",
    "dd", "yes", "env", "pwd", "mknod", "ip", "grep", "tail", "seq", "true", "false", "rm", "ln",
    "stat", "wc", "mkdir", "mv", "printf", "cp", "chmod",
];

/// One entry of a layer.
pub enum Entry<'a> {
    Dir(&'a str, u32),
    File(&'a str, u32, &'a [u8]),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
    Fifo(&'a str),
    Char(&'a str, u32, u32),
}

/// A tar stream.
pub fn tar(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(0o644);
        match entry {
            Entry::Dir(name, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                append(&mut builder, &mut header, name, &[])?;
            }
            Entry::File(name, mode, data) => {
                header.set_mode(*mode);
                header.set_size(data.len() as u64);
                append(&mut builder, &mut header, name, data)?;
            }
            Entry::Symlink(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name_literal(target)?;
                append(&mut builder, &mut header, name, &[])?;
            }
            Entry::Hardlink(name, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name_literal(target)?;
                append(&mut builder, &mut header, name, &[])?;
            }
            Entry::Fifo(name) => {
                header.set_entry_type(tar::EntryType::Fifo);
                append(&mut builder, &mut header, name, &[])?;
            }
            Entry::Char(name, major, minor) => {
                header.set_entry_type(tar::EntryType::Char);
                header.set_device_major(*major)?;
                header.set_device_minor(*minor)?;
                append(&mut builder, &mut header, name, &[])?;
            }
        }
    }
    Ok(builder.into_inner()?)
}

/// Puts the name in as it is: the crate's own way would refuse the names that an attack uses.
fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    header: &mut tar::Header,
    name: &str,
    data: &[u8],
) -> Result<()> {
    let field = &mut header.as_old_mut().name;
    field.fill(0);
    field
        .get_mut(..name.len())
        .context("the name is too long for a test")?
        .copy_from_slice(name.as_bytes());
    header.set_cksum();
    builder.append(header, data)?;
    Ok(())
}

/// How a layer is packed.
#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// An image as an OCI layout. Layers are tar streams.
pub fn write_oci(dir: &Path, name: &str, layers: &[(Vec<u8>, Packing)]) -> Result<()> {
    std::fs::create_dir_all(dir.join("blobs/sha256"))?;
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (tar, packing) in layers {
        diff_ids.push(digest(tar));
        let (blob, suffix) = match packing {
            Packing::Plain => (tar.clone(), ""),
            Packing::Gzip => (gzip(tar)?, "+gzip"),
            Packing::Zstd => (zstd::encode_all(tar.as_slice(), 3)?, "+zstd"),
        };
        let kind = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        descriptors.push(blob_descriptor(dir, &kind, &blob)?);
    }
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/work",
            "User": "web",
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = blob_descriptor(
        dir,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": descriptors,
    });
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let mut manifest = blob_descriptor(dir, kind, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string())?;
    Ok(())
}

fn blob_descriptor(dir: &Path, kind: &str, bytes: &[u8]) -> Result<serde_json::Value> {
    let digest = digest(bytes);
    let hex = digest.trim_start_matches("sha256:");
    std::fs::write(dir.join("blobs/sha256").join(hex), bytes)?;
    Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// The image that containers of the tests run.
pub fn write_layout(dir: &Path) -> Result<()> {
    let busybox = std::fs::read("/bin/busybox").context("install busybox-static")?;
    let names: Vec<String> = APPLETS.iter().map(|a| format!("bin/{a}")).collect();
    let mut entries = vec![
        Entry::Dir("bin/", 0o755),
        Entry::Dir("etc/", 0o755),
        Entry::Dir("tmp/", 0o1777),
        Entry::File("bin/busybox", 0o755, &busybox),
        Entry::File("bin/broken", 0o755, b"no program"),
        Entry::File("bin/plain", 0o644, b"not executable"),
        Entry::File(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/home/web:/bin/sh\n",
        ),
        Entry::File(
            "etc/group",
            0o644,
            b"root:x:0:\nwww:x:44:\nextra:x:55:web\n",
        ),
    ];
    entries.extend(names.iter().map(|n| Entry::Hardlink(n, "bin/busybox")));
    write_oci(dir, NAME, &[(tar(&entries)?, Packing::Gzip)])
}
