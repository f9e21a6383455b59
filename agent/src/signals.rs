// SPDX-License-Identifier: Apache-2.0
//! SIGTERM and SIGINT end the agent; the pods stay. Called by `cli`.

use knarr_base::signals::EndSignals;
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGTERM or SIGINT.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut signals = EndSignals::catch()?;
    let cancel = token.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; pods and Services stay as they are");
        cancel.cancel();
    });
    Ok(token)
}
