// SPDX-License-Identifier: Apache-2.0
//! What is said of a connection that ended: every cause once, nothing for programmers, and what to do where there is.

use std::fmt;

use tonic::{Code, Status};

use super::super::words;

/// What rustls says when a machine goes without a word, with the page of its manual behind it.
const CUT_OFF: &str = "peer closed connection without sending TLS close_notify: \
                       https://docs.rs/rustls/latest/rustls/manual/_03_howto/index.html#unexpected-eof";

/// An error with a cause, as each layer under the call makes one of the layer below.
#[derive(Debug)]
struct Layer(&'static str, Option<Box<Layer>>);

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Layer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.1.as_deref()?;
        Some(cause)
    }
}

fn layers(texts: &[&'static str]) -> Layer {
    let (first, below) = texts.split_first().expect("an error has a text");
    let cause = (!below.is_empty()).then(|| Box::new(layers(below)));
    Layer(first, cause)
}

#[test]
fn a_cut_connection_is_told_with_every_cause_once_and_without_the_manual() {
    let broken = layers(&["transport error", "connection error", CUT_OFF]);
    assert_eq!(
        words(&Status::from_error(Box::new(broken))),
        "Unknown error: transport error: connection error: peer closed connection without sending TLS close_notify"
    );
    // Other layers say it with their own cause's text in it already.
    let broken = layers(&[
        "h2 protocol error: error reading a body",
        "error reading a body",
        CUT_OFF,
    ]);
    assert_eq!(
        words(&Status::from_error(Box::new(broken))),
        "Unknown error: h2 protocol error: error reading a body: peer closed connection without sending TLS \
         close_notify"
    );
}

#[test]
fn a_certificate_that_is_not_known_is_told_with_what_to_do_whatever_it_came_with() {
    let mut status = Status::new(Code::Unauthenticated, "no such node");
    status.set_source(std::sync::Arc::new(layers(&[CUT_OFF])));
    assert_eq!(
        words(&status),
        "The request does not have valid authentication credentials: no such node: peer closed connection without \
         sending TLS close_notify; the control plane does not take this node's certificate"
    );
    let status = Status::unavailable("the store is not there");
    assert_eq!(
        words(&status),
        "The service is currently unavailable: the store is not there"
    );
}
