// SPDX-License-Identifier: Apache-2.0
//! The engines that the suite runs over: each an empty store and a second way to the same one.
//!
//! etcd is a real one, started for each test on loopback addresses with its data in a temporary directory. `setpriv`
//! has the kernel end it with the test, however that ends.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use knarr_store::{Embedded, Etcd, Options, Store};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// How long etcd may take to answer for the first time.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A store under test.
pub struct Engine {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The same store as another process would have it, where the engine can be shared.
    pub other: Arc<dyn Store>,
    /// The server, where there is one.
    server: Option<Server>,
    _directory: TempDir,
}

/// The engine inside the process.
pub async fn embedded() -> Engine {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store = Embedded::open(&path, Options::default()).expect("a store");
    Engine {
        store: Arc::new(store.clone()),
        other: Arc::new(store),
        server: None,
        _directory: directory,
    }
}

/// The engine over etcd.
pub async fn etcd() -> Engine {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start(&directory).await;
    Engine {
        store: Arc::new(Etcd::over(server.channel())),
        other: Arc::new(Etcd::over(server.channel())),
        server: Some(server),
        _directory: directory,
    }
}

impl Engine {
    /// Ends the server and starts it again over the same data; nothing where there is none.
    pub async fn restart_server(&mut self) {
        if let Some(server) = &mut self.server {
            server.end();
            server.child = server.spawn();
            server.answers().await;
        }
    }
}

struct Server {
    child: Child,
    data: String,
    client_port: u16,
    peer_port: u16,
}

impl Server {
    async fn start(directory: &TempDir) -> Self {
        let (client_port, peer_port) = free_ports();
        let data = directory.path().join("etcd").display().to_string();
        let mut server = Self {
            child: Command::new("true").spawn().expect("a process"),
            data,
            client_port,
            peer_port,
        };
        server.end();
        server.child = server.spawn();
        server.answers().await;
        server
    }

    fn spawn(&self) -> Child {
        let client = self.url();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(["--data-dir", &self.data, "--name", "test"])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv of util-linux")
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// A connection that is made when it is used.
    fn channel(&self) -> Channel {
        Endpoint::from_shared(self.url())
            .expect("an address")
            .connect_lazy()
    }

    async fn answers(&mut self) {
        let started = tokio::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!(
                    "etcd ended ({status}): is etcd-server installed? `cargo xtask setup` does it"
                );
            }
            let asked = Etcd::over(self.channel());
            match asked.current_revision().await {
                Ok(_) => return,
                Err(error) => assert!(
                    started.elapsed() < START_TIME_MAX,
                    "etcd does not answer: {}",
                    knarr_base::chain(&error)
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// Two ports that nothing listened on a moment ago.
fn free_ports() -> (u16, u16) {
    let listeners = [0, 1].map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a port"));
    let [client, peer] = listeners.map(|l| l.local_addr().expect("an address").port());
    (client, peer)
}
