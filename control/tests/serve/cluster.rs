// SPDX-License-Identifier: Apache-2.0
//! A control plane inside the test, and the two kinds of clients it has: API clients and agents.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use knarr_api::feed::enrollment_client::EnrollmentClient;
use knarr_api::feed::feed_client::FeedClient;
use knarr_api::feed::{
    Change, Delta, EventReport, FromNode, Heartbeat, Hello, JoinRequest, LogRequest, PodGone,
    PodReport, RenewRequest, Snapshot, StreamFrame, ToNode, Welcome, change, from_node,
    open_stream, stream_frame, to_node,
};
use knarr_control::Services;
use knarr_control::config::Settings;
use knarr_store::{Embedded, Op, Options, Store, Txn};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, Streaming};

/// Whatever should happen does so well within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who a client is.
#[derive(Debug)]
pub enum Identity {
    Nobody,
    Bearer(String),
    Admin,
    Node { certificate: String, key: String },
}

pub struct Cluster {
    pub address: SocketAddr,
    dir: tempfile::TempDir,
    running: Running,
    /// Of a process.
    service_cidr: &'static str,
}

/// How the control plane runs.
enum Running {
    /// Inside the test.
    Task(
        CancellationToken,
        JoinHandle<Result<(), knarr_control::RunError>>,
    ),
    /// As the program that it is.
    Process(std::process::Child),
}

