// SPDX-License-Identifier: Apache-2.0
//! What etcd's messages become, where the conformance suite cannot make etcd send them.

use super::*;

fn event(r#type: pb::event::EventType, key: &'static str, revision: i64) -> pb::Event {
    pb::Event {
        r#type: r#type.into(),
        kv: Some(pb::KeyValue {
            key: key.into(),
            value: "v".into(),
            mod_revision: revision,
        }),
    }
}

#[test]
fn events_are_one_batch_for_each_revision_after_the_one_that_is_known() {
    use pb::event::EventType::{Delete, Put};
    let events = vec![
        event(Put, "known", 4),
        event(Put, "a", 5),
        event(Delete, "b", 5),
        event(Put, "a", 7),
    ];
    let put = |key: &'static str| Event::Put {
        key: key.into(),
        value: "v".into(),
    };
    let wanted = [
        WatchBatch {
            revision: Revision(5),
            events: vec![put("a"), Event::Delete { key: "b".into() }],
        },
        WatchBatch {
            revision: Revision(7),
            events: vec![put("a")],
        },
    ];
    assert_eq!(batches(events, Revision(4)), wanted);
}

#[test]
fn a_revision_beyond_etcds_numbers_is_its_last() {
    assert_eq!(signed(u64::MAX), i64::MAX);
    assert_eq!(number(-1), 0);
}
