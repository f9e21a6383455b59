// SPDX-License-Identifier: Apache-2.0
//! The program in the image `localhost/knarr-echo:dev`: a server that tells who answered, and the clients that the
//! tests and benches point at it. It is static, so that it runs in an empty
//! image and on any host. Not for use outside tests: it ends, eats memory and burns CPU on request.
#![forbid(unsafe_code)]

mod args;
mod client;
mod http;
mod serve;

use std::process::ExitCode;

const HELP: &str = "\
knarr-echo [serve]                  HTTP on 8080, TCP echo on 8081, UDP echo on 8082
    --http PORT --tcp PORT --udp PORT --bind ADDR   (0 leaves one out)
    --ready-after MS                /readyz answers 503 until then
    --linger MS                     how long it goes on after SIGTERM
knarr-echo sink --port PORT         accepts and closes at once
knarr-echo client get ADDR:PORT [PATH]             one request, prints the body
knarr-echo client load ADDR:PORT [PATH]            requests one after the other, one line each
    --rate N (a second) --seconds S --keep (one connection) --timeout MS
    --until-eof                     ends as well when its input ends
    --count N                       exactly so many, however long they take
knarr-echo client tcp ADDR:PORT --seconds S --every MS    one kept connection to a TCP echo
knarr-echo client udp ADDR:PORT --seconds S --every MS    one kept connected UDP socket
knarr-echo client connects ADDR:PORT --count N     connects and closes; prints microseconds
knarr-echo client roundtrips ADDR:PORT --count N   one-byte requests on one connection
";

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let command = match words.first().map(String::as_str) {
        Some("--help" | "-h") => "help".to_owned(),
        Some(word) if !word.starts_with("--") => words.remove(0),
        _ => "serve".to_owned(),
    };
    let result = match command.as_str() {
        "serve" => args::Args::parse(words).and_then(|args| serve::run(&args)),
        "sink" => args::Args::parse(words).and_then(|args| serve::sink(&args)),
        "client" => args::Args::parse(words).and_then(|args| client::run(&args)),
        "help" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("unknown command {other}; see `knarr-echo help`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("knarr-echo: {reason}");
            ExitCode::FAILURE
        }
    }
}
