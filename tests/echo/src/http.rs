// SPDX-License-Identifier: Apache-2.0
//! The little of HTTP/1.1 that both sides need: requests without bodies, answers with a length.

use std::io::{self, BufRead, Read, Write};

/// A line or a header block longer than this is refused.
const LINE_BYTES_MAX: u64 = 8 << 10;
const HEADERS_MAX: usize = 100;
/// The largest body that a client reads.
const BODY_BYTES_MAX: u64 = 1 << 20;

/// What a client asks.
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// With the query.
    pub target: String,
    /// As they came.
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The path alone.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// A number from the query.
    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(otherwise)
    }

    /// A header by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    reader.take(LINE_BYTES_MAX).read_line(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn headers(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let text = line(reader)?;
        if text.is_empty() {
            return Ok(headers);
        }
        if headers.len() == HEADERS_MAX {
            return Err(io::Error::other("too many headers"));
        }
        if let Some((name, value)) = text.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

/// Reads one request; none when the other side has closed.
pub fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let first = line(reader)?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut words = first.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::other(format!("no request line: {first}")));
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some(Request {
        method,
        target,
        headers: headers(reader)?,
    }))
}

/// Writes one answer.
pub fn write_answer(writer: &mut impl Write, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    write!(
        writer,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    writer.flush()
}

/// Writes one request; a connection that is not kept is announced as such.
pub fn write_request(
    writer: &mut impl Write,
    host: &str,
    path: &str,
    connection: &str,
) -> io::Result<()> {
    write!(
        writer,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n"
    )?;
    writer.flush()
}

/// Reads one answer: status code and body.
pub fn read_answer(reader: &mut impl BufRead) -> io::Result<(u16, String)> {
    let first = line(reader)?;
    let status = first
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection was closed before an answer",
        )
    })?;
    let length = headers(reader)?
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.parse::<u64>().ok());
    let mut body = String::new();
    match length {
        Some(length) => reader
            .take(length.min(BODY_BYTES_MAX))
            .read_to_string(&mut body)?,
        None => reader.take(BODY_BYTES_MAX).read_to_string(&mut body)?,
    };
    if length.is_some_and(|length| body.len() as u64 != length) {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the answer was cut short",
        ));
    }
    Ok((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        let mut whole = Vec::new();
        write_answer(&mut whole, "200 OK", "web-1\n").expect("it writes");
        assert_eq!(
            read_answer(&mut whole.as_slice()).expect("it reads"),
            (200, "web-1\n".to_owned())
        );
        assert!(read_answer(&mut &whole[..whole.len() - 1]).is_err());
        assert!(read_answer(&mut &b""[..]).is_err());
    }

    #[test]
    fn a_query_gives_numbers() {
        let text = b"GET /crash?code=3&x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        let request = read_request(&mut text.as_slice())
            .expect("it reads")
            .expect("a request");
        assert_eq!(
            (
                request.path(),
                request.number("code", 1),
                request.number("mb", 9)
            ),
            ("/crash", 3, 9)
        );
        assert_eq!(request.header("HOST"), Some("a"));
    }
}
