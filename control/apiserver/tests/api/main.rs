// SPDX-License-Identifier: Apache-2.0
//! The API over real TLS sockets and a real store.

mod access;
mod admission;
mod answers;
mod client;
#[allow(dead_code, reason = "the store's own tests use more of it")]
#[path = "../../../store/tests/conformance/engines.rs"]
mod engines;
mod events;
mod extremes;
mod faults;
mod fields;
#[allow(
    dead_code,
    reason = "the devserver example shares it and uses more of it"
)]
mod harness;
mod kinds;
mod objects;
mod paths;
mod places;
mod pods;
mod protobuf;
mod refusals;
mod services;
mod shared;
mod speed;
mod versions;
mod watches;

use harness::Server;

/// A server over a store of its own.
async fn server() -> (Server, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let server = Server::start_in(directory.path(), 0).await;
    (server, directory)
}
