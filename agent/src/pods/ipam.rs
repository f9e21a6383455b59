// SPDX-License-Identifier: Apache-2.0
//! Addresses of pods: a file for each, named by the address and holding the pod's UID, made exclusively.
//! A restarted agent reads them back, so no address is given out twice.
//!
//! Not here: interfaces and routes (`knarr-datapath`). Kept in the data directory: endpoints name a pod by
//! its address, so a pod that comes back after a reboot, perhaps with the control plane away, comes back
//! with the same one.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use parking_lot::{Mutex, MutexGuard};

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All are taken.
    #[error("no address is left in the node's pod range {0}")]
    Exhausted(Ipv4Net),
    /// The control plane gave the node no range that can be used.
    #[error("the node has no IPv4 pod range yet")]
    NoRange,
    /// A file.
    #[error("cannot {action} the address file {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// How long the prefix of a node's range may be: room for what is reserved in it, and offsets that fit.
const PREFIX_LENGTHS: RangeInclusive<u8> = 8..=30;

/// Reads a node's pod range, such as `10.244.1.0/24`; `None` for one that pods cannot have addresses of.
pub fn pod_range(text: &str) -> Option<Ipv4Net> {
    let range: Ipv4Net = text.parse().ok()?;
    PREFIX_LENGTHS
        .contains(&range.prefix_len())
        .then(|| range.trunc())
}

/// See the module's comment.
pub struct Ipam {
    dir: PathBuf,
    /// What is given out; held for a moment only.
    by_uid: Mutex<BTreeMap<String, Ipv4Addr>>,
    /// Whose turn it is to change files, and where the next search begins: an address rests as long as possible before
    /// it is used again.
    next: Mutex<u32>,
}

