// SPDX-License-Identifier: Apache-2.0
//! Calls that block (files, bpf(2), waiting for a process), on a thread that may block.
//!
//! No thread of tokio's own may wait for a disk: every task on it would wait too. The call runs to its end also when the
//! caller is dropped meanwhile.

/// The call panicked; the text is what it panicked with.
#[derive(Debug, thiserror::Error)]
#[error("a blocking call panicked: {0}")]
pub struct Panicked(String);

impl From<Panicked> for std::io::Error {
    fn from(panicked: Panicked) -> Self {
        Self::other(panicked)
    }
}

/// Runs a call that blocks and returns its result. A panic of the call goes on in the caller.
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

/// Runs a call that blocks and returns its result. A panic of the call becomes an error of the caller's type, so that it
/// fails one operation and not the task that asked for it.
pub async fn run_or_fail<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Panicked> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => Err(Panicked(text_of(panic.as_ref())).into()),
            Err(_) => std::future::pending().await,
        },
    }
}

/// `panic!` carries a `&str` or a `String`.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

#[cfg(test)]
mod tests;
