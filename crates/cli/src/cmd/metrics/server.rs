//! As much of an HTTP server as a scraper needs: one request a connection, one at a time.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use super::exposition::Format;
use crate::exit::{CliError, Result, warn};

/// A request is this long at most.
const MOST_BYTES: u64 = 16 * 1024;
/// Whoever is slower than this must ask again, since others wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves pages until a signal ends the program.
pub(super) fn serve(
    address: SocketAddr,
    mut page_fn: impl FnMut(Format) -> Result<String>,
) -> Result<()> {
    let failed = |source| CliError::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    eprintln!("serving http://{address}/metrics");
    for stream in listener.incoming() {
        match stream {
            // Whoever asked may be gone, or may have asked nonsense: the next one is served.
            Ok(stream) => match answer(stream, &mut page_fn) {
                Ok(()) => {}
                Err(error) => warn("a request was not answered", &error),
            },
            Err(error) => warn("a connection failed", &error),
        }
    }
    Ok(())
}

fn answer(
    mut stream: TcpStream,
    page_fn: &mut impl FnMut(Format) -> Result<String>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = read_request(&mut BufReader::new((&stream).take(MOST_BYTES)))?;
    let reply = reply_to(&request, page_fn);
    stream.write_all(reply.as_bytes())
}

/// The lines of a request up to the empty one.
fn read_request(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line);
    }
}

fn reply_to(request: &[String], page_fn: &mut impl FnMut(Format) -> Result<String>) -> String {
    let first = request.first().map_or("", String::as_str);
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = path.split('?').next().unwrap_or("");
    let plain = "text/plain; charset=utf-8";
    let (status, content_type, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => {
            let format = format_of(request);
            match page_fn(format) {
                Ok(page) => ("200 OK", format.content_type(), page),
                Err(error) => ("500 Internal Server Error", plain, format!("{error}\n")),
            }
        }
        ("GET" | "HEAD", _) => ("404 Not Found", plain, "see /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", plain, "GET /metrics\n".to_owned()),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

/// OpenMetrics if the scraper takes it.
fn format_of(request: &[String]) -> Format {
    let takes = |line: &String| {
        let (name, value) = line.split_once(':')?;
        (name.eq_ignore_ascii_case("accept") && value.contains("application/openmetrics-text"))
            .then_some(())
    };
    if request.iter().find_map(takes).is_some() {
        Format::Openmetrics
    } else {
        Format::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|&line| line.to_owned()).collect();
        reply_to(&lines, &mut |format| Ok(format!("{format:?}\n")))
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_takes() {
        let text = reply(&["GET /metrics HTTP/1.1", "Host: here"]);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
        assert!(text.ends_with("Content-Length: 5\r\nConnection: close\r\n\r\nText\n"));
        let accept = "accept: text/plain;q=0.1,application/openmetrics-text;version=1.0.0";
        let text = reply(&["GET /metrics?x=1 HTTP/1.1", accept]);
        assert!(text.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
        assert!(text.ends_with("\r\n\r\nOpenmetrics\n"));
        let text = reply(&["HEAD /metrics HTTP/1.1"]);
        assert!(text.ends_with("Content-Length: 5\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn other_requests_are_refused() {
        assert!(reply(&["GET / HTTP/1.1"]).starts_with("HTTP/1.1 404 "));
        assert!(reply(&["POST /metrics HTTP/1.1"]).starts_with("HTTP/1.1 405 "));
        assert!(reply(&["nonsense"]).starts_with("HTTP/1.1 405 "));
        assert!(reply(&[]).starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn a_failure_is_the_scraper_s_to_see() {
        let mut page_fn = |_| Err(CliError::NoDevices);
        let text = reply_to(&["GET /metrics HTTP/1.1".to_owned()], &mut page_fn);
        assert!(text.starts_with("HTTP/1.1 500 "));
    }

    #[test]
    fn a_request_ends_with_an_empty_line() {
        let mut text = &b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\nmore"[..];
        assert_eq!(read_request(&mut text).unwrap().len(), 2);
        read_request(&mut &b"GET /metrics HTTP/1.1\r\n"[..]).unwrap_err();
        read_request(&mut &b"\xff\xff\r\n\r\n"[..]).unwrap_err();
    }
}
