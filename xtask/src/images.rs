// SPDX-License-Identifier: Apache-2.0
//! The two images that every node of `up` has, packed as OCI image layouts in a tar file: the echo server of the
//! tests and a static busybox. Same input, same bytes: no times, no owners.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{paths, run, ui};

/// The echo server's image.
pub const ECHO: &str = "localhost/knarr-echo:dev";
/// The image with busybox.
pub const SHELL: &str = "localhost/knarr-shell:dev";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// One entry of a layer.
enum Entry<'a> {
    Dir {
        path: &'a str,
        mode: u32,
    },
    File {
        path: &'a str,
        mode: u32,
        content: &'a [u8],
    },
    Link {
        path: String,
        to: &'a str,
    },
}

/// Packs both images where something changed, and returns their files.
pub fn pack(echo: &Path) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(paths::images())?;
    let echo_bytes = fs::read(echo).with_context(|| format!("cannot read {}", echo.display()))?;
    let busybox = run::find("busybox")
        .context("busybox is missing: `cargo xtask setup` installs busybox-static")?;
    let busybox_bytes = fs::read(&busybox)?;
    let echo_file = pack_one(
        "knarr-echo",
        ECHO,
        &[
            Entry::Dir {
                path: "etc",
                mode: 0o755,
            },
            Entry::Dir {
                path: "tmp",
                mode: 0o1777,
            },
            Entry::File {
                path: "etc/passwd",
                mode: 0o644,
                content: PASSWD.as_bytes(),
            },
            Entry::File {
                path: "etc/group",
                mode: 0o644,
                content: GROUP.as_bytes(),
            },
            Entry::File {
                path: "knarr-echo",
                mode: 0o755,
                content: &echo_bytes,
            },
        ],
        json!({
            "Entrypoint": ["/knarr-echo"],
            "Env": ["PATH=/"],
            "ExposedPorts": {"8080/tcp": {}, "8081/tcp": {}, "8082/udp": {}},
            "WorkingDir": "/",
        }),
    )?;
    let applets = run::stdout(&mut run::command(&busybox, ["--list"]))?;
    let mut entries = vec![
        Entry::Dir {
            path: "bin",
            mode: 0o755,
        },
        Entry::Dir {
            path: "etc",
            mode: 0o755,
        },
        Entry::Dir {
            path: "root",
            mode: 0o700,
        },
        Entry::Dir {
            path: "tmp",
            mode: 0o1777,
        },
        Entry::File {
            path: "etc/passwd",
            mode: 0o644,
            content: PASSWD.as_bytes(),
        },
        Entry::File {
            path: "etc/group",
            mode: 0o644,
            content: GROUP.as_bytes(),
        },
        Entry::File {
            path: "bin/busybox",
            mode: 0o755,
            content: &busybox_bytes,
        },
    ];
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        entries.push(Entry::Link {
            path: format!("bin/{applet}"),
            to: "busybox",
        });
    }
    let shell_file = pack_one(
        "knarr-shell",
        SHELL,
        &entries,
        json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "WorkingDir": "/"}),
    )?;
    Ok(vec![echo_file, shell_file])
}

fn pack_one(
    file_name: &str,
    reference: &str,
    entries: &[Entry<'_>],
    config: serde_json::Value,
) -> anyhow::Result<PathBuf> {
    let layer = layer(entries).with_context(|| format!("cannot pack the layer of {reference}"))?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&layer)?;
    let packed = gzip.finish()?;

    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        "history": [{"created_by": "cargo xtask"}],
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&packed), "size": packed.len()}],
    }))?;
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "platform": {"architecture": "amd64", "os": "linux"},
            "annotations": {"org.opencontainers.image.ref.name": reference, "io.containerd.image.name": reference},
        }],
    }))?;

    let blobs: Vec<String> = [&config, &manifest, &packed]
        .iter()
        .map(|blob| blob_path(blob))
        .collect();
    let outer = self::layer(&[
        Entry::File {
            path: "oci-layout",
            mode: 0o644,
            content: br#"{"imageLayoutVersion":"1.0.0"}"#,
        },
        Entry::File {
            path: "index.json",
            mode: 0o644,
            content: &index,
        },
        Entry::Dir {
            path: "blobs",
            mode: 0o755,
        },
        Entry::Dir {
            path: "blobs/sha256",
            mode: 0o755,
        },
        Entry::File {
            path: &blobs[0],
            mode: 0o644,
            content: &config,
        },
        Entry::File {
            path: &blobs[1],
            mode: 0o644,
            content: &manifest,
        },
        Entry::File {
            path: &blobs[2],
            mode: 0o644,
            content: &packed,
        },
    ])?;
    let path = paths::images().join(format!("{file_name}.tar"));
    if fs::read(&path).is_ok_and(|present| present == outer) {
        return Ok(path);
    }
    fs::write(&path, outer).with_context(|| format!("cannot write {}", path.display()))?;
    ui::line(&format!("packed {reference} as {}", paths::show(&path)));
    Ok(path)
}

fn blob_path(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", hex::encode(Sha256::digest(blob)))
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn layer(entries: &[Entry<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        match entry {
            Entry::Dir { path, mode } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
            }
            Entry::File {
                path,
                mode,
                content,
            } => {
                if content.is_empty() {
                    bail!("{path} is empty");
                }
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, *content)?;
            }
            Entry::Link { path, to } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, path, to)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests;
