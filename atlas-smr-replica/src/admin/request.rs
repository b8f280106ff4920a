//! The little of HTTP/1.1 that serving two pages takes: one request and one response for each
//! connection.

/// The longest request that is read, line and headers together, in bytes.
pub(super) const REQUEST_BYTES_MAX: usize = 8 << 10;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Metrics,
    Status,
    /// A page that is not there.
    NotFound,
    /// Another method than GET.
    NotGet,
    /// No HTTP/1 request.
    Malformed,
    /// Longer than [`REQUEST_BYTES_MAX`].
    TooLarge,
}

impl Request {
    /// Reads what has come so far. `None`: its end is still to come.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        // Garbage is known by its first line; there is no need to wait for headers after it.
        let line = match bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) => bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]),
            None if bytes.len() >= REQUEST_BYTES_MAX => return Some(Self::TooLarge),
            None => return None,
        };
        let request = Self::read_line(line);
        let ended = contains(bytes, b"\r\n\r\n") || contains(bytes, b"\n\n");
        match request {
            Self::Malformed => Some(request),
            _ if ended => Some(request),
            _ if bytes.len() >= REQUEST_BYTES_MAX => Some(Self::TooLarge),
            _ => None,
        }
    }

    fn read_line(line: &[u8]) -> Self {
        let Ok(line) = str::from_utf8(line) else {
            return Self::Malformed;
        };
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Self::Malformed;
        };
        if !version.starts_with("HTTP/1.") || method.is_empty() {
            return Self::Malformed;
        }
        let path = target.split('?').next().unwrap_or(target);
        match (method, path) {
            ("GET", "/metrics") => Self::Metrics,
            ("GET", "/status") => Self::Status,
            ("GET", _) => Self::NotFound,
            _ => Self::NotGet,
        }
    }
}

fn contains(bytes: &[u8], end: &[u8]) -> bool {
    bytes.windows(end.len()).any(|window| window == end)
}

/// A whole response, after which the connection ends.
pub(super) fn response(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let allow = if status.starts_with("405") {
        "Allow: GET\r\n"
    } else {
        ""
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{allow}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_it_is_whole_and_garbage_at_its_first_line() {
        let read = |text: &str| Request::read(text.as_bytes());
        assert_eq!(
            read("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"),
            Some(Request::Metrics)
        );
        assert_eq!(read("GET /status?x=1 HTTP/1.0\n\n"), Some(Request::Status));
        assert_eq!(read("GET / HTTP/1.1\r\n\r\n"), Some(Request::NotFound));
        assert_eq!(
            read("POST /metrics HTTP/1.1\r\n\r\n"),
            Some(Request::NotGet)
        );
        assert_eq!(read(""), None);
        assert_eq!(read("GET /metrics HTTP/1.1\r\nHost: a\r\n"), None);
        for garbage in [
            "\n",
            "hello\n",
            "GET /metrics\n",
            "GET / HTTP/2\n",
            " / HTTP/1.1\n",
        ] {
            assert_eq!(read(garbage), Some(Request::Malformed), "{garbage:?}");
        }
        assert_eq!(
            Request::read(b"\x16\x03\x01\xff\n"),
            Some(Request::Malformed)
        );
        let headers = format!("GET / HTTP/1.1\r\n{}", "a".repeat(REQUEST_BYTES_MAX));
        assert_eq!(read(&headers), Some(Request::TooLarge));
        assert_eq!(
            read(&"a".repeat(REQUEST_BYTES_MAX)),
            Some(Request::TooLarge)
        );
    }
}
