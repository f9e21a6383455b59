// SPDX-License-Identifier: Apache-2.0
//! A whole API server for tests: embedded store, own CA, TLS sockets on 127.0.0.1, and a client for it.
//!
//! Used by the integration tests and by the `devserver` example.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_api::stream::{Frame, channel};
use knarr_apiserver::{
    ApiConfig, ApiError, ApiServer, NodeStream, NodeStreams, ServiceAllocator, StreamRequest,
    StreamTarget, serve,
};
use knarr_store::{Embedded, Options, Store};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// A running API server.
pub struct Server {
    pub api: ApiServer,
    pub store: Arc<Embedded>,
    pub address: SocketAddr,
    ca: CertificateDer<'static>,
    identities: HashMap<&'static str, Identity>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    directory: PathBuf,
}

struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

/// Addresses 10.96.0.0/12 and ports 30000 to 32767, in order.
pub struct Ranges;

impl ServiceAllocator for Ranges {
    fn check_cluster_ip(&self, address: IpAddr) -> Result<(), String> {
        match address {
            IpAddr::V4(v4) if v4.to_bits() >> 20 == u32::from_be_bytes([10, 96, 0, 0]) >> 20 => {
                Ok(())
            }
            other => Err(format!(
                "failed to allocate IP {other}: the provided IP ({other}) is not in the valid range. The range of valid IPs is 10.96.0.0/12"
            )),
        }
    }

    fn next_cluster_ip(&self, taken: &dyn Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let base = u32::from_be_bytes([10, 96, 0, 0]);
        (2..1 << 20)
            .map(|n| IpAddr::V4(Ipv4Addr::from_bits(base + n)))
            .find(|ip| !taken(*ip))
    }

    fn check_node_port(&self, port: u16) -> Result<(), String> {
        if (30000..=32767).contains(&port) {
            Ok(())
        } else {
            Err(
                "provided port is not in the valid range. The range of valid ports is 30000-32767"
                    .to_owned(),
            )
        }
    }

    fn next_node_port(&self, taken: &dyn Fn(u16) -> bool) -> Option<u16> {
        (30000..=32767).find(|p| !taken(*p))
    }
}

/// Answers what it was asked for.
pub struct EchoLogs;

#[async_trait]
impl NodeStreams for EchoLogs {
    async fn open(
        &self,
        target: StreamTarget,
        request: StreamRequest,
    ) -> Result<NodeStream, ApiError> {
        let StreamRequest::Logs { container, options } = request else {
            panic!("{request:?} was asked for before it exists");
        };
        let line = format!(
            "{}/{} {container} on {} tail={:?} follow={}\n",
            target.namespace, target.pod, target.node, options.tail_lines, options.follow
        );
        let (frames, received) = mpsc::channel(1);
        let line = Frame::Data {
            channel: channel::LOG,
            bytes: Bytes::from(line),
        };
        frames.try_send(line).unwrap();
        let (send, _) = mpsc::channel(1);
        Ok(NodeStream { received, send })
    }
}

/// What the server answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn warnings(&self) -> Vec<String> {
        self.headers
            .get_all("warning")
            .iter()
            .map(|v| v.to_str().expect("warnings are ASCII").to_owned())
            .collect()
    }
}

/// Makes a namespace's default ServiceAccount, where it is not there yet.
pub async fn make_account(api: &ApiServer, namespace: &str) {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("default".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    match api.client().create(&account).await {
        Err(error) if !error.is_already_exists() => panic!("{error}"),
        _ => {}
    }
}

/// A CA of its own.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params
        .distinguished_name
        .push(DnType::CommonName, "test CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a CA")
}

fn leaf(issuer: &CertifiedIssuer<'_, KeyPair>, user: &str, group: Option<&str>) -> Identity {
    leaf_until(issuer, user, group, 4096)
}

/// Valid to the end of this year.
fn leaf_until(
    issuer: &CertifiedIssuer<'_, KeyPair>,
    user: &str,
    group: Option<&str>,
    year: i32,
) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])
        .expect("parameters");
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Identity {
        chain: vec![certificate.der().clone()],
        key: key.serialize_der(),
    }
}

impl Identity {
    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }
}

