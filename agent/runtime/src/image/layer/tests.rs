// SPDX-License-Identifier: Apache-2.0
//! Tests of unpacking. They need root.
