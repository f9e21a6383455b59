// SPDX-License-Identifier: Apache-2.0
//! Tests of asking over HTTP and HTTPS, with real servers.

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// How a server's answers end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// As the protocol has it.
    Proper,
    /// With the connection, and no word about it.
    Abrupt,
}

/// What a server was asked, one text for each request.
type Asked = Arc<Mutex<Vec<String>>>;

/// A server that gives these answers in turn, and the last one ever after.
struct Server {
    port: u16,
    asked: Asked,
}

impl Server {
    async fn of(answers: &[&str]) -> Server {
        Server::with(answers, None, End::Proper).await
    }

    async fn with(answers: &[&str], tls: Option<TlsAcceptor>, end: End) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let asked = Asked::default();
        let (noted, answers) = (asked.clone(), answers.iter().map(|a| (*a).to_owned()));
        let mut answers: Vec<String> = answers.collect();
        answers.reverse();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let answer = match answers.len() {
                    1 => answers[0].clone(),
                    _ => answers.pop().expect("there are more"),
                };
                match &tls {
                    None => serve(stream, &answer, &noted, end).await,
                    Some(tls) => {
                        let stream = tls.accept(stream).await.expect("a TLS client");
                        serve(stream, &answer, &noted, end).await;
                    }
                }
            }
        });
        Server { port, asked }
    }

    fn get(&self) -> HttpGet {
        HttpGet {
            scheme: Scheme::Http,
            host: None,
            port: self.port,
            path: "/ready?full=1".to_owned(),
            headers: vec![],
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    answer: &str,
    asked: &Asked,
    end: End,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.expect("a request") == 0 {
            return;
        }
    }
    let request = String::from_utf8(request).expect("a text");
    asked.lock().push(request.to_lowercase());
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    if let End::Proper = end {
        let _ = stream.shutdown().await;
    }
}

fn failed(answer: &Answer) -> &str {
    match answer {
        Answer::Failed(message) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_status_decides() {
    for (answer, wanted) in [
        ("HTTP/1.1 200 OK\r\n\r\n", Answer::Passed),
        ("HTTP/1.1 204 No Content\r\n\r\n", Answer::Passed),
        (
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            Answer::Warned("Probe terminated redirects, Response body: ".to_owned()),
        ),
        (
            "HTTP/1.1 404 Not Found\r\n\r\n",
            Answer::Failed("HTTP probe failed with statuscode: 404".to_owned()),
        ),
        (
            "HTTP/1.1 500 Oops\r\n\r\n",
            Answer::Failed("HTTP probe failed with statuscode: 500".to_owned()),
        ),
    ] {
        let server = Server::of(&[answer]).await;
        assert_eq!(ask(&server.get(), "127.0.0.1").await, wanted, "{answer}");
    }
}

#[tokio::test]
async fn a_body_may_end_in_any_way_that_is_an_end() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.1 201 Created\r\nLocation: /caf\u{e9}\r\n\r\n",
    ] {
        let server = Server::of(&[answer]).await;
        let seen = ask(&server.get(), "127.0.0.1").await;
        assert_eq!(seen, Answer::Passed, "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_answer_fails_and_says_why() {
    for (answer, why) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version"),
        ("", "connection closed before message completed"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "end of file before message length reached",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf",
            "end of file before message length reached",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/\r\n\r\n",
            "unsupported protocol scheme \"ftp\"",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:port/\r\n\r\n",
            "invalid port number",
        ),
    ] {
        let server = Server::of(&[answer]).await;
        let seen = ask(&server.get(), "127.0.0.1").await;
        let told = failed(&seen);
        let begin = format!("Get \"http://127.0.0.1:{}/ready?full=1\": ", server.port);
        assert!(told.starts_with(&begin), "{answer}: {told}");
        assert!(told.contains(why), "{answer}: {told}");
    }
}

#[tokio::test]
async fn a_long_body_is_not_waited_for_to_its_end() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
        "x".repeat(BODY_BYTES_MAX)
    );
    let server = Server::of(&[&answer]).await;
    assert_eq!(ask(&server.get(), "127.0.0.1").await, Answer::Passed);
}

#[tokio::test]
async fn the_request_is_kubelets() {
    let server = Server::of(&["HTTP/1.1 200 OK\r\n\r\n"]).await;
    assert_eq!(ask(&server.get(), "127.0.0.1").await, Answer::Passed);
    let own = HttpGet {
        headers: vec![
            ("Host".to_owned(), String::new()),
            ("Host".to_owned(), "shop.example".to_owned()),
            ("host".to_owned(), "second.example".to_owned()),
            ("user-agent".to_owned(), String::new()),
            ("Content-Length".to_owned(), "5".to_owned()),
            ("X-Token".to_owned(), "t".to_owned()),
        ],
        ..server.get()
    };
    assert_eq!(ask(&own, "127.0.0.1").await, Answer::Passed);
    let asked = server.asked();
    let host = format!("host: 127.0.0.1:{}\r\n", server.port);
    for part in [
        "get /ready?full=1 http/1.1\r\n",
        "user-agent: kube-probe/1.37\r\n",
        "accept: */*\r\n",
        "connection: close\r\n",
        &host,
    ] {
        assert!(asked[0].contains(part), "{part}: {}", asked[0]);
    }
    assert!(asked[1].contains("host: shop.example\r\n"), "{}", asked[1]);
    assert!(asked[1].contains("x-token: t\r\n"), "{}", asked[1]);
    for none in ["user-agent", "content-length", "second.example"] {
        assert!(!asked[1].contains(none), "{none}: {}", asked[1]);
    }
}

