// SPDX-License-Identifier: Apache-2.0
//! `knarr-control node`: takes a node's certificates back, through the running API server.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Subcommand;
use http::Method;
use knarr_api::k8s_openapi::api::core::v1::Node;
use knarr_control_plan::feed::admission;
use serde_json::json;

use super::api::Api;
use crate::clock;

/// A busy node reports a few times a second, and each report may come between reading the Node and writing it.
const TRIES_MAX: u32 = 8;

/// What to do with nodes.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// Refuses every certificate that the node has; it is cut off within seconds, and its pods move after their tolerations.
    /// `kubectl delete node` does the same and removes the Node. A machine comes back by joining with a token
    Deny {
        /// The node
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// Does `command` through the API server of `data_dir`, or the one at `server`.
pub(super) async fn run(
    data_dir: &Path,
    server: Option<&str>,
    command: NodeCommand,
) -> anyhow::Result<()> {
    let NodeCommand::Deny { name } = command;
    if !knarr_api::names::validate_dns_subdomain(&name).is_empty() {
        bail!("{name:?} is no node name");
    }
    let api = Api::open(data_dir, server)?;
    let path = format!("/api/v1/nodes/{name}");
    let mut tries = 0;
    let since = loop {
        tries += 1;
        let mut object = match api.request(Method::GET, &path, None).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => bail!("there is no node {name}"),
            Err(error) => return Err(error.into()),
        };
        let node: Node =
            serde_json::from_value(object.clone()).context("the Node cannot be read")?;
        let since = admission::annotation(admission::next_since(&node, clock::now()));
        object["metadata"]["annotations"][admission::SINCE] = json!(since);
        match api.request(Method::PUT, &path, Some(&object)).await {
            Ok(_) => break since,
            Err(error) if error.is_conflict() && tries < TRIES_MAX => {}
            Err(error) => return Err(error).context("the Node was not changed"),
        }
    };
    println!("node {name}: certificates from before {since} are refused");
    println!("delete the tokens that it may still have: knarr-control token list");
    Ok(())
}