impl Server {
    /// Starts over the store in `directory`, on `port` (0: any).
    pub async fn start_in(directory: &Path, port: u16) -> Self {
        Self::start_with(directory, port, |_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn start_with(
        directory: &Path,
        port: u16,
        tune: impl FnOnce(&mut ApiConfig),
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let store = Arc::new(
            Embedded::open(&directory.join("store.redb"), Options::default()).expect("a store"),
        );
        let mut config = ApiConfig::new(Arc::new(Ranges), Arc::new(EchoLogs));
        tune(&mut config);
        let api = ApiServer::open(store.clone(), config)
            .await
            .expect("an API server");
        // Nobody furnishes the namespace here: the controller that does is not part of the API server.
        make_account(&api, "default").await;

        let issuer = authority();
        let ca = issuer.der().clone();
        let identities = HashMap::from([
            ("server", leaf(&issuer, "server", None)),
            (
                "admin",
                leaf(&issuer, "kubernetes-admin", Some("system:masters")),
            ),
            (
                "node",
                leaf(&issuer, "system:node:node-1", Some("system:nodes")),
            ),
            ("user", leaf(&issuer, "jane", Some("devs"))),
            // Of another CA with the same name, and of this one but long ago.
            (
                "stranger",
                leaf(&authority(), "kubernetes-admin", Some("system:masters")),
            ),
            (
                "expired",
                leaf_until(&issuer, "kubernetes-admin", Some("system:masters"), 2020),
            ),
        ]);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.clone()).expect("the CA");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
        let own = &identities["server"];
        let tls = serve::Tls::new(verifier, |verifier| {
            let mut tls = rustls::ServerConfig::builder()
                .with_client_cert_verifier(verifier)
                .with_single_cert(own.chain.clone(), own.private_key())?;
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Ok::<_, rustls::Error>(tls)
        })
        .expect("a TLS configuration");
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let (_, tls) = watch::channel(Arc::new(tls));
        let serving = tokio::spawn(serve::serve(
            vec![listener],
            tls,
            api.router(),
            serve::ANONYMOUS_CONNECTIONS_MAX,
            shutdown.clone(),
        ));
        Self {
            api,
            store,
            address,
            ca,
            identities,
            shutdown,
            serving,
            directory: directory.to_owned(),
        }
    }

    /// Ends serving and closes the store.
    pub async fn stop(self) {
        self.shutdown.cancel();
        let _ = self.serving.await;
        drop(self.api);
        self.store.close().await;
    }

    /// Writes a kubeconfig for one of the identities and returns its path.
    pub fn kubeconfig(&self, who: &str) -> PathBuf {
        let identity = &self.identities[who];
        let pem = |label: &str, der: &[u8]| {
            use base64::Engine as _;
            let body = base64::engine::general_purpose::STANDARD.encode(der);
            let lines: Vec<&str> = body
                .as_bytes()
                .chunks(64)
                .map(|c| std::str::from_utf8(c).expect("base64"))
                .collect();
            let text = format!(
                "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
                lines.join("\n")
            );
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "dev",
            "clusters": [{"name": "dev", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority-data": pem("CERTIFICATE", &self.ca),
            }}],
            "users": [{"name": who, "user": {
                "client-certificate-data": pem("CERTIFICATE", &identity.chain[0]),
                "client-key-data": pem("PRIVATE KEY", &identity.key),
            }}],
            "contexts": [{"name": "dev", "context": {"cluster": "dev", "user": who}}],
        });
        let path = self.directory.join(format!("{who}.kubeconfig"));
        std::fs::write(&path, config.to_string()).expect("a kubeconfig");
        path
    }

    /// Opens a connection as `who` (`None`: without a certificate).
    pub async fn connect(
        &self,
        who: Option<&str>,
    ) -> hyper::client::conn::http1::SendRequest<Full<Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).expect("the CA");
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match who.map(|w| &self.identities[w]) {
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.private_key())
                .expect("a client certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let stream = TcpStream::connect(self.address)
            .await
            .expect("a connection");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .expect("TLS");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP");
        tokio::spawn(connection);
        sender
    }

    /// One request as `who` with these headers.
    pub async fn call(
        &self,
        who: Option<&str>,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut sender = self.connect(who).await;
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "127.0.0.1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = sender.send_request(request).await.expect("a response");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    /// GET as the administrator.
    pub async fn get(&self, path: &str) -> Answer {
        self.call(Some("admin"), "GET", path, &[], Bytes::new())
            .await
    }

    /// POST, PUT, PATCH or DELETE of JSON as the administrator.
    pub async fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        let kind = [("content-type", "application/json")];
        self.call(Some("admin"), method, path, &kind, body.to_string())
            .await
    }

    /// PATCH of a kind (`merge`, `json`, `strategic-merge`).
    pub async fn patch(&self, kind: &str, path: &str, body: &Value) -> Answer {
        let kind = format!("application/{kind}-patch+json");
        let headers = [("content-type", kind.as_str())];
        self.call(Some("admin"), "PATCH", path, &headers, body.to_string())
            .await
    }
}
