// SPDX-License-Identifier: Apache-2.0
//! Kubernetes' protobuf, driven by the schemas: objects from and to the messages that Go clients read and write.
//!
//! An object travels in an envelope (`runtime.Unknown`) that says its kind; an event of a watch in a frame with its
//! length before it. Wire format: `apimachinery/pkg/runtime/serializer/protobuf` (v1.37), proto2 without groups. JSON
//! stays the form that the rest of the program works with. The API server's codec is the caller.

mod decode;
mod encode;
pub(crate) mod wire;

pub use encode::EncodeError;

use wire::{Fields, Wire, put_bytes, put_key, put_varint, string, wrong};

use crate::decode::DecodeError;

/// What a Kubernetes protobuf body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// The end of an envelope as Go writes it: no content encoding and no content type.
pub const ENVELOPE_END: &[u8] = b"\x1a\x00\x22\x00";

/// A body without its wrapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// What the sender says it is; may be empty.
    pub api_version: String,
    /// The kind the sender says it is; may be empty.
    pub kind: String,
    /// The object's own message.
    pub raw: &'a [u8],
}

/// Takes the wrapping (`runtime.Unknown`) off a body.
pub fn open_envelope(body: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let mut fields = Fields(body.strip_prefix(MAGIC).ok_or_else(|| {
        wrong("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?);
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    while let Some((tag, field)) = fields.next()? {
        match (tag, field) {
            (1, Wire::Bytes(type_meta)) => {
                let mut fields = Fields(type_meta);
                while let Some((tag, field)) = fields.next()? {
                    match (tag, field) {
                        (1, Wire::Bytes(text)) => envelope.api_version = string(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = string(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Puts a message into the envelope of an object of this kind.
pub fn seal_envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut sealed = envelope_start(api_version, kind, message.len());
    sealed.reserve_exact(message.len() + ENVELOPE_END.len());
    sealed.extend_from_slice(message);
    sealed.extend_from_slice(ENVELOPE_END);
    sealed
}

/// What stands before a message of this length. [`ENVELOPE_END`] comes after it.
pub fn envelope_start(api_version: &str, kind: &str, length: usize) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut start = Vec::with_capacity(type_meta.len() + 16);
    start.extend_from_slice(MAGIC);
    put_bytes(&mut start, 1, &type_meta);
    put_key(&mut start, 2, wire::LENGTH_DELIMITED);
    put_varint(&mut start, length as u64);
    start
}

/// An item as a part of its list's message. The list's metadata is what `PartialObjectMetadataList` has: all lists have
/// the same numbers.
pub fn list_item(message: &[u8]) -> Vec<u8> {
    let mut item = Vec::with_capacity(message.len() + 6);
    put_bytes(&mut item, 2, message);
    item
}

/// Appends one event of a watch: its length, then `WatchEvent` with the object in its envelope.
pub fn put_watch_frame(frame: &mut Vec<u8>, event: &str, sealed: &[u8]) {
    let mut object = Vec::with_capacity(sealed.len() + 6);
    put_bytes(&mut object, 1, sealed);
    let mut message = Vec::with_capacity(event.len() + object.len() + 8);
    put_bytes(&mut message, 1, event.as_bytes());
    put_bytes(&mut message, 2, &object);
    // An object is smaller than a body may be, so its length fits.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
}

#[cfg(test)]
mod tests;
