// SPDX-License-Identifier: Apache-2.0
//! The feed against a control plane made for the test: real sockets, real TLS, real gRPC.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use knarr_api::feed::enrollment_server::{Enrollment, EnrollmentServer};
use knarr_api::feed::feed_server::{self, FeedServer};
use knarr_api::feed::{
    Change, Delta, JoinRequest, NodeCertificate, OpenStream, PodGone, PodReport, PodSet, Snapshot,
    StreamFrame, Welcome, change,
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::config::Server;
use crate::desired::Desired;
use crate::join::pin::CaHash;

mod lost;
mod memory;

const NODE: &str = "node-1";
const TOKEN: &str = "abcdef.0123456789abcdef";
const WITHIN: Duration = Duration::from_secs(20);

type ToNodeStream = ReceiverStream<Result<ToNode, Status>>;

/// One connection as the control plane sees it.
struct Session {
    hello: Hello,
    said: Streaming<FromNode>,
    tell: mpsc::Sender<Result<ToNode, Status>>,
}

impl Session {
    async fn tell(&self, message: to_node::Message) {
        let message = ToNode {
            message: Some(message),
        };
        self.tell
            .send(Ok(message))
            .await
            .expect("the agent listens");
    }

    async fn welcome(&self, epoch: &str, resumed: bool) {
        self.tell(to_node::Message::Welcome(Welcome {
            epoch: epoch.into(),
            resumed,
            heartbeat_seconds: 1,
            ..Welcome::default()
        }))
        .await;
    }

    async fn pods(&self, version: u64, snapshot: Snapshot, uids: &[&str]) {
        let changes = uids.iter().map(|uid| Change {
            change: Some(change::Change::PodSet(PodSet {
                uid: (*uid).to_owned(),
                pod_json: r#"{"metadata":{"name":"x","namespace":"ns"}}"#.into(),
            })),
        });
        self.tell(to_node::Message::Delta(Delta {
            version,
            changes: changes.collect(),
            snapshot: snapshot.into(),
        }))
        .await;
    }

    /// The next message that is wanted; others are passed over.
    async fn hear<T>(&mut self, want: impl Fn(from_node::Message) -> Option<T>) -> T {
        let hear = async {
            loop {
                let message = self.said.message().await.expect("stream").expect("message");
                if let Some(found) = message.message.and_then(&want) {
                    return found;
                }
            }
        };
        tokio::time::timeout(WITHIN, hear)
            .await
            .expect("heard in time")
    }

    async fn hear_ack(&mut self, version: u64) {
        self.hear(|m| match m {
            from_node::Message::Ack(ack) if ack.version == version => Some(()),
            _ => None,
        })
        .await;
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Ca {
    fn new() -> Ca {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "test-ca");
        let certificate = params.self_signed(&key).expect("ca");
        Ca {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn hash(&self) -> CaHash {
        CaHash::of(&self.der).expect("hash")
    }

    fn server_config(&self, not_after_s: i64) -> rustls::ServerConfig {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().expect("ip"))];
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(not_after_s);
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der.clone()).expect("root");
        let provider = crate::join::pin::provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .expect("verifier");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone(), self.der.clone()],
                PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("key"),
            )
            .expect("server config");
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn sign(&self, csr_pem: &str, life_s: i64) -> NodeCertificate {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).expect("csr");
        csr.params.distinguished_name = rcgen::DistinguishedName::new();
        let name = format!("system:node:{NODE}");
        csr.params.distinguished_name.push(DnType::CommonName, name);
        let now = time::OffsetDateTime::now_utc();
        csr.params.not_before = now - time::Duration::seconds(1);
        csr.params.not_after = now + time::Duration::seconds(life_s);
        csr.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        NodeCertificate {
            certificate_pem: csr.signed_by(&self.issuer).expect("signed").pem(),
            ca_pem: self.pem.clone(),
        }
    }
}

/// The control plane's side.
struct Control {
    ca: Ca,
    sessions: mpsc::Sender<Session>,
    /// Seconds that a joined, then a renewed certificate lives.
    lives_s: (i64, i64),
    renewals: Mutex<u32>,
}

struct Service(Arc<Control>);

impl std::ops::Deref for Service {
    type Target = Control;
    fn deref(&self) -> &Control {
        &self.0
    }
}

