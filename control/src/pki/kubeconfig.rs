// SPDX-License-Identifier: Apache-2.0
//! The admin's kubeconfig: everything inline, so that the one file can be copied.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Pair;

/// The text of a kubeconfig for `url`.
pub(super) fn render(url: &str, ca_pem: &str, admin: &Pair) -> String {
    let ca = STANDARD.encode(ca_pem);
    let certificate = STANDARD.encode(&admin.certificate_pem);
    let key = STANDARD.encode(&admin.key_pem);
    // JSON is YAML, and quotes whatever a URL may hold.
    let url = serde_json::Value::from(url);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: knarr
  cluster:
    server: {url}
    certificate-authority-data: {ca}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: knarr
  context:
    cluster: knarr
    user: kubernetes-admin
current-context: knarr
"
    )
}
