// SPDX-License-Identifier: Apache-2.0
//! The frames of one byte stream between a client of the API and a node, as a type that cannot be wrong.
//!
//! `StreamFrame` is how they travel. Both ends read it here, so both keep the same bounds. Channels are numbered as
//! Kubernetes' remote command protocol numbers them. Not here: connections, queues.

use bytes::Bytes;

use crate::feed::{HalfClose, Resize, Started, StreamError, StreamFrame, stream_frame};

/// The most bytes of one frame: more frames, and not larger ones, carry more, so that streams of one connection take turns.
pub const DATA_BYTES_MAX: usize = 32 << 10;
/// Frames that wait in one direction of one stream at each hop. With [`DATA_BYTES_MAX`] it bounds what a slow reader costs
/// there; behind it the sender waits, as far as HTTP/2's flow control reaches.
pub const FRAMES_MAX: usize = 8;

/// HTTP/2's window of one stream between agent and control plane: what a sender may send before the reader takes it. It
/// holds eight of the largest frames, so that a reader on the same link never waits for the window. The window of a
/// connection is this for every stream that it may have, the feed among them; a smaller one would be filled by a few
/// streams whose readers are slow, and all others would stand still.
pub const WINDOW_BYTES: u32 = 256 << 10;

/// Numbers of channels. A port-forward numbers its connections instead.
pub mod channel {
    /// The only channel of a log.
    pub const LOG: u32 = 0;
    /// From the client to the process.
    pub const STDIN: u32 = 0;
    /// From the process.
    pub const STDOUT: u32 = 1;
    /// From the process, where it has no terminal.
    pub const STDERR: u32 = 2;
}

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The node serves the request: data may follow. Every kind of stream but a log, which has no answer to wait for
    /// before its first line, begins with it.
    Started,
    /// Bytes, at most [`DATA_BYTES_MAX`].
    Data {
        /// Which channel.
        channel: u32,
        /// The bytes.
        bytes: Bytes,
    },
    /// The sender sends no more on this channel; the other direction goes on.
    HalfClose {
        /// Which channel.
        channel: u32,
    },
    /// The client's terminal has this size now.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// The stream ended in an error that the user should read. Nothing follows.
    Error(StreamError),
}

/// Why a message is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It names its stream again, or is of a later version.
    #[error("a stream is opened once and carries only frames that this version knows")]
    Kind,
    /// More bytes than a frame may have.
    #[error("a frame of {bytes} bytes is longer than {DATA_BYTES_MAX}")]
    Long {
        /// How many it has.
        bytes: usize,
    },
    /// A terminal cannot be that large.
    #[error("a terminal of {width} columns and {height} rows")]
    Size {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
    },
}

impl TryFrom<StreamFrame> for Frame {
    type Error = FrameError;

    fn try_from(message: StreamFrame) -> Result<Frame, FrameError> {
        let StreamFrame { channel, frame } = message;
        match frame {
            Some(stream_frame::Frame::Started(Started {})) => Ok(Frame::Started),
            Some(stream_frame::Frame::Data(bytes)) if bytes.len() > DATA_BYTES_MAX => {
                Err(FrameError::Long { bytes: bytes.len() })
            }
            Some(stream_frame::Frame::Data(bytes)) => Ok(Frame::Data { channel, bytes }),
            Some(stream_frame::Frame::HalfClose(HalfClose {})) => Ok(Frame::HalfClose { channel }),
            Some(stream_frame::Frame::Resize(Resize { width, height })) => {
                match (u16::try_from(width), u16::try_from(height)) {
                    (Ok(width), Ok(height)) => Ok(Frame::Resize { width, height }),
                    _ => Err(FrameError::Size { width, height }),
                }
            }
            Some(stream_frame::Frame::Error(error)) => Ok(Frame::Error(error)),
            Some(stream_frame::Frame::Open(_)) | None => Err(FrameError::Kind),
        }
    }
}

impl From<Frame> for StreamFrame {
    fn from(frame: Frame) -> StreamFrame {
        let (channel, frame) = match frame {
            Frame::Started => (0, stream_frame::Frame::Started(Started {})),
            Frame::Data { channel, bytes } => (channel, stream_frame::Frame::Data(bytes)),
            Frame::HalfClose { channel } => (channel, stream_frame::Frame::HalfClose(HalfClose {})),
            Frame::Resize { width, height } => {
                let (width, height) = (width.into(), height.into());
                (0, stream_frame::Frame::Resize(Resize { width, height }))
            }
            Frame::Error(error) => (0, stream_frame::Frame::Error(error)),
        };
        StreamFrame {
            channel,
            frame: Some(frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_travels_and_comes_back_as_it_was() {
        for frame in [
            Frame::Started,
            Frame::Data {
                channel: channel::STDERR,
                bytes: Bytes::from_static(b"x"),
            },
            Frame::HalfClose {
                channel: channel::STDIN,
            },
            Frame::Resize {
                width: 80,
                height: 24,
            },
            Frame::Error(StreamError {
                code: 404,
                message: "gone".to_owned(),
            }),
        ] {
            assert_eq!(Frame::try_from(StreamFrame::from(frame.clone())), Ok(frame));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let message = |frame| StreamFrame { channel: 0, frame };
        let long = Bytes::from(vec![0; DATA_BYTES_MAX + 1]);
        let size = Resize {
            width: 80,
            height: 70_000,
        };
        for (frame, error) in [
            (None, FrameError::Kind),
            (
                Some(stream_frame::Frame::Open("again".to_owned())),
                FrameError::Kind,
            ),
            (
                Some(stream_frame::Frame::Data(long)),
                FrameError::Long {
                    bytes: DATA_BYTES_MAX + 1,
                },
            ),
            (
                Some(stream_frame::Frame::Resize(size)),
                FrameError::Size {
                    width: 80,
                    height: 70_000,
                },
            ),
        ] {
            assert_eq!(Frame::try_from(message(frame)), Err(error));
        }
    }
}
