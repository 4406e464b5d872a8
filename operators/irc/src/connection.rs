//! The TCP and TLS connection: opening it with deadlines, cutting what comes into lines, writing what goes. It knows
//! nothing of IRC but where a line ends.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::line::Line;
use crate::server::Server;

/// For one address. A name may have several.
const CONNECT_MAX: Duration = Duration::from_secs(10);
const LOOKUP_MAX: Duration = Duration::from_secs(15);
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);
/// A line with all its tags has at most 8191 + 512 bytes; what is longer is thrown away, not kept.
const LINE_IN_BYTES_MAX: usize = 16 * 1024;
/// What waits in memory for a server that does not read. The flood control keeps it far smaller.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot look up {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("{}", said(.0))]
    Tcp(io::Error),
    #[error("TLS: {}", said(.0))]
    Tls(io::Error),
    #[error("{what} took longer than {} s", .limit.as_secs())]
    Deadline { what: &'static str, limit: Duration },
}

/// "connection refused" instead of "Connection refused (os error 111)".
pub(crate) fn said(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        // What rustls puts in front of a refusal of our own.
        _ => error.to_string().replace("unexpected error: ", ""),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    /// The line at hand is too long: skip to its end.
    skipping: bool,
    outgoing: BytesMut,
    unflushed: bool,
}

impl Connection {
    /// Looks up the name, tries its addresses one after the other, and does the TLS handshake if there is a `tls`.
    pub(crate) async fn open(server: Server, tls: Option<Arc<ClientConfig>>) -> Result<Self, ConnectError> {
        let tcp = connect(&server).await?;
        // Lines are small, and each is an answer that somebody waits for.
        let _ = tcp.set_nodelay(true);
        let Some(config) = tls else { return Ok(Self::over(tcp)) };
        let name = ServerName::try_from(server.host.clone())
            .map_err(|error| ConnectError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let handshake = TlsConnector::from(config).connect(name, tcp);
        match timeout(HANDSHAKE_MAX, handshake).await {
            Ok(stream) => Ok(Self::over(stream.map_err(ConnectError::Tls)?)),
            Err(_) => Err(ConnectError::Deadline { what: "the TLS handshake", limit: HANDSHAKE_MAX }),
        }
    }

    fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            incoming: BytesMut::with_capacity(8 * 1024),
            skipping: false,
            outgoing: BytesMut::new(),
            unflushed: false,
        }
    }

    /// Appends a line to what is written by the next [`Connection::line`].
    ///
    /// # Errors
    /// When the server has not read for so long that too much waits.
    pub(crate) fn send(&mut self, line: &Line) -> Result<(), io::Error> {
        if self.outgoing.len() + line.as_str().len() > OUT_BYTES_MAX {
            let text = format!("the server does not read: {OUT_BYTES_MAX} bytes wait for it");
            return Err(io::Error::new(io::ErrorKind::WriteZero, text));
        }
        self.outgoing.extend_from_slice(line.as_str().as_bytes());
        self.outgoing.extend_from_slice(b"\r\n");
        Ok(())
    }

    /// Writes what is to be written, and gives the next line; `None` when the server has closed. It may be dropped and
    /// called again at any point without losing anything.
    pub(crate) async fn line(&mut self) -> Result<Option<String>, io::Error> {
        poll_fn(|context| {
            if let Poll::Ready(Err(error)) = self.poll_write(context) {
                return Poll::Ready(Err(error));
            }
            self.poll_line(context)
        })
        .await
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<String>, io::Error>> {
        loop {
            if let Some(line) = self.take_line() {
                return Poll::Ready(Ok(Some(line)));
            }
            let mut space = [0; 4096];
            let mut read = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)) {
                Ok(()) if read.filled().is_empty() => return Poll::Ready(Ok(None)),
                Ok(()) => self.incoming.extend_from_slice(read.filled()),
                // Servers close TLS connections without saying so.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(None)),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn take_line(&mut self) -> Option<String> {
        loop {
            let Some(end) = self.incoming.iter().position(|byte| *byte == b'\n') else {
                if self.incoming.len() > LINE_IN_BYTES_MAX {
                    if !self.skipping {
                        tracing::warn!("a line of the server is longer than {LINE_IN_BYTES_MAX} bytes and is left out");
                    }
                    self.skipping = true;
                    self.incoming.clear();
                }
                return None;
            };
            let line = self.incoming.split_to(end + 1);
            if std::mem::take(&mut self.skipping) || line.len() > LINE_IN_BYTES_MAX {
                continue;
            }
            let line = text_of(&line);
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

async fn connect(server: &Server) -> Result<TcpStream, ConnectError> {
    let lookup = tokio::net::lookup_host((server.host.as_str(), server.port));
    let addresses = match timeout(LOOKUP_MAX, lookup).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(source)) => return Err(ConnectError::Lookup { host: server.host.clone(), source }),
        Err(_) => return Err(ConnectError::Deadline { what: "the lookup of the server's name", limit: LOOKUP_MAX }),
    };
    let mut last = ConnectError::NoAddress(server.host.clone());
    for address in addresses.take(8) {
        match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = ConnectError::Tcp(error),
            Err(_) => last = ConnectError::Deadline { what: "connecting", limit: CONNECT_MAX },
        }
    }
    Err(last)
}

