// SPDX-License-Identifier: Apache-2.0
//! What agent and shim say to each other.
