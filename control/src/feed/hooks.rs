// SPDX-License-Identifier: Apache-2.0
//! What the API server asks of the feed: logs from nodes.

use async_trait::async_trait;
use futures::StreamExt;
use knarr_api::feed::{LogRequest, StreamError};
use knarr_apiserver::{ApiError, LogOptions, LogStream, LogStreamer, LogTarget, Reason};
use tokio_stream::wrappers::ReceiverStream;

use super::streams::Streams;

fn refusal(error: StreamError) -> ApiError {
    let reason = match error.code {
        400 => Reason::BadRequest,
        404 => Reason::NotFound,
        429 => Reason::TooManyRequests,
        501 => Reason::NotImplemented,
        503 => Reason::ServiceUnavailable,
        504 => Reason::Timeout,
        _ => Reason::InternalError,
    };
    ApiError::new(reason, error.message)
}

#[async_trait]
impl LogStreamer for Streams {
    async fn open(&self, target: LogTarget, options: LogOptions) -> Result<LogStream, ApiError> {
        let request = LogRequest {
            namespace: target.namespace,
            pod: target.pod,
            uid: target.uid,
            container: target.container,
            follow: options.follow,
            previous: options.previous,
            timestamps: options.timestamps,
            tail_lines: options.tail_lines,
            limit_bytes: options.limit_bytes,
            since_ms: options.since_ms,
        };
        let mut chunks = self
            .open_logs(&target.node, request)
            .await
            .map_err(refusal)?;
        // A refusal comes before any byte; taken here, it becomes the request's Status instead of text.
        let first = chunks.recv().await.transpose().map_err(refusal)?;
        let rest = ReceiverStream::new(chunks).map(|chunk| chunk.map_err(refusal));
        Ok(futures::stream::iter(first.map(Ok)).chain(rest).boxed())
    }
}
