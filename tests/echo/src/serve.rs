// SPDX-License-Identifier: Apache-2.0
//! The server side: HTTP, TCP echo, UDP echo, each connection on a thread of its own up to a bound.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use crate::args::Args;
use crate::http;

/// More connections than any test opens at once; one more waits in the listen queue.
const CONNECTIONS_MAX: usize = 1024;
/// An idle connection is given up after this long, so that none leaks.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// Enough for the few frames of one connection.
const STACK_BYTES: usize = 128 << 10;
/// The largest datagram that is echoed.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// How long a server that was told to end goes on.
const LINGER_MS: u64 = 1000;

static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);
/// What `/memory` has taken; never given back, that is its point.
static EATEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Who answers: the pod's name, which is its host name.
pub fn own_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// Serves until it is ended. SIGTERM lets it go on for a moment, because those who call hear of its end a little
/// later than it does, as well-behaved servers behind a Service do.
pub fn run(args: &Args) -> Result<(), String> {
    end_politely(Duration::from_millis(args.value("linger", LINGER_MS)?))?;
    let bind: String = args.value("bind", "0.0.0.0".to_owned())?;
    let ready_at = Instant::now() + Duration::from_millis(args.value("ready-after", 0)?);
    let mut threads = Vec::new();
    for (name, port) in [("http", 8080_u16), ("tcp", 8081)] {
        let port = args.value(name, port)?;
        if port == 0 {
            continue;
        }
        let listener = TcpListener::bind((bind.as_str(), port))
            .map_err(|error| format!("cannot listen on {bind}:{port}: {error}"))?;
        let serve: fn(TcpStream, Instant) = if name == "http" {
            serve_http
        } else {
            serve_tcp
        };
        threads.push(thread::spawn(move || {
            accept_all(&listener, move |stream| serve(stream, ready_at))
        }));
    }
    let port = args.value("udp", 8082_u16)?;
    if port != 0 {
        let socket = UdpSocket::bind((bind.as_str(), port))
            .map_err(|error| format!("cannot bind {bind}:{port}/udp: {error}"))?;
        threads.push(thread::spawn(move || serve_udp(&socket)));
    }
    println!("{} is listening", own_name());
    for thread in threads {
        thread
            .join()
            .map_err(|_| "a server thread panicked".to_owned())?;
    }
    Ok(())
}

/// Accepts and closes first, so that the client's port is free at once: the other end of a connect bench.
pub fn sink(args: &Args) -> Result<(), String> {
    let bind: String = args.value("bind", "0.0.0.0".to_owned())?;
    let port: u16 = args.value("port", 9000)?;
    let listener = TcpListener::bind((bind.as_str(), port))
        .map_err(|error| format!("cannot listen on {bind}:{port}: {error}"))?;
    println!("listening");
    for stream in listener.incoming().flatten() {
        drop(stream);
    }
    Ok(())
}

/// Blocks SIGTERM and SIGINT for the threads that follow and takes them on a thread of their own. As PID 1 of a
/// container the program would not even notice them otherwise.
fn end_politely(linger: Duration) -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals
        .thread_block()
        .map_err(|error| format!("cannot block signals: {error}"))?;
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            println!("{signal}: ending in {} ms", linger.as_millis());
            thread::sleep(linger);
            std::process::exit(0);
        }
    });
    Ok(())
}

fn accept_all<F>(listener: &TcpListener, serve: F)
where
    F: Fn(TcpStream) + Clone + Send + 'static,
{
    for stream in listener.incoming() {
        // An accept that fails (the peer has gone, descriptors ran out) says nothing about the next one.
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        while CONNECTIONS.load(Ordering::Relaxed) >= CONNECTIONS_MAX {
            thread::sleep(Duration::from_millis(5));
        }
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let serve = serve.clone();
        let started = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _ = stream.set_read_timeout(Some(IDLE_LIMIT));
                let _ = stream.set_nodelay(true);
                serve(stream);
                CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve_http(stream: TcpStream, ready_at: Instant) {
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let mut writer = std::io::BufWriter::new(writer);
    let peer = stream.peer_addr().ok();
    let local = stream.local_addr().ok();
    let mut reader = BufReader::new(&stream);
    while let Ok(Some(request)) = http::read_request(&mut reader) {
        let (status, body) = answer(&request, peer, local, ready_at);
        let close = request
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if http::write_answer(&mut writer, status, &body).is_err() || close {
            break;
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn answer(
    request: &http::Request,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    ready_at: Instant,
) -> (&'static str, String) {
    let show = |address: Option<SocketAddr>| {
        address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
    };
    if request.method != "GET" && request.method != "HEAD" {
        return ("405 Method Not Allowed", "only GET\n".to_owned());
    }
    match request.path() {
        "/" => ("200 OK", format!("{}\n", own_name())),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/readyz" if Instant::now() < ready_at => {
            ("503 Service Unavailable", "not yet\n".to_owned())
        }
        "/readyz" => ("200 OK", "ok\n".to_owned()),
        "/clientip" => ("200 OK", format!("{}\n", show(peer))),
        "/serverip" => ("200 OK", format!("{}\n", show(local))),
        "/headers" => (
            "200 OK",
            request
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}\n"))
                .collect(),
        ),
        "/env" => (
            "200 OK",
            std::env::vars()
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect(),
        ),
        "/sleep" => {
            thread::sleep(Duration::from_millis(request.number("ms", 100)));
            ("200 OK", format!("{}\n", own_name()))
        }
        "/crash" => {
            println!("crashing as asked");
            std::process::exit(i32::try_from(request.number("code", 1)).unwrap_or(1));
        }
        "/memory" => ("200 OK", eat(request.number("mb", 1))),
        "/cpu" => (
            "200 OK",
            burn(Duration::from_millis(request.number("ms", 100))),
        ),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    }
}

fn eat(megabytes: u64) -> String {
    let Ok(mut eaten) = EATEN.lock() else {
        return "nothing\n".to_owned();
    };
    for _ in 0..megabytes {
        // Written to, so that the kernel has to give it.
        eaten.push(vec![1; 1 << 20]);
    }
    format!("{} MiB\n", eaten.len())
}

fn burn(time: Duration) -> String {
    let end = Instant::now() + time;
    let mut turns = 0_u64;
    while Instant::now() < end {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
    format!("{turns} turns\n")
}

fn serve_tcp(mut stream: TcpStream, _ready_at: Instant) {
    // The name first, so that a client knows whom it keeps.
    if stream
        .write_all(format!("{}\n", own_name()).as_bytes())
        .is_err()
    {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
}

/// Answers a datagram with the own name and what came.
fn serve_udp(socket: &UdpSocket) {
    let name = own_name();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // A client that has gone away is no concern of the others.
        let _ = socket.send_to(&answer, from);
    }
}