impl Ipam {
    /// Reads what is given out.
    pub fn open(data_dir: &Path) -> Result<Ipam, IpamError> {
        let dir = data_dir.join("addresses");
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IpamError::File {
                action,
                path,
                source,
            }
        };
        crate::files::private_dir(&dir).map_err(fail("make the directory of", &dir))?;
        let mut by_uid = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(fail("list", &dir))? {
            let path = entry.map_err(fail("list", &dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
            match name.parse::<Ipv4Addr>() {
                Ok(ip) => {
                    let uid = std::fs::read_to_string(&path).map_err(fail("read", &path))?;
                    match uid.trim() {
                        // The machine lost power before the contents were on its disk.
                        "" => crate::files::remove(&path).map_err(fail("remove", &path))?,
                        uid => {
                            by_uid.insert(uid.to_owned(), ip);
                        }
                    }
                }
                // A file of an allocation that was cut off.
                Err(_) => crate::files::remove(&path).map_err(fail("remove", &path))?,
            }
        }
        let next = by_uid.values().map(|ip| u32::from(*ip)).max().unwrap_or(0);
        Ok(Ipam {
            dir,
            by_uid: Mutex::new(by_uid),
            next: Mutex::new(next),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Ipv4Addr>> {
        self.by_uid.lock()
    }

    fn turn(&self) -> MutexGuard<'_, u32> {
        self.next.lock()
    }

    /// The address of a pod, if it has one.
    pub fn lookup(&self, uid: &str) -> Option<Ipv4Addr> {
        self.lock().get(uid).copied()
    }

    /// All addresses that are given out.
    pub fn all(&self) -> Vec<Ipv4Addr> {
        self.lock().values().copied().collect()
    }

    /// The address of a pod, a new one where it has none or one outside the range. Blocking.
    pub fn allocate(&self, uid: &str, range: Ipv4Net) -> Result<Ipv4Addr, IpamError> {
        if let Some(ip) = self.lookup(uid) {
            if range.contains(&ip) {
                return Ok(ip);
            }
            self.free(uid)?;
        }
        let mut next = self.turn();
        let draft = self.dir.join(format!("new-{uid}"));
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| IpamError::File {
                action,
                path,
                source,
            }
        };
        std::fs::write(&draft, uid).map_err(fail("write", &draft))?;
        // The first address names the range, the second is left for a gateway, the last is broadcast.
        let first = u32::from(range.network());
        let len = 1_u32 << (32 - range.prefix_len());
        let usable = len - 3;
        let start = next.wrapping_sub(first).wrapping_sub(1) % len;
        let mut result = Err(IpamError::Exhausted(range));
        for n in 0..usable {
            let offset = 2 + (start.wrapping_add(n) % usable);
            let ip = Ipv4Addr::from(first + offset);
            let path = self.dir.join(ip.to_string());
            // A link is made or is not: the file is never there without the UID in it.
            match std::fs::hard_link(&draft, &path) {
                Ok(()) => {
                    self.lock().insert(uid.to_owned(), ip);
                    *next = u32::from(ip);
                    result = Ok(ip);
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    result = Err(IpamError::File {
                        action: "make",
                        path,
                        source,
                    });
                    break;
                }
            }
        }
        crate::files::remove(&draft).map_err(fail("remove", &draft))?;
        result
    }

    /// Gives a pod's address back. Blocking.
    pub fn free(&self, uid: &str) -> Result<(), IpamError> {
        let _turn = self.turn();
        if let Some(ip) = self.lookup(uid) {
            let path = self.dir.join(ip.to_string());
            crate::files::remove(&path).map_err(|source| IpamError::File {
                action: "remove",
                path,
                source,
            })?;
            self.lock().remove(uid);
        }
        Ok(())
    }

    /// Gives back the addresses of all pods but these. Blocking.
    pub fn prune(&self, keep: &[String]) -> Result<Vec<String>, IpamError> {
        let leaked: Vec<String> = {
            let by_uid = self.lock();
            let uids = by_uid.keys().filter(|uid| !keep.contains(uid));
            uids.cloned().collect()
        };
        for uid in &leaked {
            self.free(uid)?;
        }
        Ok(leaked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Ipv4Net {
        pod_range(text).expect("range")
    }

    #[test]
    fn no_address_is_given_out_twice_also_after_a_restart() {
        let dir = tempfile::tempdir().expect("tempdir");
        let ipam = Ipam::open(dir.path()).expect("opens");
        let mut all = std::collections::BTreeSet::new();
        for n in 0..100 {
            assert!(
                all.insert(
                    ipam.allocate(&format!("u{n}"), range("10.1.2.0/24"))
                        .expect("ip")
                )
            );
        }
        let ipam = Ipam::open(dir.path()).expect("opens");
        assert_eq!(
            ipam.lookup("u7"),
            Some(ipam.allocate("u7", range("10.1.2.0/24")).expect("ip"))
        );
        for n in 100..253 {
            assert!(
                all.insert(
                    ipam.allocate(&format!("u{n}"), range("10.1.2.0/24"))
                        .expect("ip")
                )
            );
        }
        assert!(all.iter().all(|ip| !matches!(ip.octets()[3], 0 | 1 | 255)));
        let full = ipam
            .allocate("more", range("10.1.2.0/24"))
            .expect_err("full");
        assert!(full.to_string().contains("10.1.2.0/24"), "{full}");
    }

    #[test]
    fn an_address_that_was_freed_is_used_again_last() {
        let dir = tempfile::tempdir().expect("tempdir");
        let ipam = Ipam::open(dir.path()).expect("opens");
        let a = ipam.allocate("a", range("10.1.2.0/24")).expect("ip");
        ipam.free("a").expect("frees");
        assert_ne!(ipam.allocate("b", range("10.1.2.0/24")).expect("ip"), a);
        assert_eq!(ipam.prune(&[]).expect("prunes"), ["b"]);
        assert!(ipam.all().is_empty());
    }

    #[test]
    fn an_allocation_that_was_cut_off_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir_all(dir.path().join("addresses")).expect("dir");
        std::fs::write(dir.path().join("addresses/new-x"), "x").expect("file");
        // Power was lost before the contents of these two were on the disk.
        for name in ["10.1.2.2", "10.1.2.3"] {
            std::fs::write(dir.path().join("addresses").join(name), "").expect("file");
        }
        let ipam = Ipam::open(dir.path()).expect("opens");
        assert!(ipam.all().is_empty());
        let left = std::fs::read_dir(dir.path().join("addresses")).expect("lists");
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn a_pod_of_a_range_that_changed_gets_a_new_address() {
        let dir = tempfile::tempdir().expect("tempdir");
        let ipam = Ipam::open(dir.path()).expect("opens");
        ipam.allocate("a", range("10.1.2.0/24")).expect("ip");
        let ip = ipam.allocate("a", range("10.1.3.0/24")).expect("ip");
        assert_eq!(ip.octets()[2], 3);
    }
}
