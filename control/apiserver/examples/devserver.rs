// SPDX-License-Identifier: Apache-2.0
//! An API server alone, with no controllers and no nodes: `cargo run -p knarr-apiserver --example devserver DIR PORT`.
//!
//! It writes `DIR/admin.kubeconfig` and serves until it is interrupted. For trying `kubectl` against the API.

#![forbid(unsafe_code)]

#[allow(dead_code, reason = "the tests share it and use more of it")]
#[path = "../tests/api/harness.rs"]
mod harness;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = args.next().unwrap_or_else(|| ".".to_owned());
    let port = args.next().map_or(Ok(0), |p| p.parse())?;
    let server = harness::Server::start_in(directory.as_ref(), port).await;
    println!(
        "serving {}, kubeconfig {}",
        server.address,
        server.kubeconfig("admin").display()
    );
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
