// SPDX-License-Identifier: Apache-2.0
//! Tests of `probe`.
use super::*;
