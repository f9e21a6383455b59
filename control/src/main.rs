// SPDX-License-Identifier: Apache-2.0
//! The `knarr-control` program: everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    knarr_control::commands::main()
}