#[tokio::test]
async fn a_header_that_cannot_be_sent_fails_and_splits_no_request() {
    let server = Server::of(&["HTTP/1.1 200 OK\r\n\r\n"]).await;
    let split = HttpGet {
        headers: vec![("X".to_owned(), "a\r\nY: b".to_owned())],
        ..server.get()
    };
    let seen = ask(&split, "127.0.0.1").await;
    assert!(failed(&seen).contains("header value"), "{seen:?}");
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_redirect_is_followed_as_long_as_it_stays_with_the_host() {
    let other = Server::of(&["HTTP/1.1 503 Not yet\r\n\r\n"]).await;
    let away = format!(
        "HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:{}/there\r\n\r\n",
        other.port
    );
    let first = Server::of(&["HTTP/1.1 302 Found\r\nLocation: deep/er\r\n\r\n", &away]).await;
    let own = HttpGet {
        headers: vec![("Host".to_owned(), "shop.example".to_owned())],
        ..first.get()
    };
    let seen = ask(&own, "127.0.0.1").await;
    assert_eq!(failed(&seen), "HTTP probe failed with statuscode: 503");
    let asked = first.asked();
    assert!(asked[1].starts_with("get /deep/er "), "{}", asked[1]);
    assert!(asked[1].contains("host: shop.example\r\n"), "{}", asked[1]);
    let asked = other.asked();
    assert!(asked[0].starts_with("get /there "), "{}", asked[0]);
    let host = format!("host: 127.0.0.1:{}\r\n", other.port);
    assert!(asked[0].contains(&host), "{}", asked[0]);
}

#[tokio::test]
async fn a_redirect_to_another_host_passes_with_a_word_about_it() {
    for answer in [
        "HTTP/1.1 301 Moved\r\nLocation: http://shop.example/\r\n\r\n",
        // To nowhere at all.
        "HTTP/1.1 302 Found\r\nLocation: \r\n\r\n",
        "HTTP/1.1 302 Found\r\n\r\n",
    ] {
        let server = Server::of(&[answer]).await;
        let seen = ask(&server.get(), "127.0.0.1").await;
        assert!(matches!(seen, Answer::Warned(_)), "{answer}: {seen:?}");
        assert_eq!(server.asked().len(), 1);
    }
}

#[tokio::test]
async fn the_word_about_a_redirect_is_the_body_up_to_a_bound() {
    let page = "<a href=\"http://0.0.0.0/\">Found</a>.\n\n";
    let long = "x".repeat(2 * BODY_BYTES_MAX);
    for (body, told) in [(page, page), (&long, &long[..BODY_BYTES_MAX])] {
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://0.0.0.0/\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let server = Server::of(&[&answer]).await;
        let seen = ask(&server.get(), "127.0.0.1").await;
        let wanted = format!("Probe terminated redirects, Response body: {told}");
        assert_eq!(seen, Answer::Warned(wanted));
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let server = Server::of(&["HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"]).await;
    let seen = ask(&server.get(), "127.0.0.1").await;
    assert!(
        failed(&seen).ends_with("stopped after 10 redirects"),
        "{seen:?}"
    );
    assert_eq!(server.asked().len(), REQUESTS_MAX);
}

fn tls(certificate: Vec<u8>, key: &rcgen::KeyPair) -> TlsAcceptor {
    let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let key = provider().key_provider.load_private_key(key);
    let shown = rustls::sign::CertifiedKey::new(vec![certificate.into()], key.expect("a key"));
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn over_https_whatever_certificate_is_shown_will_do() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let other = rcgen::CertificateParams::new(vec!["somebody.else".to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    // The second is none that anybody could read.
    for certificate in [other.der().to_vec(), vec![0x30, 0]] {
        for end in [End::Proper, End::Abrupt] {
            let answer = ["HTTP/1.0 200 OK\r\n\r\nok"];
            let server = Server::with(&answer, Some(tls(certificate.clone(), &key)), end).await;
            let get = HttpGet {
                scheme: Scheme::Https,
                ..server.get()
            };
            assert_eq!(ask(&get, "127.0.0.1").await, Answer::Passed, "{end:?}");
            assert_eq!(server.asked().len(), 1);
        }
    }
}

#[tokio::test]
async fn over_https_half_an_answer_is_none() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let answer = ["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"];
    let server = Server::with(&answer, Some(tls(vec![0x30, 0], &key)), End::Abrupt).await;
    let get = HttpGet {
        scheme: Scheme::Https,
        ..server.get()
    };
    let seen = ask(&get, "127.0.0.1").await;
    assert!(!failed(&seen).is_empty());
}

#[test]
fn an_ipv6_address_stands_in_brackets() {
    assert_eq!(authority("fd00::1", 8443), "[fd00::1]:8443");
    assert_eq!(authority("10.0.0.1", 80), "10.0.0.1:80");
}