#[tonic::async_trait]
impl Enrollment for Service {
    async fn join(
        &self,
        request: Request<JoinRequest>,
    ) -> Result<Response<NodeCertificate>, Status> {
        let request = request.into_inner();
        if request.token == TOKEN {
            Ok(Response::new(
                self.ca.sign(&request.csr_pem, self.lives_s.0),
            ))
        } else {
            Err(Status::unauthenticated(
                "the token is unknown or has expired",
            ))
        }
    }
}

#[tonic::async_trait]
impl feed_server::Feed for Service {
    type SyncStream = ToNodeStream;
    type StreamStream = ReceiverStream<Result<StreamFrame, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<ToNodeStream>, Status> {
        let mut said = request.into_inner();
        let (tell, receiver) = mpsc::channel(16);
        let sessions = self.sessions.clone();
        tokio::spawn(async move {
            let Ok(Some(FromNode {
                message: Some(from_node::Message::Hello(hello)),
            })) = said.message().await
            else {
                return;
            };
            let _ = sessions.send(Session { hello, said, tell }).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn stream(
        &self,
        _: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn renew(
        &self,
        request: Request<RenewRequest>,
    ) -> Result<Response<NodeCertificate>, Status> {
        *self.renewals.lock() += 1;
        let csr = request.into_inner().csr_pem;
        Ok(Response::new(self.ca.sign(&csr, self.lives_s.1)))
    }
}

struct Lab {
    control: Arc<Control>,
    sessions: mpsc::Receiver<Session>,
    server: Server,
    dir: tempfile::TempDir,
}

impl Lab {
    async fn new(lives_s: (i64, i64), server_life_s: i64) -> Lab {
        let (sender, sessions) = mpsc::channel(8);
        let control = Arc::new(Control {
            ca: Ca::new(),
            sessions: sender,
            lives_s,
            renewals: Mutex::new(0),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let tls = Arc::new(control.ca.server_config(server_life_s));
        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
        let router = tonic::service::Routes::new(FeedServer::new(Service(control.clone())))
            .add_service(EnrollmentServer::new(Service(control.clone())))
            .into_axum_router();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = TowerToHyperService::new(router);
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Lab {
            control,
            sessions,
            server: Server {
                host: "127.0.0.1".into(),
                port,
            },
            dir: tempfile::tempdir().expect("tempdir"),
        }
    }

    fn join_config(&self) -> JoinConfig {
        JoinConfig {
            server: self.server.clone(),
            node_name: NODE.into(),
            token: TOKEN.parse().ok(),
            ca_hash: Some(self.control.ca.hash()),
            pki_dir: self.dir.path().join("pki"),
        }
    }

    async fn agent(&self) -> Agent {
        self.agent_with(Arc::new(std::fs::File::sync_data)).await
    }

    async fn agent_with(&self, sync_data: Arc<persist::SyncData>) -> Agent {
        let join = self.join_config();
        let identity = crate::join::identity(&join).await.expect("joins");
        let (desired, journal) = Desired::open(&self.dir.path().join("desired")).expect("opens");
        let outbox = Arc::new(Outbox::default());
        outbox.node("{}".into());
        let metrics = Arc::<Metrics>::default();
        let desired_file =
            DesiredFile::with_sync(journal, desired.clone(), metrics.clone(), sync_data);
        let feed = Feed {
            join,
            identity,
            desired_file,
            outbox: outbox.clone(),
            streams: Arc::new(NoStreams),
            metrics: metrics.clone(),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(feed.run(shutdown.clone()));
        Agent {
            desired,
            outbox,
            metrics,
            shutdown,
            task,
        }
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(WITHIN, self.sessions.recv())
            .await
            .expect("a connection in time")
            .expect("a connection")
    }
}

struct NoStreams;

impl AnswerStreams for NoStreams {
    fn open(&self, _: OpenStream, _: FeedClient<Channel>) {}
}

struct Agent {
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("ends");
    }
}

fn report(status: &'static str) -> PodReport {
    PodReport {
        uid: "a".into(),
        status_json: status.into(),
        ..PodReport::default()
    }
}

fn is_report(message: from_node::Message) -> Option<PodReport> {
    match message {
        from_node::Message::Pod(report) => Some(report),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_joins_syncs_and_acknowledges() {
    let mut lab = Lab::new((3600, 3600), 3600).await;
    let agent = lab.agent().await;
    let mut session = lab.session().await;
    assert_eq!(
        (session.hello.epoch.as_str(), session.hello.version),
        ("", 0)
    );
    session.welcome("e1", false).await;
    session.pods(4, Snapshot::Part, &["a"]).await;
    session.pods(4, Snapshot::Last, &["b"]).await;
    session.hear_ack(4).await;
    assert_eq!(agent.desired.pod_uids(), ["a", "b"]);
    session.pods(5, Snapshot::None, &["c"]).await;
    session.hear_ack(5).await;
    let beat = |m| matches!(m, from_node::Message::Heartbeat(_)).then_some(());
    session.hear(beat).await;
    session.hear(beat).await;
    agent.stop().await;
    use std::os::unix::fs::PermissionsExt;
    let key = std::fs::metadata(lab.dir.path().join("pki/node.pem")).expect("stat");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_is_made_again_and_everything_is_said_again() {
    let mut lab = Lab::new((3600, 3600), 3600).await;
    let agent = lab.agent().await;
    let mut session = lab.session().await;
    session.welcome("e1", false).await;
    session.pods(4, Snapshot::Last, &["a"]).await;
    agent.outbox.pod(report("1"));
    assert_eq!(session.hear(is_report).await, report("1"));
    session.hear_ack(4).await;
    drop(session);
    let mut session = lab.session().await;
    assert_eq!(
        (session.hello.epoch.as_str(), session.hello.version),
        ("e1", 4)
    );
    session.welcome("e1", true).await;
    assert_eq!(session.hear(is_report).await, report("1"));
    session.pods(5, Snapshot::None, &["b"]).await;
    session.hear_ack(5).await;
    assert_eq!(agent.desired.pod_uids(), ["a", "b"]);
    let gone = PodGone {
        uid: "a".into(),
        ..PodGone::default()
    };
    agent.outbox.gone(gone.clone());
    let is_gone = |m| match m {
        from_node::Message::PodGone(gone) => Some(gone),
        _ => None,
    };
    assert_eq!(session.hear(is_gone).await, gone);
    agent.stop().await;
    // A restarted agent goes on where this one was, with no control plane at all.
    let (desired, _) = Desired::open(&lab.dir.path().join("desired")).expect("opens");
    assert_eq!(desired.resume(), Some(("e1".into(), 5)));
    assert_eq!(desired.pod_uids(), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_without_a_restart() {
    let mut lab = Lab::new((6, 3600), 3600).await;
    let agent = lab.agent().await;
    let mut first = lab.session().await;
    first.welcome("e1", false).await;
    first.pods(4, Snapshot::Last, &["a"]).await;
    first.hear_ack(4).await;
    let second = lab.session().await;
    assert_eq!(*lab.control.renewals.lock(), 1);
    assert_eq!(
        (second.hello.epoch.as_str(), second.hello.version),
        ("e1", 4)
    );
    let stored = crate::join::identity::Identity::load(&lab.dir.path().join("pki"))
        .expect("reads")
        .expect("is there");
    assert!(stored.not_after_ms() > crate::clock::now_ms() + 1_000_000);
    agent.stop().await;
}

async fn join_error(lab: &Lab, change: impl FnOnce(&mut JoinConfig)) -> String {
    let mut config = lab.join_config();
    change(&mut config);
    let error = crate::join::identity(&config).await.expect_err("refused");
    knarr_base::chain(&error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ca_than_the_one_named_is_refused_with_what_to_do() {
    let lab = Lab::new((3600, 3600), 3600).await;
    let other = Ca::new();
    let text = join_error(&lab, |c| c.ca_hash = Some(other.hash())).await;
    assert!(
        text.contains("is not the one that --ca-hash names"),
        "{text}"
    );
    assert!(text.contains(&lab.control.ca.hash().to_string()), "{text}");
    assert!(!lab.dir.path().join("pki/node.pem").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_with_what_to_do() {
    let lab = Lab::new((3600, 3600), 3600).await;
    let text = join_error(&lab, |c| c.token = "000000.0000000000000000".parse().ok()).await;
    assert!(text.contains("unknown or has expired"), "{text}");
    assert!(text.contains("knarr-control token create"), "{text}");
    let text = join_error(&lab, |c| c.token = None).await;
    assert!(
        text.starts_with("--token is missing; this node has not joined yet"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_control_plane_is_refused_with_what_to_do() {
    let lab = Lab::new((3600, 3600), -60).await;
    let text = join_error(&lab, |_| {}).await;
    assert!(text.contains("has expired"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_certificate_ended_while_it_was_away_joins_again() {
    let mut lab = Lab::new((2, 3600), 3600).await;
    crate::join::identity(&lab.join_config())
        .await
        .expect("joins");
    tokio::time::sleep(Duration::from_millis(2_600)).await;
    let agent = lab.agent().await;
    let session = lab.session().await;
    assert_eq!(session.hello.version, 0);
    agent.stop().await;
}

fn state_file(lab: &Lab) -> std::fs::Metadata {
    std::fs::metadata(lab.dir.path().join("desired/state")).expect("the state file")
}

/// Goes wrong once, when `broken` says so.
fn sync_that_fails_once(broken: &Arc<std::sync::atomic::AtomicBool>) -> Arc<persist::SyncData> {
    let broken = broken.clone();
    Arc::new(move |file: &std::fs::File| {
        if broken.swap(false, std::sync::atomic::Ordering::SeqCst) {
            Err(std::io::Error::from_raw_os_error(libc::EIO))
        } else {
            file.sync_data()
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_was_not_made_durable_is_written_anew_before_it_is_acknowledged() {
    use std::os::unix::fs::MetadataExt;
    let mut lab = Lab::new((3600, 3600), 3600).await;
    let broken = Arc::<std::sync::atomic::AtomicBool>::default();
    let agent = lab.agent_with(sync_that_fails_once(&broken)).await;
    let mut session = lab.session().await;
    session.welcome("e1", false).await;
    session.pods(4, Snapshot::Last, &["a"]).await;
    session.hear_ack(4).await;
    let lost = state_file(&lab).ino();
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    session.pods(5, Snapshot::None, &["b"]).await;
    // A later fdatasync of the same file would succeed; what the first one lost would stay lost.
    session.pods(6, Snapshot::None, &["c"]).await;
    session.hear_ack(6).await;
    assert_ne!(state_file(&lab).ino(), lost, "acknowledged in the old file");
    assert!(agent.metrics.journal_rewrites() >= 1);
    agent.stop().await;
    let (desired, _) = Desired::open(&lab.dir.path().join("desired")).expect("opens");
    assert_eq!(desired.resume(), Some(("e1".into(), 6)));
    assert_eq!(desired.pod_uids(), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_takes_no_rewrite_is_tried_rarely_and_nothing_is_acknowledged_meanwhile() {
    let mut lab = Lab::new((3600, 3600), 3600).await;
    let broken = Arc::<std::sync::atomic::AtomicBool>::default();
    let agent = lab.agent_with(sync_that_fails_once(&broken)).await;
    let mut session = lab.session().await;
    session.welcome("e1", false).await;
    session.pods(4, Snapshot::Last, &["a"]).await;
    session.hear_ack(4).await;
    // A directory in the place of the new file: it cannot be made, as on a full disk.
    let obstacle = lab.dir.path().join("desired/state.new");
    std::fs::create_dir(&obstacle).expect("obstacle");
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    for version in 5..105 {
        session.pods(version, Snapshot::None, &["b"]).await;
    }
    // Heartbeats go on, two of them are more than a second, and there is no Ack among what is said.
    let mut beats = 0;
    // The first attempt may come late on a busy machine; each later one waits a second and more.
    while beats < 2 || agent.metrics.journal_rewrites() == 0 {
        assert!(beats < 30, "no attempt was made");
        session
            .hear(|message| match message {
                from_node::Message::Heartbeat(_) => Some(()),
                from_node::Message::Ack(ack) => panic!("acknowledged {ack:?}"),
                _ => None,
            })
            .await;
        beats += 1;
    }
    let tried = agent.metrics.journal_rewrites();
    assert!(tried <= 3, "{tried} attempts for 100 messages");
    std::fs::remove_dir(&obstacle).expect("removed");
    session.hear_ack(104).await;
    agent.stop().await;
}
