// SPDX-License-Identifier: Apache-2.0
//! The process that holds one pod: see `shim/*` for its parts.

use std::ffi::OsString;

/// Runs as a pod's shim and returns the exit status. `args` is what follows [`crate::RuntimeConfig::shim_args`].
/// To be called before the process has a second thread or a tokio runtime.
pub fn shim_main(_args: Vec<OsString>) -> i32 {
    todo!()
}
