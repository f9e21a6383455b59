// SPDX-License-Identifier: Apache-2.0
//! Work that blocks (files, bpf calls), on a thread that may be blocked.

/// Runs it and hands its result on. It runs to its end also when the caller is dropped meanwhile.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work.
            Err(_) => std::future::pending().await,
        },
    }
}
