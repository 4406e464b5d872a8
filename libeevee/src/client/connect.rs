//! Making a connection: where the bus is, who we are, Hello and Welcome.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::FramedRead;

use super::reconnect::Backoff;
use crate::error::{Error, ErrorKind};
use crate::id::OperatorId;
use crate::wire::limits::{FRAME_BYTES_CEILING, FRAME_BYTES_MAX};
use crate::wire::{Code, Content, Frame, Hello, Role, VERSION, Welcome, WireError, codec, frame_length};

/// Where the bus listens unless `EEVEE_BUS` or [`Connect::socket`] says otherwise.
pub const BUS_SOCKET: &str = "/run/eevee/bus.sock";

/// The environment variable that names another socket.
pub const BUS_SOCKET_VARIABLE: &str = "EEVEE_BUS";

/// Enough for a few hundred chat messages in one read. Messages share the buffer that they were read into, so that it is
/// also how much one that is kept can keep in memory.
const READ_BUFFER: usize = 64 << 10;

/// What is left of a buffer is read into while it is at least this; a system call for less would cost more than it brings.
const ROOM_MIN: usize = 16 << 10;

/// A Deliver has an envelope that its Publish had not, and Welcome and Reload a path beside the file of up to 1 MiB.
const ENVELOPE_BYTES_MAX: usize = 64 << 10;

/// How long an id may still be held by a predecessor that is dying.
pub(super) const PREDECESSOR: Duration = Duration::from_secs(10);

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to connect: who this is, and where the bus is. Given to [`Client::connect`](crate::Client::connect).
///
/// ```no_run
/// use libeevee::{Client, Connect};
/// # async fn example() -> Result<(), libeevee::Error> {
/// let client = Client::connect(Connect::tool().program("stats 1.0").socket("/tmp/bus.sock")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connect {
    role: Role,
    id: Option<OperatorId>,
    token: String,
    instance: u64,
    program: String,
    socket: PathBuf,
    wait: bool,
    pub(super) reconnect: bool,
    handshake_timeout: Duration,
}

impl Connect {
    fn new(role: Role, id: Option<OperatorId>, token: String) -> Self {
        let from_environment = std::env::var_os(BUS_SOCKET_VARIABLE).filter(|path| !path.is_empty());
        Self {
            role,
            id,
            token,
            instance: fastrand::u64(1..),
            program: program_name(),
            socket: PathBuf::from(from_environment.unwrap_or_else(|| OsString::from(BUS_SOCKET))),
            wait: false,
            reconnect: true,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    /// A person's tool: known to the bus by its uid.
    pub fn tool() -> Self {
        Self::new(Role::Tool, None, String::new())
    }

    /// An operator: proves its id by the token of PID 1's credential. On a development bus the token may be empty, and
    /// the same uid is the proof. An id that another session holds is tried again for 10 s, as that may be a predecessor
    /// that is dying.
    pub fn operator(id: OperatorId, token: impl Into<String>) -> Self {
        Self::new(Role::Operator, Some(id), token.into())
    }

    /// The launcher of an operator: shows its token, gets kind and module file in [`Welcome`], and holds nothing.
    pub fn launcher(id: OperatorId, token: impl Into<String>) -> Self {
        Self { reconnect: false, ..Self::new(Role::Launcher, Some(id), token.into()) }
    }

    /// The helper that asks for the reload of the operator whose uid it has.
    pub fn reload_helper(id: OperatorId) -> Self {
        Self { reconnect: false, ..Self::new(Role::ReloadHelper, Some(id), String::new()) }
    }

    /// Where the bus listens; else `EEVEE_BUS` names it, else it is [`BUS_SOCKET`].
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// Name and version of the program, for the bus's logs; by default the name of the executable.
    pub fn program(mut self, program: impl Into<String>) -> Self {
        self.program = program.into();
        self
    }

    /// Whether to keep trying while the bus is away, instead of failing at once; `false` unless set. What waiting cannot
    /// heal (a wrong token, no permission to open the socket) fails all the same.
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    /// Whether to connect again when the connection is lost; `true` for operators and tools.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// How long the bus may take to answer Hello; 10 s unless set. With socket activation this covers its start.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// The first connection.
    pub(super) async fn first(&self) -> Result<(Link, Welcome), Error> {
        let began = Instant::now();
        let mut backoff = Backoff::default();
        let mut told = String::new();
        loop {
            sleep(backoff.next_delay()).await;
            let error = match self.attempt().await {
                Ok(connected) => return Ok(connected),
                Err(error) => error,
            };
            let again = match error.kind() {
                ErrorKind::Refused(Code::AlreadyConnected) => self.awaits_predecessor(began),
                ErrorKind::Refused(code) => self.wait && passes(code),
                ErrorKind::Io => self.wait && !is_forbidden(&error) || is_backlog_full(&error) && young(began),
                ErrorKind::Auth => false,
                _ => self.wait,
            };
            if !again {
                return Err(error);
            }
            let text = error.to_string();
            if told != text {
                tracing::info!("waiting for the bus: {text}");
                told = text;
            }
        }
    }

    /// Whether an id that somebody else holds is worth another attempt.
    pub(super) fn awaits_predecessor(&self, began: Instant) -> bool {
        matches!(self.role, Role::Operator) && young(began)
    }

    /// One attempt: connect, Hello, Welcome.
    pub(super) async fn attempt(&self) -> Result<(Link, Welcome), Error> {
        let place = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let next = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; is the bus running? See systemctl status eeveed.socket eeveed"
                }
                io::ErrorKind::PermissionDenied => "; members of group eevee may connect",
                _ => "",
            };
            Error::new(ErrorKind::Io, format!("cannot connect to the bus at {place}: {error}{next}")).caused(error)
        })?;
        match timeout(self.handshake_timeout, self.handshake(stream)).await {
            Ok(done) => done.map_err(|error| error.context(format_args!("the bus at {place}"))),
            Err(_) => Err(Error::new(
                ErrorKind::Deadline,
                format!("the bus at {place} did not answer Hello within {:?}", self.handshake_timeout),
            )),
        }
    }

    async fn handshake(&self, stream: UnixStream) -> Result<(Link, Welcome), Error> {
        let (read, mut write) = stream.into_split();
        let mut frames = FramedRead::new(read, codec(FRAME_BYTES_MAX + ENVELOPE_BYTES_MAX));
        // A bus that refuses us outright may have closed before it read Hello; what it said is still there to be read.
        let written = write.write_all(&self.hello().encode()).await;
        let bytes = match frames.next().await {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let text = "the bus announced a frame that is longer than it may be";
                return Err(Error::new(ErrorKind::Wire, text).caused(error));
            }
            Some(Err(error)) => return Err(read_error(error)),
            None => {
                let error = Error::new(ErrorKind::Disconnected, "closed the connection before it answered Hello");
                return Err(written.err().map_or(error.clone(), |cause| error.caused(cause)));
            }
        };
        let welcome = match Frame::decode(bytes.freeze())? {
            Some(Frame { content: Content::Welcome(welcome), .. }) => welcome,
            Some(Frame { content: Content::Error(refusal), .. }) => return Err(Error::refused(refusal)),
            Some(frame) => {
                return Err(Error::new(
                    ErrorKind::Wire,
                    format!("it answered Hello with a frame of kind {}, not with Welcome", frame.content.kind()),
                ));
            }
            None => return Err(Error::new(ErrorKind::Wire, "it answered Hello with a frame of a later version")),
        };
        if welcome.version != VERSION {
            return Err(Error::new(
                ErrorKind::Auth,
                format!("it speaks protocol version {}, this program version {VERSION}", welcome.version),
            ));
        }
        let frame_bytes_max = (welcome.frame_bytes_max as usize).clamp(FRAME_BYTES_MAX, FRAME_BYTES_CEILING);
        // What was read together with Welcome.
        let buffer = std::mem::take(frames.read_buffer_mut());
        let read =
            Frames { socket: frames.into_inner(), buffer, frame_bytes_max: frame_bytes_max + ENVELOPE_BYTES_MAX };
        Ok((Link { read, write }, welcome))
    }

    fn hello(&self) -> Frame {
        Frame::new(
            0,
            Content::Hello(Hello {
                version_min: VERSION,
                version_max: VERSION,
                role: self.role as u8,
                id: self.id.as_ref().map(ToString::to_string),
                token: self.token.clone(),
                instance: self.instance,
                program: self.program.clone(),
                capabilities: Vec::new(),
            }),
        )
    }
}

