// SPDX-License-Identifier: Apache-2.0
//! The API over real TLS sockets and a real store.

mod harness;
