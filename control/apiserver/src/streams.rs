// SPDX-License-Identifier: Apache-2.0
//! What the API server asks of nodes: a container's log, and streams into containers.
//!
//! The feed of `knarr-control` carries them ([`NodeStreams`]); `http` is the caller. Not here: what HTTP clients speak.

use async_trait::async_trait;
use knarr_api::feed::StreamError;
use knarr_api::stream::Frame;
use tokio::sync::mpsc;

use crate::{ApiError, Reason};

/// Which pod is meant; it exists and is bound to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTarget {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod.
    pub uid: String,
    /// The node it is bound to.
    pub node: String,
}

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRequest {
    /// `GET pods/NAME/log`.
    Logs {
        /// A container of the pod's spec.
        container: String,
        /// Which part of its log.
        options: LogOptions,
    },
    /// `pods/NAME/exec`: a new process in a container.
    Exec {
        /// Where its input and output go.
        terminal: Terminal,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// `pods/NAME/attach`: the process that a container runs.
    Attach {
        /// Where its input and output go.
        terminal: Terminal,
    },
    /// `pods/NAME/portforward`: connections to ports of the pod.
    PortForward {
        /// The ports that the client may ask for.
        ports: Vec<u16>,
    },
}

/// The query parameters of `GET pods/NAME/log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container ends.
    pub follow: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// Only so many last lines.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only lines at or after this moment, in milliseconds since 1970.
    pub since_ms: Option<i64>,
}

/// The query parameters that exec and attach share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminal {
    /// A container of the pod's spec.
    pub container: String,
    /// The client sends input.
    pub stdin: bool,
    /// The client takes output.
    pub stdout: bool,
    /// The client takes error output.
    pub stderr: bool,
    /// Input and output are a terminal.
    pub tty: bool,
}

/// One open stream. Dropping it ends the transfer.
#[derive(Debug)]
pub struct NodeStream {
    /// What the node sends. [`Frame::Error`] is the last; without one, the end is the stream's.
    pub received: mpsc::Receiver<Frame>,
    /// What the node is sent. It waits while the node is slow.
    pub send: mpsc::Sender<Frame>,
}

/// Opens streams to nodes.
#[async_trait]
pub trait NodeStreams: Send + Sync + 'static {
    /// Opens a stream. An error here becomes the request's Status. A log is open when the node answers, and its first frame
    /// may be an error; every other stream is open when the node serves it, and [`Frame::Started`] is taken off.
    async fn open(
        &self,
        target: StreamTarget,
        request: StreamRequest,
    ) -> Result<NodeStream, ApiError>;
}

/// The Status of what a node says went wrong.
pub fn refusal(error: StreamError) -> ApiError {
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
