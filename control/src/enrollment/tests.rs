// SPDX-License-Identifier: Apache-2.0
//! Whose name a machine may have.

use serde_json::json;

use super::*;

const PATIENCE: Patience = Patience {
    heard: Duration::from_secs(20),
    start: Duration::from_secs(40),
};

fn node(ready: &str) -> Node {
    let condition = json!([{"type": "Ready", "status": ready}]);
    serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"conditions": condition}}))
        .unwrap()
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn a_node_that_is_heard_lives_until_it_has_been_silent() {
    for up in [seconds(1), seconds(1000)] {
        let judged = |silent| judge(&node("True"), Some(silent), up, PATIENCE);
        assert_eq!(judged(seconds(20)), Namesake::Connected);
        assert_eq!(judged(seconds(21)), Namesake::Gone);
    }
}

#[test]
fn a_node_that_was_alive_before_the_start_has_the_grace_to_connect_again() {
    for ready in ["True", "False"] {
        let judged = |up| judge(&node(ready), None, up, PATIENCE);
        assert_eq!(judged(Duration::ZERO), Namesake::Awaited(seconds(40)));
        assert_eq!(judged(seconds(39)), Namesake::Awaited(seconds(1)));
        assert_eq!(judged(seconds(40)), Namesake::Gone);
        assert_eq!(judged(seconds(400)), Namesake::Gone);
    }
}

#[test]
fn a_node_that_was_given_up_or_never_reported_is_not_waited_for() {
    for gone in [node("Unknown"), Node::default()] {
        assert_eq!(judge(&gone, None, Duration::ZERO, PATIENCE), Namesake::Gone);
    }
}

/// The gate of a cluster of its own, and its API.
async fn gate(dir: &std::path::Path) -> (Enrollment, Client) {
    let settings = crate::config::Settings {
        data_dir: Some(dir.to_owned()),
        advertise_address: Some([10, 0, 0, 5].into()),
        ..crate::config::Settings::default()
    };
    let config = settings
        .resolve(&["10.0.0.5:6443".parse().unwrap()])
        .unwrap();
    let authority = crate::pki::Pki::open(&config, clock::utc())
        .unwrap()
        .authority();
    let store =
        knarr_store::Embedded::open(&dir.join("store.redb"), knarr_store::Options::default());
    let ranges = crate::services::ServiceRanges {
        addresses: "10.96.0.0/12".parse().unwrap(),
        ports: "30000-32767".parse().unwrap(),
    };
    let streams = Arc::new(crate::feed::Streams::default());
    let api = knarr_apiserver::ApiServer::open(
        Arc::new(store.unwrap()),
        knarr_apiserver::ApiConfig::new(Arc::new(ranges), streams),
    );
    let client = api.await.unwrap().client();
    let lifetime = seconds(3600);
    let gate = Enrollment::new(
        client.clone(),
        authority,
        Arc::default(),
        lifetime,
        PATIENCE,
    );
    (gate, client)
}

#[tokio::test]
async fn a_node_that_is_denied_while_it_renews_is_denied_its_new_certificate_too() {
    use rustls_pki_types::pem::PemObject;

    let dir = tempfile::tempdir().unwrap();
    let (gate, client) = gate(dir.path()).await;
    let judged = gate.admit("n1", None).await.unwrap();
    let mut denied = judged.clone();
    let since = admission::next_since(&denied, clock::now());
    let annotations = denied.metadata.annotations.get_or_insert_default();
    annotations.insert(admission::SINCE.to_owned(), admission::annotation(since));
    let denied = client.update(&denied).await.unwrap();

    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key);
    let renewed = gate.renew(&judged, &csr.unwrap().pem().unwrap()).unwrap();
    let pem = renewed.certificate_pem;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let renewed = knarr_apiserver::serve::PeerCertificate::read(&der).unwrap();
    let renewed = admission::Certificate {
        uid: renewed.unit,
        begins: clock::timestamp(renewed.not_before).as_second(),
    };
    assert_eq!(admission::judge("n1", Some(&judged), &renewed), Ok(()));
    assert!(admission::judge("n1", Some(&denied), &renewed).is_err());
}

#[tokio::test]
async fn a_certificate_without_a_uid_counts_for_no_node_that_joins_later() {
    let dir = tempfile::tempdir().unwrap();
    let (gate, _) = gate(dir.path()).await;
    let old = admission::Certificate {
        uid: None,
        begins: clock::now().as_second() - 1,
    };
    let mut node = gate.admit("n1", None).await.unwrap();
    let info = json!({"nodeInfo": {"kubeletVersion": "v1", "architecture": "", "bootID": "",
        "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "", "machineID": "",
        "operatingSystem": "", "osImage": "", "systemUUID": ""}});
    node.status = Some(serde_json::from_value(info).unwrap());
    let refused = admission::judge("n1", Some(&node), &old).unwrap_err();
    assert!(
        matches!(refused, admission::Refusal::Denied(..)),
        "{refused}"
    );
}
