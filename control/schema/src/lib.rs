// SPDX-License-Identifier: Apache-2.0
//! What an object may look like, as data, and everything that follows from it.
//!
//! The schemas of built-in kinds are made at build time (see `build.rs`), those of others while the program runs. On top
//! of them: decoding that finds unknown and duplicate fields, protobuf in both directions, defaults, strategic merge
//! patches, and the OpenAPI documents that clients
//! download. It knows nothing of requests, storage or single kinds; the API server is its caller.
#![forbid(unsafe_code)]

mod custom;
mod decode;
mod gnostic;
mod merge;
mod openapi;
mod place;
mod protobuf;
mod scalar;
mod types;

pub use custom::CustomSchema;
pub use decode::{DecodeError, Decoded};
pub use gnostic::OPENAPI_V2_PROTOBUF;
pub use merge::PatchError;
pub use openapi::{OpenApiOperation, OpenApiPath};
pub use protobuf::{
    ENVELOPE_END, EncodeError, Envelope, envelope_start, list_item, open_envelope, put_watch_frame,
    seal_envelope,
};
pub use types::{SchemaRef, Schemas, TooSmall};
