// SPDX-License-Identifier: Apache-2.0
//! Tests of when the state is written.

use super::*;

#[test]
fn a_write_that_failed_is_repeated_until_it_succeeds() {
    let now = Instant::now();
    assert!(Saving::Due.is_due(now));
    let failed = Saving::after(&Err(io::Error::from(io::ErrorKind::StorageFull)), now);
    assert!(!failed.is_due(now), "not in a tight loop");
    assert_eq!(failed.wait(now), Some(SAVE_RETRY));
    let later = now + SAVE_RETRY;
    assert!(failed.is_due(later));
    assert_eq!(failed.wait(later), Some(Duration::ZERO));
    let saved = Saving::after(&Ok(()), later);
    assert_eq!(saved, Saving::Saved);
    assert!(!saved.is_due(later + SAVE_RETRY));
    assert_eq!(saved.wait(later), None);
}
