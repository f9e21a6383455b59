// SPDX-License-Identifier: Apache-2.0
//! Files with the right modes, replaced as a whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;
use super::pair::Pair;

const PRIVATE_DIR_MODE: u32 = 0o700;
const PRIVATE_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

fn error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::File { what, path, source }
}

/// Makes a directory that only its owner can enter, or makes an existing one so.
pub fn private_dir(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIR_MODE)
        .create(path)
        .map_err(error("create", path))?;
    let mode = std::fs::metadata(path)
        .map_err(error("read", path))?
        .permissions()
        .mode();
    if mode & 0o777 != PRIVATE_DIR_MODE {
        std::fs::set_permissions(path, Permissions::from_mode(PRIVATE_DIR_MODE))
            .map_err(error("change the mode of", path))?;
    }
    Ok(())
}

/// Replaces a file that only its owner can read. Does not write when the content is the same.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    replace(path, content, PRIVATE_MODE)
}

/// Replaces a file that everybody who gets to it can read. Does not write when the content is the same.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    replace(path, content, PUBLIC_MODE)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    if let Ok(old) = std::fs::read(path)
        && old == content
        && std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode)
    {
        return Ok(());
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // A file left by a crash would keep its own mode.
    match std::fs::remove_file(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(error("replace", &new)(source));
        }
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&new)?;
        // The umask may have taken bits away.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(error("write", path))
}

/// Reads a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error("read", path)(source)),
    }
}

/// Reads a certificate and its key; `None` if one of them is missing.
pub(super) fn read_pair(certificate: &Path, key: &Path) -> Result<Option<Pair>, PkiError> {
    let (certificate, key) = (read(certificate)?, read(key)?);
    Ok(certificate.zip(key).map(|(certificate_pem, key_pem)| Pair {
        certificate_pem,
        key_pem,
    }))
}
