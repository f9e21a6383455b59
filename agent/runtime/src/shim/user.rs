// SPDX-License-Identifier: Apache-2.0
//! Looks `USER[:GROUP]` up in an image's /etc/passwd and /etc/group.
//!
//! Rules: Docker and containerd (`oci.WithUser`, `WithAdditionalGIDs`). The files belong to the image, so
//! they are opened inside its root only.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::tree::open_in_root;

/// More is no passwd file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The largest user and group ID (moby/sys user v0.4, and Kubernetes' validation of `runAsUser`).
const ID_MAX: u32 = i32::MAX as u32;
/// The home of a user who has none (runc 1.3).
const HOME_DEFAULT: &str = "/";

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Groups of /etc/group that list the user.
    pub groups: Vec<u32>,
    /// The home directory of /etc/passwd, [`HOME_DEFAULT`] where there is none. Never empty.
    pub home: String,
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
    let user = Wanted::read(if user.is_empty() { "0" } else { user })
        .map_err(|id| format!("user {id} is no user ID: they are 0 to {ID_MAX}"))?;
    let entry = passwd.lines().find_map(|line| {
        let entry = User::read(line)?;
        user.is(entry.name, entry.uid).then_some(entry)
    });
    let entry = match (entry, user) {
        (Some(entry), _) => entry,
        (None, Wanted::Id(uid)) => User {
            name: "",
            uid,
            gid: 0,
            home: "",
        },
        (None, Wanted::Name(name)) => {
            return Err(format!(
                "unable to find user {name}: no matching entries in passwd file"
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
    let gid = match wanted_group.filter(|g| !g.is_empty()).map(Wanted::read) {
        None => entry.gid,
        Some(Err(id)) => return Err(format!("group {id} is no group ID: they are 0 to {ID_MAX}")),
        Some(Ok(Wanted::Id(gid))) => gid,
        Some(Ok(Wanted::Name(wanted))) => groups
            .iter()
            .find(|(name, ..)| *name == wanted)
            .map(|(_, gid, _)| *gid)
            .ok_or_else(|| {
                format!("unable to find group {wanted}: no matching entries in group file")
            })?,
    };
    let lists_user = |members: &str| {
        let mut members = members.split(',').filter(|m| !m.is_empty());
        members.any(|m| m == entry.name)
    };
    let groups = groups
        .iter()
        .filter(|(_, _, members)| lists_user(members))
        .map(|(_, gid, _)| *gid)
        .collect();
    // What the kernel would not take as an environment variable is no home either.
    let home = match entry.home {
        "" => HOME_DEFAULT,
        home if home.contains('\0') => HOME_DEFAULT,
        home => home,
    };
    Ok(Identity {
        uid: entry.uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

/// What a user or a group is asked for by.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    /// A number is an ID, also where an entry has it as its name: otherwise an image could turn `runAsUser: 1000` into
    /// root. Numbers that are no ID are the error (moby/sys user v0.4, `GetExecUser`).
    fn read(text: &'a str) -> Result<Wanted<'a>, &'a str> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Wanted::Name(text));
        }
        match text.parse() {
            Ok(id) if id <= ID_MAX => Ok(Wanted::Id(id)),
            _ => Err(text),
        }
    }

    fn is(self, name: &str, id: u32) -> bool {
        match self {
            Wanted::Id(wanted) => wanted == id,
            Wanted::Name(wanted) => wanted == name,
        }
    }
}

/// A line of /etc/passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> User<'a> {
    fn read(line: &'a str) -> Option<User<'a>> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, rest @ ..] = fields.as_slice() else {
            return None;
        };
        Some(User {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: rest.get(1).copied().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests;
