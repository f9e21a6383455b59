// SPDX-License-Identifier: Apache-2.0
//! The wire: commands go into a machine through a port of its own (virtio-serial) and their output comes back. It needs
//! no network, so it works whatever the checks do to the machine's addresses. An emulated UART was tried before it: under
//! load a request could lie in its queue without an interrupt until the caller connected again.
//!
//! One request and one answer a line: `ID SECONDS BASE64-OF-THE-SCRIPT`, `ID EXIT-CODE BASE64-OF-THE-OUTPUT`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;

/// Where the machine's end of the wire is, from its root folder.
pub const SCRIPT_PATH: &str = "usr/local/sbin/test-wire";
/// Its unit.
pub const UNIT_PATH: &str = "etc/systemd/system/test-wire.service";
/// The port's name, by which udev links it.
pub const PORT: &str = "knarr.test.wire";
/// The machine's end. The output goes through a file: a pipe would be held open by whatever a command leaves running. A
/// port without a caller reads as ended.
pub const SCRIPT: &str = r#"#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The machine's end of the wire: see xtask/src/vm/wire.rs.
port=/dev/virtio-ports/knarr.test.wire
until [ -e "$port" ]; do sleep 0.2; done
exec 0<>"$port" 1>&0
cd /root
while :; do
  while read -r id limit script; do
    [ -n "$script" ] || continue
    timeout --kill-after=5 "$limit" bash -c "$(base64 -d <<<"$script")" >/run/test-wire.out 2>&1 </dev/null
    printf '%s %s %s\n' "$id" "$?" "$(tail -c 300000 /run/test-wire.out | base64 -w0)"
  done
  sleep 0.2
done
"#;
/// Started as early as other services, so that a boot that does not come to its end can be looked at.
pub const UNIT: &str = "# SPDX-License-Identifier: Apache-2.0
[Unit]
Description=Commands of the tests

[Service]
ExecStart=/usr/local/sbin/test-wire
Environment=HOME=/root KUBECONFIG=/var/lib/knarr-control/admin.kubeconfig
Restart=always

[Install]
WantedBy=multi-user.target
";

/// How often a silent wire is looked at.
const POLL: Duration = Duration::from_millis(500);
/// An emulated machine beside other work needs this long for an answer, besides the command's own time.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// What a command in a machine came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 124 where its time was over (timeout(1)).
    pub code: i32,
    /// Standard output and standard error as they came.
    pub text: String,
}

/// The open wire.
pub struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    requests: u64,
}

impl Wire {
    /// Opens it. The emulator lets one caller have it at a time.
    pub fn open(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(POLL))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            requests: 0,
        })
    }

    /// Runs a script with bash.
    ///
    /// # Errors
    /// When no answer comes in the script's limit and what the machine may need besides.
    pub fn run(&mut self, script: &str, limit: Duration) -> anyhow::Result<Answer> {
        self.request(script, limit, ANSWER_LIMIT)
    }

    /// Asks for the machine's boot id with a short patience, for a machine that may be down at the moment.
    pub fn boot_id(&mut self) -> anyhow::Result<String> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let answer = self.request("cat /proc/sys/kernel/random/boot_id", PATIENCE, PATIENCE)?;
        Ok(answer.text.trim().to_owned())
    }

    fn request(
        &mut self,
        script: &str,
        limit: Duration,
        patience: Duration,
    ) -> anyhow::Result<Answer> {
        self.requests += 1;
        // Ids of another caller's requests, to which answers may still come, are others.
        let id = format!("{}-{}", std::process::id(), self.requests);
        let seconds = limit.as_secs().max(1);
        // The first line end closes what a caller before may have left half written.
        let line = format!("\n{id} {seconds} {}\n", BASE64.encode(script));
        self.stream.write_all(line.as_bytes())?;
        let end = Instant::now() + limit + patience;
        loop {
            while let Some(at) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=at).collect();
                if let Some(answer) = parse(&String::from_utf8_lossy(&line), &id)? {
                    return Ok(answer);
                }
            }
            if Instant::now() >= end {
                bail!(
                    "no answer after {} s to `{}`",
                    (limit + patience).as_secs(),
                    script.trim()
                );
            }
            let mut buffer = [0; 65536];
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the machine ended"),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("the wire to the machine broke"),
            }
        }
    }
}

/// The answer to the request `id`; none where the line is something else.
fn parse(line: &str, id: &str) -> anyhow::Result<Option<Answer>> {
    let mut words = line.split_whitespace();
    if words.next() != Some(id) {
        return Ok(None);
    }
    let code = words
        .next()
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("an answer without exit code: {line}"))?;
    let bytes = BASE64
        .decode(words.next().unwrap_or_default())
        .with_context(|| format!("an answer that is no base64: {line}"))?;
    Ok(Some(Answer {
        code,
        text: String::from_utf8_lossy(&bytes).into_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_known_by_its_id() {
        let answer = parse("7-1 2 aGkK\r\n", "7-1").expect("an answer");
        assert_eq!(
            answer,
            Some(Answer {
                code: 2,
                text: "hi\n".to_owned()
            })
        );
        assert_eq!(
            parse("7-1 0 \n", "7-1").expect("empty").expect("it").text,
            ""
        );
        assert_eq!(parse("6-1 0 aGkK\n", "7-1").expect("another's"), None);
        assert_eq!(parse("\n", "7-1").expect("nothing"), None);
        assert!(parse("7-1 what\n", "7-1").is_err());
        assert!(parse("7-1 0 ***\n", "7-1").is_err());
    }
}
