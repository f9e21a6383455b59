// SPDX-License-Identifier: Apache-2.0
//! What a machine is told that is not let in.

use std::error::Error;

use tonic::Code;

use super::*;

#[test]
fn a_refusal_keeps_its_cause_and_tells_it_to_the_machine() {
    let cause = || Cause::from(std::io::Error::other("the disk is full"));
    let request = EnrollError::Request {
        node: "n1".to_owned(),
        source: cause(),
    };
    for (error, code, text) in [
        (
            request,
            Code::InvalidArgument,
            "no certificate for \"n1\": the disk is full",
        ),
        (
            EnrollError::Unavailable(cause()),
            Code::Unavailable,
            "the control plane cannot let nodes in now: the disk is full",
        ),
    ] {
        let source = error.source().unwrap();
        assert!(source.is::<std::io::Error>(), "{source:?}");
        let status = Status::from(error);
        assert_eq!((status.code(), status.message()), (code, text));
    }
    // What is wrong with a token is said in the token's own words.
    let token = Status::from(EnrollError::Token(cause()));
    assert_eq!(
        (token.code(), token.message()),
        (Code::Unauthenticated, "the disk is full")
    );
    // On this code the agent asks again by itself.
    let awaited = Status::from(EnrollError::Awaited {
        name: "n1".to_owned(),
        wait: Duration::from_millis(6_500),
    });
    assert_eq!(awaited.code(), Code::Unavailable);
    assert!(
        awaited.message().contains("has 7 s left")
            && awaited.message().contains("kubectl delete node n1"),
        "{awaited}"
    );
}