impl fmt::Debug for Connect {
    /// Everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("role", &self.role)
            .field("id", &self.id)
            .field("program", &self.program)
            .field("socket", &self.socket)
            .field("wait", &self.wait)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}

/// One connection after its handshake.
pub(super) struct Link {
    pub(super) read: Frames,
    pub(super) write: OwnedWriteHalf,
}

/// The side that is read, in pieces of whole frames: what is done for each frame is done for every message. (tokio-util's
/// codec, which reads Welcome, splits each of them off.)
pub(super) struct Frames {
    socket: OwnedReadHalf,
    /// What was read, and was not taken yet.
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl Frames {
    /// Reads what the socket has; false at the end of the stream. Dropping the future loses nothing.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.capacity() - self.buffer.len() < ROOM_MIN {
            self.buffer.reserve(READ_BUFFER);
        }
        if self.socket.read_buf(&mut self.buffer).await? > 0 {
            return Ok(true);
        }
        if self.buffer.is_empty() { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The length of the frame at the front of a piece, with its length field; `None` at the end.
    #[inline]
    pub(super) fn length(&self, piece: &[u8]) -> Result<Option<usize>, WireError> {
        frame_length(piece, self.frame_bytes_max)
    }

    /// All frames that were read whole, in one piece; it is empty when there is none.
    ///
    /// # Errors
    /// The frame behind those that were taken before is longer than it may be, or empty.
    pub(super) fn take(&mut self) -> Result<Bytes, WireError> {
        let mut end = 0;
        loop {
            match self.length(&self.buffer[end..]) {
                Ok(Some(length)) => end += length,
                // What came before a mistake is taken first.
                Err(error) if end == 0 => return Err(error),
                Ok(None) | Err(_) => return Ok(self.buffer.split_to(end).freeze()),
            }
        }
    }
}

/// What reading a frame from the socket can run into.
pub(super) fn read_error(error: io::Error) -> Error {
    match error.kind() {
        // tokio-util gives no kind to an end inside of a frame.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
            Error::new(ErrorKind::Disconnected, "the bus closed the connection in the middle of a frame").caused(error)
        }
        _ => Error::new(ErrorKind::Disconnected, format!("reading from the bus: {error}")).caused(error),
    }
}

/// Refusals of Hello that waiting heals.
const fn passes(code: Code) -> bool {
    matches!(code, Code::Quota | Code::Memory | Code::Stopping | Code::HandshakeTimeout | Code::Internal)
}

fn young(began: Instant) -> bool {
    began.elapsed() < PREDECESSOR
}

fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    std::error::Error::source(error)?.downcast_ref::<io::Error>().map(io::Error::kind)
}

fn is_forbidden(error: &Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::PermissionDenied)
}

/// A Unix socket whose backlog is full answers at once instead of waiting.
fn is_backlog_full(error: &Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::WouldBlock)
}

fn program_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name().map_or_else(|| "libeevee".to_owned(), |name| name.to_string_lossy().into_owned())
}