/// A line without its end. What is not UTF-8 is read as Latin-1, in which every byte is a character: old clients still
/// write it.
fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
    let bytes = &bytes[..end];
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
    // Some servers hand on a NUL, and then even a CR in the middle of a line.
    .replace(['\0', '\r'], "")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn lines_are_cut_wherever_the_reads_fall() {
        let text = b"@a=b :x PRIVMSG #a :gr\xc3\xbcn\r\n\r\n\nPING :1\nlatin \xfc\r\nnul\0 cr\rx\r\n";
        for size in 1..text.len() {
            let (ours, mut theirs) = duplex(4096);
            let mut connection = Connection::over(ours);
            let writer = tokio::spawn(async move {
                for piece in text.chunks(size) {
                    theirs.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
            });
            let mut lines = Vec::new();
            while let Some(line) = connection.line().await.unwrap() {
                lines.push(line);
            }
            writer.await.unwrap();
            assert_eq!(lines, ["@a=b :x PRIVMSG #a :grün", "PING :1", "latin ü", "nul crx"], "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_left_out_and_takes_no_memory() {
        let (ours, mut theirs) = duplex(4096);
        let mut connection = Connection::over(ours);
        let writer = tokio::spawn(async move {
            for _ in 0..100 {
                theirs.write_all(&[b'x'; 4096]).await.unwrap();
            }
            theirs.write_all(b" end\r\nPING :1\r\n").await.unwrap();
        });
        assert_eq!(connection.line().await.unwrap().as_deref(), Some("PING :1"));
        assert!(connection.incoming.capacity() < 4 * LINE_IN_BYTES_MAX);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_sent_arrives_even_when_the_reader_is_dropped_in_between() {
        let (ours, mut theirs) = duplex(16);
        let mut connection = Connection::over(ours);
        for number in 0..50 {
            connection.send(&Line::new("PRIVMSG").param("#a").trailing(&number.to_string())).unwrap();
        }
        let reader = tokio::spawn(async move {
            let mut all = String::new();
            theirs.read_to_string(&mut all).await.unwrap();
            all
        });
        while !connection.outgoing.is_empty() || connection.unflushed {
            let _ = timeout(Duration::from_millis(1), connection.line()).await;
        }
        drop(connection);
        let expected: String = (0..50).map(|number| format!("PRIVMSG #a :{number}\r\n")).collect();
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_server_that_does_not_read_costs_bounded_memory() {
        let (ours, _theirs) = duplex(16);
        let mut connection = Connection::over(ours);
        let line = Line::new("PRIVMSG").param("#a").trailing(&"x".repeat(400));
        let sent = (0..10_000).take_while(|_| connection.send(&line).is_ok()).count();
        assert!(sent < 200, "{sent}");
    }
}
