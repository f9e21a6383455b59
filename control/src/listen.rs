// SPDX-License-Identifier: Apache-2.0
//! The sockets that are served: bound here, or handed over by systemd's socket activation.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};

use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted; as Go's default on Linux, which kube-apiserver has.
const BACKLOG: u32 = 4096;

/// Why there is no socket to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another program has the port.
    #[error(
        "cannot listen on {0}: the port is in use by another program; stop it, or choose another port with --listen"
    )]
    InUse(SocketAddr),
    /// A port below 1024 without the right to it.
    #[error("cannot listen on {0}: ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    Forbidden(SocketAddr),
    /// The address is not one of this machine's.
    #[error("cannot listen on {0}: this machine does not have the address; see `ip address`")]
    NoSuchAddress(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket that was handed over cannot be served.
    #[error("socket {index} of LISTEN_FDS cannot be served")]
    HandedOver {
        /// Its number, from 0.
        index: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Takes the listening sockets that systemd (or whoever started this process) handed over. Has to be
/// called once, before other threads exist: it takes the variables out of the environment.
pub fn handed_over() -> Result<Vec<StdListener>, ListenError> {
    let mut fds = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..fds.len() {
        let taken = fds
            .take_tcp_listener(index)
            .map_err(|source| ListenError::HandedOver { index, source })?;
        listeners.extend(taken);
    }
    Ok(listeners)
}

/// Lets this process open as many files as it may: the limit at start is often 1024, and connections are files.
pub fn allow_connections() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::warn!(%error, current = limit.current, "cannot raise the number of open files; many connections at once may be refused");
    }
}

/// The addresses of sockets, for the configuration's defaults.
#[must_use]
pub fn addresses(listeners: &[StdListener]) -> Vec<SocketAddr> {
    listeners
        .iter()
        .filter_map(|listener| listener.local_addr().ok())
        .collect()
}

/// Binds every address in `listen` and adds the sockets that were handed over.
pub fn listeners(
    listen: &[SocketAddr],
    handed_over: Vec<StdListener>,
) -> Result<Vec<TcpListener>, ListenError> {
    let mut all = Vec::with_capacity(listen.len() + handed_over.len());
    for (index, listener) in handed_over.into_iter().enumerate() {
        let made = listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener));
        all.push(made.map_err(|source| ListenError::HandedOver { index, source })?);
    }
    for address in listen {
        all.push(bind(*address)?);
    }
    Ok(all)
}

fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let make = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Connections of an earlier process in TIME_WAIT must not keep a restart from binding.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    make().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(address),
        io::ErrorKind::PermissionDenied => ListenError::Forbidden(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress(address),
        _ => ListenError::Bind { address, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_named_with_what_to_do() {
        let first = listeners(&["127.0.0.1:0".parse().unwrap()], Vec::new()).unwrap();
        let taken = first[0].local_addr().unwrap();
        let error = listeners(&[taken], Vec::new()).unwrap_err();
        assert!(matches!(error, ListenError::InUse(address) if address == taken));
        assert!(error.to_string().contains("--listen"), "{error}");
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused_by_name() {
        let foreign = "192.0.2.1:6443".parse().unwrap();
        let error = listeners(&[foreign], Vec::new()).unwrap_err();
        assert!(matches!(error, ListenError::NoSuchAddress(_)), "{error}");
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_over_is_served_beside_the_others() {
        let handed_over = StdListener::bind("127.0.0.1:0").unwrap();
        let address = handed_over.local_addr().unwrap();
        let all = listeners(&["127.0.0.1:0".parse().unwrap()], vec![handed_over]).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].local_addr().unwrap(), address);
    }
}
