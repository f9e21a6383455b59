// SPDX-License-Identifier: Apache-2.0
//! The node's program. Everything is in the library, so that the whole agent also starts inside a test.

use std::process::ExitCode;

fn main() -> ExitCode {
    knarr_agent::cli::main(std::env::args_os())
}