impl Running {
    /// Asks for an orderly end and waits for it.
    async fn end(&mut self) {
        match self {
            Self::Task(shutdown, task) => {
                shutdown.cancel();
                let ended = tokio::time::timeout(PATIENCE, task).await;
                ended.expect("an orderly end").unwrap().unwrap();
            }
            Self::Process(child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        match self {
            Self::Task(_, task) => task.is_finished(),
            Self::Process(child) => child.try_wait().unwrap().is_some(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Process(child) = self {
            // A test that failed leaves no process behind; one that ended has none.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_in(dir: &std::path::Path, listener: TcpListener) -> Running {
    let served = [listener.local_addr().unwrap()];
    let settings = Settings {
        data_dir: Some(dir.to_owned()),
        advertise_address: Some([10, 0, 0, 5].into()),
        ..Settings::default()
    };
    let config = settings.resolve(&served).unwrap();
    let shutdown = CancellationToken::new();
    let services = Services {
        listeners: vec![listener],
    };
    let task = tokio::spawn(knarr_control::run(config, services, shutdown.clone()));
    Running::Task(shutdown, task)
}

/// Small, so that whoever takes an address twice is soon seen.
const SERVICE_CIDR: &str = "10.96.0.0/22";

fn start_process(dir: &std::path::Path, address: SocketAddr, service_cidr: &str) -> Running {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_knarr-control"));
    command.arg("--data-dir").arg(dir);
    command.args(["--listen", &address.to_string()]);
    command.args(["--advertise-address", "10.0.0.5", "--log", "warn"]);
    command.args(["--service-cidr", service_cidr]);
    // Small as well.
    command.args(["--node-port-range", "30000-31023"]);
    Running::Process(command.spawn().unwrap())
}

impl Cluster {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let running = start_in(dir.path(), listener);
        let mut cluster = Self {
            address,
            dir,
            running,
            service_cidr: SERVICE_CIDR,
        };
        cluster.wait_until_ready().await;
        cluster
    }

    /// Starts the program itself, so that it can be killed.
    pub async fn start_process() -> Self {
        Self::start_process_with(SERVICE_CIDR).await
    }

    /// Starts the program itself with another range of Service addresses.
    pub async fn start_process_with(service_cidr: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let running = start_process(dir.path(), address, service_cidr);
        let mut cluster = Self {
            address,
            dir,
            running,
            service_cidr,
        };
        cluster.wait_until_ready().await;
        cluster
    }

    /// `kill -9`, at once.
    pub fn kill(&self) {
        if let Running::Process(child) = &self.running {
            let pid = child.id().to_string();
            let kill = std::process::Command::new("kill")
                .args(["-9", &pid])
                .status();
            assert!(kill.unwrap().success());
        }
    }

    /// Anonymous memory of the program, in bytes.
    pub fn anonymous_bytes(&self) -> u64 {
        let Running::Process(child) = &self.running else {
            panic!("it runs inside this process");
        };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Starts the killed program again.
    pub async fn start_again(&mut self) {
        self.running.end().await;
        std::fs::remove_file(self.dir.path().join("local.url")).unwrap();
        self.running = start_process(self.dir.path(), self.address, self.service_cidr);
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&mut self) {
        // Written once the sockets are about to be served; connections wait in their queue till then.
        let url = self.dir.path().join("local.url");
        tokio::time::timeout(PATIENCE, async {
            while !url.exists() {
                if self.running.has_ended() {
                    if let Running::Task(_, task) = &mut self.running {
                        panic!("it ended: {:?}", task.await);
                    }
                    panic!("it ended");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the control plane is ready");
    }

    pub async fn stop(mut self) {
        self.running.end().await;
    }

    /// Ends the control plane and starts it again over the same data directory and port.
    pub async fn restart(&mut self) {
        self.running.end().await;
        self.start_over().await;
    }

    /// Restarts with something under `key` in the store that is no object.
    pub async fn spoil(&mut self, key: &str) {
        self.running.end().await;
        let path = self.dir.path().join("store.redb");
        let store = Embedded::open(&path, Options::default()).unwrap();
        let spoil = Txn::of(vec![Op::put(key.to_owned(), "{no object")]);
        store.txn(spoil).await.unwrap();
        store.close().await;
        drop(store);
        self.start_over().await;
    }

    async fn start_over(&mut self) {
        std::fs::remove_file(self.dir.path().join("local.url")).unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(1024).unwrap();
        self.running = start_in(self.dir.path(), listener);
        self.wait_until_ready().await;
    }

    fn pki(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("pki").join(name)).unwrap()
    }

    pub fn tls(&self, identity: &Identity, alpn: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.pki("ca.crt").as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let pair = match identity {
            Identity::Nobody | Identity::Bearer(_) => None,
            Identity::Admin => Some((self.pki("admin.crt"), self.pki("admin.key"))),
            Identity::Node { certificate, key } => Some((certificate.clone(), key.clone())),
        };
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    async fn request(
        &self,
        identity: &Identity,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Bytes) {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = self.tls(identity, "http/1.1").connect(name, socket).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream.unwrap()))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let content = match method {
            Method::PATCH => "application/strategic-merge-patch+json",
            _ => "application/json",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", content)
            .header("accept", "application/json");
        if let Identity::Bearer(token) = identity {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        connection.abort();
        (status, body)
    }

    /// One connection of the admin, for many requests.
    pub async fn admin_connection(&self) -> Option<SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect(self.address).await.ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = self.tls(&Identity::Admin, "http/1.1");
        let stream = tls.connect(name, socket).await.ok()?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        tokio::spawn(connection);
        Some(sender)
    }

    pub async fn get(&self, identity: &Identity, path: &str) -> (StatusCode, Value) {
        let (status, body) = self.request(identity, Method::GET, path, None).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub async fn get_text(&self, identity: &Identity, path: &str) -> (StatusCode, String) {
        let (status, body) = self.request(identity, Method::GET, path, None).await;
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self
            .request(&Identity::Admin, Method::POST, path, Some(body))
            .await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, StatusCode::CREATED, "{text}");
        serde_json::from_slice(&answer).unwrap()
    }

    pub async fn patch(&self, path: &str, patch: Value) -> Value {
        let (status, answer) = self
            .request(&Identity::Admin, Method::PATCH, path, Some(patch))
            .await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_slice(&answer).unwrap()
    }

    pub async fn delete(&self, path: &str) {
        let (status, answer) = self
            .request(&Identity::Admin, Method::DELETE, path, None)
            .await;
        let text = String::from_utf8_lossy(&answer);
        assert!(status.is_success(), "{status} {text}");
    }

    /// Runs `knarr-control` with these arguments on the control plane's machine.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_knarr-control"));
        command
            .args(arguments)
            .arg("--data-dir")
            .arg(self.dir.path());
        command.args(["--server", &format!("https://{}", self.address)]);
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Names of the objects of a collection.
    pub async fn list(&self, path: &str) -> Vec<String> {
        let (status, list) = self.get(&Identity::Admin, path).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        let items = list["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub async fn metric(&self, name: &str) -> f64 {
        let (status, text) = self.get_text(&Identity::Admin, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Makes a join token; `more` are further fields of its Secret.
    pub async fn token(&self, more: Value) -> String {
        let id = &uuid::Uuid::new_v4().simple().to_string()[..6];
        let mut data = json!({
            "token-id": id,
            "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
        });
        let fields = data.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.post(
            "/api/v1/namespaces/kube-system/secrets",
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": format!("bootstrap-token-{id}")},
                "type": "bootstrap.kubernetes.io/token",
                "stringData": data,
            }),
        )
        .await;
        format!("{id}.0123456789abcdef")
    }

    /// A pod that uses the ConfigMap `settings`; bound to `node` unless that is empty.
    pub async fn create_pod(&self, name: &str, node: &str) -> Value {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"containers": [{
                "name": "main",
                "image": "localhost/knarr-echo:dev",
                "envFrom": [{"configMapRef": {"name": "settings", "optional": true}}],
            }]},
        });
        if node.is_empty() {
            // Stays where it is, whatever nodes there are.
            pod["spec"]["nodeSelector"] = json!({"there-is": "no-such-node"});
        } else {
            pod["spec"]["nodeName"] = json!(node);
        }
        self.post("/api/v1/namespaces/default/pods", pod).await
    }

    pub async fn phase(&self, pod: &str) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{pod}");
        let (status, pod) = self.get(&Identity::Admin, &path).await;
        assert_eq!(status, StatusCode::OK, "{pod}");
        pod["status"]["phase"].as_str().unwrap().to_owned()
    }

    pub async fn until_phase(&self, pod: &str, phase: &str) {
        tokio::time::timeout(PATIENCE, async {
            while self.phase(pod).await != phase {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{pod} never became {phase}"));
    }

    async fn channel(&self, identity: &Identity) -> Channel {
        let (address, tls) = (self.address, self.tls(identity, "h2"));
        let connector = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                let name = ServerName::try_from("localhost").unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, socket).await?))
            }
        });
        Endpoint::from_static("https://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    pub async fn join(&self, node: &str, token: &str) -> Result<Identity, Status> {
        let (key, csr_pem) = request_for(node);
        let request = JoinRequest {
            token: token.to_owned(),
            node_name: node.to_owned(),
            csr_pem,
        };
        let channel = self.channel(&Identity::Nobody).await;
        let answer = EnrollmentClient::new(channel).join(request).await?;
        let answer = answer.into_inner();
        assert_eq!(answer.ca_pem, self.pki("ca.crt"));
        Ok(Identity::Node {
            certificate: answer.certificate_pem,
            key,
        })
    }

    pub async fn renew(&self, node: &str, identity: &Identity) -> Result<Identity, Status> {
        let (key, csr_pem) = request_for(node);
        let certificate = self.renew_with(identity, csr_pem).await?;
        Ok(Identity::Node { certificate, key })
    }

    /// Asks for a new certificate with this request.
    pub async fn renew_with(&self, identity: &Identity, csr_pem: String) -> Result<String, Status> {
        let channel = self.channel(identity).await;
        let mut client = FeedClient::new(channel);
        let answer = client.renew(RenewRequest { csr_pem }).await?;
        Ok(answer.into_inner().certificate_pem)
    }

    pub async fn connect(&self, node: &str, identity: &Identity) -> Session {
        self.try_connect(node, identity).await.unwrap()
    }

    pub async fn try_connect(&self, node: &str, identity: &Identity) -> Result<Session, Status> {
        self.connect_from(node, identity, "", 0).await
    }

    pub async fn connect_from(
        &self,
        node: &str,
        identity: &Identity,
        epoch: &str,
        version: u64,
    ) -> Result<Session, Status> {
        let metadata = json!({"name": node, "labels": {"kubernetes.io/hostname": node}});
        self.connect_with(identity, epoch, version, metadata).await
    }

    /// Connects with this metadata of the Node.
    pub async fn connect_as(
        &self,
        identity: &Identity,
        metadata: Value,
    ) -> Result<Session, Status> {
        self.connect_with(identity, "", 0, metadata).await
    }

    async fn connect_with(
        &self,
        identity: &Identity,
        epoch: &str,
        version: u64,
        metadata: Value,
    ) -> Result<Session, Status> {
        let (outbox, messages) = mpsc::channel(16);
        let node_json = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": metadata,
            "status": {
                "addresses": [{"type": "InternalIP", "address": "10.0.0.9"}],
                "capacity": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        });
        let hello = Hello {
            node_json: node_json.to_string().into(),
            epoch: epoch.to_owned(),
            version,
        };
        send(&outbox, from_node::Message::Hello(hello)).await;
        let channel = self.channel(identity).await;
        let answer = FeedClient::new(channel)
            .sync(ReceiverStream::new(messages))
            .await?;
        let mut inbox = answer.into_inner();
        let first = tokio::time::timeout(PATIENCE, inbox.message())
            .await
            .expect("a welcome in time")?
            .and_then(|message| message.message);
        let Some(to_node::Message::Welcome(welcome)) = first else {
            panic!("no welcome: {first:?}");
        };
        Ok(Session {
            welcome,
            version,
            outbox,
            inbox,
        })
    }
}

fn request_for(node: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("system:node:{node}"));
    let request = params.serialize_request(&key).unwrap();
    (key.serialize_pem(), request.pem().unwrap())
}

async fn send(outbox: &mpsc::Sender<FromNode>, message: from_node::Message) {
    let message = Some(message);
    outbox.send(FromNode { message }).await.unwrap();
}

/// An agent's connection.
#[derive(Debug)]
pub struct Session {
    pub welcome: Welcome,
    /// The last version that was received.
    pub version: u64,
    outbox: mpsc::Sender<FromNode>,
    inbox: Streaming<ToNode>,
}

impl Session {
    async fn message(&mut self) -> to_node::Message {
        let message = tokio::time::timeout(PATIENCE, self.inbox.message())
            .await
            .expect("a message in time")
            .unwrap()
            .expect("the connection goes on");
        message.message.unwrap()
    }

    async fn delta(&mut self) -> Delta {
        loop {
            if let to_node::Message::Delta(delta) = self.message().await {
                self.version = delta.version;
                return delta;
            }
        }
    }

    /// Reads the whole snapshot.
    pub async fn snapshot(&mut self) -> Vec<Change> {
        let mut all = Vec::new();
        loop {
            let delta = self.delta().await;
            assert_ne!(delta.snapshot(), Snapshot::None);
            let last = delta.snapshot() == Snapshot::Last;
            all.extend(delta.changes);
            if last {
                return all;
            }
        }
    }

    /// Reads changes until `wanted`, and through the delta that has it.
    pub async fn until(&mut self, wanted: impl Fn(&change::Change) -> bool) -> Vec<change::Change> {
        let mut all = Vec::new();
        loop {
            let delta = self.delta().await;
            let changes: Vec<_> = delta.changes.into_iter().filter_map(|c| c.change).collect();
            let found = changes.iter().any(&wanted);
            all.extend(changes);
            if found {
                // What belongs together may come in several deltas.
                all.extend(self.quiet(Duration::from_millis(200)).await);
                return all;
            }
        }
    }

    /// Reads changes until the node is told of this pod; before that, it knows nothing to report.
    pub async fn until_told_of(&mut self, uid: &str) -> Vec<change::Change> {
        self.until(|change| matches!(change, change::Change::PodSet(set) if set.uid == uid))
            .await
    }

    /// Whatever changes come within `time`.
    pub async fn quiet(&mut self, time: Duration) -> Vec<change::Change> {
        let mut all = Vec::new();
        let end = tokio::time::Instant::now() + time;
        while let Ok(message) = tokio::time::timeout_at(end, self.inbox.message()).await {
            if let Some(to_node::Message::Delta(delta)) = message.unwrap().unwrap().message {
                self.version = delta.version;
                all.extend(delta.changes.into_iter().filter_map(|c| c.change));
            }
        }
        all
    }

    /// Reads until the control plane ends the session, and returns its reason.
    pub async fn until_ended(&mut self) -> Status {
        let end = async {
            loop {
                match self.inbox.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("without a reason"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, end)
            .await
            .expect("an end in time")
    }

    pub async fn heartbeat(&self) {
        send(&self.outbox, from_node::Message::Heartbeat(Heartbeat {})).await;
    }

    pub async fn report_event(&self, event: Value) {
        let event_json = event.to_string().into();
        let report = EventReport { event_json };
        send(&self.outbox, from_node::Message::Event(report)).await;
    }

    pub async fn report_running(&self, namespace: &str, name: &str, uid: &str) {
        self.report_running_at(namespace, name, uid, "10.244.0.2")
            .await;
    }

    pub async fn report_running_at(&self, namespace: &str, name: &str, uid: &str, ip: &str) {
        let status = json!({
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "main", "image": "localhost/knarr-echo:dev", "imageID": "x", "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        });
        self.report(namespace, name, uid, status).await;
    }

    pub async fn report_phase(&self, namespace: &str, name: &str, uid: &str, phase: &str) {
        self.report(namespace, name, uid, json!({"phase": phase}))
            .await;
    }

    pub async fn report_gone(&self, namespace: &str, name: &str, uid: &str) {
        let gone = PodGone {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
        };
        send(&self.outbox, from_node::Message::PodGone(gone)).await;
    }

    async fn report(&self, namespace: &str, name: &str, uid: &str, status: Value) {
        let report = PodReport {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            status_json: status.to_string().into(),
        };
        send(&self.outbox, from_node::Message::Pod(report)).await;
    }

    /// Waits for a request for a log and answers it with `text`.
    pub async fn answer_one_log(
        &mut self,
        cluster: &Cluster,
        identity: &Identity,
        text: &'static [u8],
    ) -> LogRequest {
        let open = loop {
            if let to_node::Message::OpenStream(open) = self.message().await {
                break open;
            }
        };
        let Some(open_stream::Request::Logs(request)) = open.request else {
            panic!("no log: {open:?}");
        };
        let frames = [
            stream_frame::Frame::Open(open.id),
            stream_frame::Frame::Data(Bytes::from_static(text)),
        ]
        .map(|frame| StreamFrame {
            channel: knarr_api::stream::channel::LOG,
            frame: Some(frame),
        });
        let channel = cluster.channel(identity).await;
        let answer = FeedClient::new(channel)
            .stream(tokio_stream::iter(frames))
            .await
            .unwrap();
        let mut answer = answer.into_inner();
        while answer.message().await.unwrap().is_some() {}
        request
    }
}
