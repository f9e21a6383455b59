// SPDX-License-Identifier: Apache-2.0
//! Identity of network namespaces. The socket programs know a namespace by its cookie, which only a
//! socket inside it tells.
//!
//! Used by `load` for the node's own namespace and for those of pods.

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sched::{CloneFlags, setns};

use crate::error::DatapathError;
use crate::sys;

/// Cookie of the namespace of the calling thread.
pub(crate) fn own_cookie() -> Result<u64, DatapathError> {
    cookie_here().map_err(cookie_error)
}

/// Cookie of the namespace behind a descriptor.
pub(crate) fn cookie_of(netns: BorrowedFd<'_>) -> Result<u64, DatapathError> {
    inside(netns, cookie_here).map_err(cookie_error)
}

/// Runs `work` on a thread of its own inside the namespace, so no other thread ever leaves its own.
pub(crate) fn inside<T: Send>(
    netns: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, move || {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                work()
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

fn cookie_here() -> io::Result<u64> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    sys::netns_cookie(socket.as_fd())
}

fn cookie_error(source: io::Error) -> DatapathError {
    match source.raw_os_error() {
        Some(libc::ENOPROTOOPT) => DatapathError::KernelFeature {
            feature: "SO_NETNS_COOKIE",
            since: "5.14",
            source,
        },
        _ => DatapathError::Network {
            action: "read the cookie of",
            object: "a network namespace".to_owned(),
            source,
        },
    }
}
