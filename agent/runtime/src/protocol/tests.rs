// SPDX-License-Identifier: Apache-2.0
//! Tests of frames.

use super::*;

#[test]
fn frames_come_apart_again() {
    let mut buffer = encode(&Request::Watch).unwrap();
    buffer.extend(
        encode(&Request::Kill {
            name: "web".into(),
            attempt: 2,
        })
        .unwrap(),
    );
    let tail = buffer.split_off(buffer.len() - 3);
    assert!(matches!(decode(&mut buffer).unwrap(), Some(Request::Watch)));
    assert!(decode::<Request>(&mut buffer).unwrap().is_none());
    buffer.extend(tail);
    assert!(matches!(
        decode(&mut buffer).unwrap(),
        Some(Request::Kill { attempt: 2, .. })
    ));
    assert!(buffer.is_empty());
}

#[test]
fn a_huge_frame_is_refused() {
    let mut buffer = vec![0xff; 8];
    assert!(decode::<Request>(&mut buffer).is_err());
}
