// SPDX-License-Identifier: Apache-2.0
//! The only place with `unsafe`: system calls without a safe wrapper.
