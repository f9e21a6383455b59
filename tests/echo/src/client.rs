// SPDX-License-Identifier: Apache-2.0
//! The clients that tests and benches run in pods, on nodes and outside. The line format is read by the tests:
//! `MS ok|fail WHO MICROSECONDS`, where MS counts from the Unix epoch, and a last line `total N failed N`.

mod kept;
mod measure;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::args::Args;
use crate::http;

/// Runs what the first word names.
pub fn run(args: &Args) -> Result<(), String> {
    let target = args.word(1, "the address")?;
    let target: SocketAddr = target
        .parse()
        .map_err(|_| format!("{target} is no ADDR:PORT"))?;
    match args.word(0, "the kind of client")? {
        "get" => get(args, target),
        "load" => load(args, target),
        "tcp" => kept::tcp(args, target),
        "udp" => kept::udp(args, target),
        "connects" => measure::connects(args, target),
        "roundtrips" => measure::roundtrips(args, target),
        other => Err(format!("unknown client {other}; see `knarr-echo help`")),
    }
}

/// One line of a client's report.
fn report(started: Instant, outcome: Result<String, String>) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    let micros = started.elapsed().as_micros();
    let (word, who) = match &outcome {
        Ok(who) => ("ok", who.trim().replace(char::is_whitespace, "_")),
        Err(reason) => ("fail", reason.trim().replace(char::is_whitespace, "_")),
    };
    println!("{now} {word} {who} {micros}");
    // The reader follows along.
    let _ = std::io::stdout().flush();
}

/// Says when a client that runs for a time has to end: after that time, or when its input ends and `--until-eof` was
/// given.
struct Until {
    end: Instant,
    input_ended: Arc<AtomicBool>,
}

impl Until {
    fn new(args: &Args) -> Result<Self, String> {
        let seconds: f64 = args.value("seconds", 10.0)?;
        let input_ended = Arc::new(AtomicBool::new(false));
        if args.has("until-eof") {
            let ended = Arc::clone(&input_ended);
            thread::spawn(move || {
                let mut rest = Vec::new();
                // An input that cannot be read has ended, too.
                let _ = std::io::stdin().read_to_end(&mut rest);
                ended.store(true, Ordering::Relaxed);
            });
        }
        Ok(Self {
            end: Instant::now() + Duration::from_secs_f64(seconds),
            input_ended,
        })
    }

    fn reached(&self) -> bool {
        Instant::now() >= self.end || self.input_ended.load(Ordering::Relaxed)
    }
}

fn timeout(args: &Args) -> Result<Duration, String> {
    Ok(Duration::from_millis(args.value("timeout", 2000)?))
}

fn connect(target: SocketAddr, limit: Duration) -> Result<TcpStream, String> {
    let stream =
        TcpStream::connect_timeout(&target, limit).map_err(|error| format!("connect: {error}"))?;
    let set = |result: std::io::Result<()>| result.map_err(|error| format!("socket: {error}"));
    set(stream.set_read_timeout(Some(limit)))?;
    set(stream.set_write_timeout(Some(limit)))?;
    set(stream.set_nodelay(true))?;
    Ok(stream)
}

fn request(
    stream: &mut BufReader<TcpStream>,
    host: &str,
    path: &str,
    connection: &str,
) -> Result<String, String> {
    http::write_request(stream.get_mut(), host, path, connection)
        .map_err(|error| format!("write: {error}"))?;
    match http::read_answer(stream) {
        Ok((200, body)) => Ok(body),
        Ok((status, body)) => Err(format!("status {status}: {body}")),
        Err(error) => Err(format!("read: {error}")),
    }
}

fn get(args: &Args, target: SocketAddr) -> Result<(), String> {
    let path = args.words.get(2).map_or("/", String::as_str);
    let mut stream = BufReader::new(connect(target, timeout(args)?)?);
    print!(
        "{}",
        request(&mut stream, &target.to_string(), path, "close")?
    );
    Ok(())
}

/// A request at each tick, in a connection of its own unless one is kept: for some time, or a number of them.
fn load(args: &Args, target: SocketAddr) -> Result<(), String> {
    let path = args.words.get(2).map_or("/", String::as_str);
    let host = target.to_string();
    let limit = timeout(args)?;
    let rate: u32 = args.value("rate", 50_u32)?.max(1);
    let tick = Duration::from_secs(1) / rate;
    let until = Until::new(args)?;
    let count: Option<u64> = if args.has("count") {
        Some(args.value("count", 0)?)
    } else {
        None
    };
    let mut kept: Option<BufReader<TcpStream>> = None;
    let (mut total, mut failed) = (0_u64, 0_u64);
    let mut next = Instant::now();
    while count.map_or_else(|| !until.reached(), |count| total < count) {
        let started = Instant::now();
        let outcome = if args.has("keep") {
            let stream = match kept.take() {
                Some(stream) => Ok(stream),
                None => connect(target, limit).map(BufReader::new),
            };
            stream.and_then(|mut stream| {
                let body = request(&mut stream, &host, path, "keep-alive")?;
                kept = Some(stream);
                Ok(body)
            })
        } else {
            connect(target, limit)
                .and_then(|stream| request(&mut BufReader::new(stream), &host, path, "close"))
        };
        total += 1;
        failed += u64::from(outcome.is_err());
        report(started, outcome);
        next += tick;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!("total {total} failed {failed}");
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} of {total} requests failed"))
    }
}
