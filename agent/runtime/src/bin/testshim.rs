// SPDX-License-Identifier: Apache-2.0
//! The shim as a program of its own, for this crate's tests: they cannot execute knarr-agent.
#![forbid(unsafe_code)]

fn main() {
    // Like the agent's hidden subcommand, after which the sandbox directory comes.
    let arguments = std::env::args_os().skip(2).collect();
    std::process::exit(knarr_runtime::shim_main(arguments));
}
