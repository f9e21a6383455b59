// SPDX-License-Identifier: Apache-2.0
//! Removing directory trees without following links.
