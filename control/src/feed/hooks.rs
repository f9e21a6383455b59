// SPDX-License-Identifier: Apache-2.0
//! What the API server asks of the feed: streams to nodes.

use async_trait::async_trait;
use knarr_api::feed::{
    AttachRequest, ExecRequest, LogRequest, PodStream, PortForwardRequest, TerminalRequest,
    open_stream,
};
use knarr_apiserver::{
    ApiError, LogOptions, NodeStream, NodeStreams, StreamRequest, StreamTarget, Terminal, refusal,
};

use super::streams::{Opened, Streams};

#[async_trait]
impl NodeStreams for Streams {
    async fn open(
        &self,
        target: StreamTarget,
        request: StreamRequest,
    ) -> Result<NodeStream, ApiError> {
        let node = target.node.clone();
        let opened = Streams::open(self, &node, message(target, request)).await;
        let Opened { received, send } = opened.map_err(refusal)?;
        Ok(NodeStream { received, send })
    }
}

/// The request as it travels.
fn message(target: StreamTarget, request: StreamRequest) -> open_stream::Request {
    let StreamTarget {
        namespace,
        pod,
        uid,
        node: _,
    } = target;
    match request {
        StreamRequest::Logs { container, options } => {
            let LogOptions {
                follow,
                previous,
                timestamps,
                tail_lines,
                limit_bytes,
                since_ms,
            } = options;
            open_stream::Request::Logs(LogRequest {
                namespace,
                pod,
                uid,
                container,
                follow,
                previous,
                timestamps,
                tail_lines,
                limit_bytes,
                since_ms,
            })
        }
        StreamRequest::Exec { terminal, command } => open_stream::Request::Exec(ExecRequest {
            pod: Some(pod_stream(namespace, pod, uid)),
            terminal: Some(terminal_message(terminal)),
            command,
        }),
        StreamRequest::Attach { terminal } => open_stream::Request::Attach(AttachRequest {
            pod: Some(pod_stream(namespace, pod, uid)),
            terminal: Some(terminal_message(terminal)),
        }),
        StreamRequest::PortForward { ports } => {
            open_stream::Request::PortForward(PortForwardRequest {
                pod: Some(pod_stream(namespace, pod, uid)),
                ports: ports.into_iter().map(u32::from).collect(),
            })
        }
    }
}

fn pod_stream(namespace: String, pod: String, uid: String) -> PodStream {
    PodStream {
        namespace,
        pod,
        uid,
    }
}

fn terminal_message(terminal: Terminal) -> TerminalRequest {
    let Terminal {
        container,
        stdin,
        stdout,
        stderr,
        tty,
    } = terminal;
    TerminalRequest {
        container,
        stdin,
        stdout,
        stderr,
        tty,
    }
}
