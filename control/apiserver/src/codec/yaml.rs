// SPDX-License-Identifier: Apache-2.0
//! YAML: read from request bodies, within bounds, and written for answers, for readers of every version of YAML.

mod read;
mod write;

pub(super) use read::parse;
pub(super) use write::text;
