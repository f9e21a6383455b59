// SPDX-License-Identifier: Apache-2.0
//! Where a walk over a table of keys begins and ends. The table in the file (`read`) and the values in memory (`overlay`)
//! are walked alike.

use std::ops::Bound;

/// Where a range of keys ends.
enum End<'a> {
    /// The range is the one key it starts with.
    Key,
    /// Before this key.
    Before(&'a [u8]),
    /// There is no end.
    Open,
}

/// etcd's reading of a range's end: empty is one key, a single 0 byte is "no end".
fn end_of(end: &[u8]) -> End<'_> {
    match end {
        [] => End::Key,
        [0] => End::Open,
        end => End::Before(end),
    }
}

/// First and last key of a walk.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// The bounds to walk a table of keys with; `None` where the range is empty.
pub(super) fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> Option<Bounds<'a>> {
    let first = Bound::Included(start);
    match end_of(end) {
        End::Key => Some((first, first)),
        End::Before(end) if end <= start => None,
        End::Before(end) => Some((first, Bound::Excluded(end))),
        End::Open => Some((first, Bound::Unbounded)),
    }
}
