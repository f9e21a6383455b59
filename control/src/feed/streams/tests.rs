// SPDX-License-Identifier: Apache-2.0
//! Tests of which agents can be asked for streams.

use super::*;

fn connected(streams: &Streams) -> Vec<String> {
    streams.agents.lock().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_session_that_is_interrupted_takes_its_connection_back() {
    let streams = Arc::new(Streams::default());
    let (requests, mut to_open) = mpsc::channel(1);
    let session = async {
        let _connected = streams.connect("node-1", requests);
        to_open.recv().await
    };
    assert!(
        tokio::time::timeout(Duration::from_millis(10), session)
            .await
            .is_err()
    );
    assert_eq!(connected(&streams), Vec::<String>::new());
    let refused = streams.open_logs("node-1", LogRequest::default()).await;
    assert_eq!(refused.map(|_| ()).unwrap_err().code, 503);
}

#[test]
fn the_end_of_an_old_connection_leaves_the_new_one() {
    let streams = Arc::new(Streams::default());
    let (requests, _old) = mpsc::channel(1);
    let old = streams.connect("node-1", requests);
    let (requests, _new) = mpsc::channel(1);
    let new = streams.connect("node-1", requests);
    drop(old);
    assert_eq!(connected(&streams), ["node-1"]);
    drop(new);
    assert_eq!(connected(&streams), Vec::<String>::new());
}
