// SPDX-License-Identifier: Apache-2.0
//! The `knarr-control` program: everything it does is in the library.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Gives pages back a second after they were freed, whatever thread freed them: glibc's allocator keeps what a burst of
/// objects needed for as long as one small object lies behind it. The settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    knarr_control::commands::main()
}
