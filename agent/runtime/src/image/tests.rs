// SPDX-License-Identifier: Apache-2.0
//! Tests of importing, looking up and removing images. They need root.
