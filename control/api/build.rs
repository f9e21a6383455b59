// SPDX-License-Identifier: Apache-2.0
//! Compiles `proto/feed.proto` with a protobuf compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/feed.proto");
    let descriptors = protox::compile(["feed.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // They carry secrets; `src/redacted.rs` shows them without.
        .skip_debug(
            ["JoinRequest", "PodSet", "ObjectSet"].map(|name| format!(".knarr.feed.v1.{name}")),
        )
        .compile_fds(descriptors)?;
    Ok(())
}
