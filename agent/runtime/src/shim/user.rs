// SPDX-License-Identifier: Apache-2.0
//! Looks `USER[:GROUP]` up in an image's /etc/passwd and /etc/group.
//!
//! Rules: Docker and containerd (`oci.WithUser`, `WithAdditionalGIDs`). The files belong to the image, so
//! they are opened inside its root only.

use crate::tree::open_in_root;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

/// More is no passwd file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Groups of /etc/group that list the user.
    pub groups: Vec<u32>,
}

/// Looks an identity up below an image's root.
pub(super) fn look_up(root: &OwnedFd, user: &str) -> Result<Identity, String> {
    identity(user, &read(root, "etc/passwd"), &read(root, "etc/group"))
}

/// A file that is missing or unreadable has no lines: numbers do without.
fn read(root: &OwnedFd, path: &str) -> String {
    let mut bytes = Vec::new();
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    if let Ok(fd) = open_in_root(root, Path::new(path), flags, Mode::empty()) {
        let file = File::from(fd);
        if file.metadata().is_ok_and(|m| m.is_file()) {
            let _ = file.take(FILE_BYTES_MAX).read_to_end(&mut bytes);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn identity(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        (*name == user || user.parse() == Ok(uid)).then(|| (name.to_string(), uid, gid))
    });
    let (name, uid, primary) = match (entry, user.parse::<u32>()) {
        (Some((name, uid, gid)), _) => (Some(name), uid, gid),
        (None, Ok(uid)) => (None, uid, 0),
        (None, Err(_)) => {
            return Err(format!(
                "unable to find user {user}: no matching entries in passwd file"
            ));
        }
    };
    let groups: Vec<(&str, u32, &str)> = group
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members, ..] = fields.as_slice() else {
                return None;
            };
            Some((*name, gid.parse().ok()?, *members))
        })
        .collect();
    let gid = match wanted_group.filter(|g| !g.is_empty()) {
        None => primary,
        Some(wanted) => match groups.iter().find(|(name, ..)| *name == wanted) {
            Some((_, gid, _)) => *gid,
            None => wanted.parse().map_err(|_| {
                format!("unable to find group {wanted}: no matching entries in group file")
            })?,
        },
    };
    let lists_user = |members: &str| members.split(',').any(|m| Some(m) == name.as_deref());
    let groups = groups
        .iter()
        .filter(|(_, _, members)| lists_user(members))
        .map(|(_, gid, _)| *gid)
        .collect();
    Ok(Identity { uid, gid, groups })
}

#[cfg(test)]
mod tests;
