//! The identity socket: gives PID 1 the token of the operator that it starts, and nobody else anything.
//!
//! PID 1 waits for the answer while it starts the unit, so a thread of its own answers, before and beside everything
//! else: eeveed must never wait for PID 1 on a path that this thread needs.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hmac::{Hmac, Mac};
use libeevee::{OperatorId, Timestamp, Token};
use nix::libc::{EAGAIN, EBADF, ECONNABORTED, EINTR, EINVAL, EMFILE, ENFILE, ENOTSOCK, EOPNOTSUPP};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use sha2::Sha256;

use crate::file;

const KEY_FILE: &str = "identity.key";
/// Where a damaged key file goes. One is kept: it is for a person to look at, not for use.
const KEY_FILE_DAMAGED: &str = "identity.key.damaged";
const KEY_BYTES: usize = 32;
/// A key file has some 90 bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;
const KEY_HEAD: &str = "eevee-key 1 ";

/// One line about refused peers in this time, so that nobody can fill the journal.
const LOG_PERIOD: Duration = Duration::from_secs(60);
/// The pause after an accept() that failed for want of something. Without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The key of all tokens of this bus. It stays the same over restarts, and tokens with it.
pub(crate) struct Key([u8; KEY_BYTES]);

impl Key {
    /// Reads the key from the state directory, or makes one at the first start. A damaged file is set aside: tokens given
    /// out before are void then, and their operators fetch new ones when they are restarted.
    pub(crate) fn load_or_create(state_dir: &Path) -> anyhow::Result<Self> {
        let path = state_dir.join(KEY_FILE);
        let (file, metadata) = match file::open_regular(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::create(state_dir),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let content = match file::read_bounded(&file, KEY_FILE_BYTES_MAX) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if let Some(key) = Self::parse(&content) {
            restrict(&file, &metadata, &path);
            return Ok(key);
        }
        if is_sealed(&content) {
            bail!(
                "{} was written by a later version of eeveed; install that version, or remove the file",
                path.display()
            );
        }
        let aside = state_dir.join(KEY_FILE_DAMAGED);
        std::fs::rename(&path, &aside)
            .with_context(|| format!("{} is damaged and cannot be moved to {}", path.display(), aside.display()))?;
        tracing::error!(
            "{} was damaged; it is kept as {}, and a new key was made: operators that reconnect are refused until they \
             are restarted",
            path.display(),
            aside.display()
        );
        Self::create(state_dir)
    }

    fn create(state_dir: &Path) -> anyhow::Result<Self> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).context("no random bytes for the key of the tokens")?;
        let key = Self(key);
        file::replace(state_dir, KEY_FILE, key.to_text().as_bytes())
            .with_context(|| format!("cannot write {}", state_dir.join(KEY_FILE).display()))?;
        Ok(key)
    }

    fn to_text(&self) -> String {
        let mut text = String::from(KEY_HEAD);
        for byte in self.0 {
            text.push_str(&format!("{byte:02x}"));
        }
        let crc = crc32fast::hash(text.as_bytes());
        format!("{text} {crc:08x}\n")
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let digits = text.strip_prefix(KEY_HEAD)?.get(..2 * KEY_BYTES)?.as_bytes();
        let mut key = [0; KEY_BYTES];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        let key = Self(key);
        // What does not print as it was read has another checksum, or something behind it.
        (key.to_text() == text).then_some(key)
    }

    /// A new token for `id`. All that were given out stay valid.
    pub(crate) fn issue(&self, id: &OperatorId) -> Token {
        let mut random = [0; 16];
        if getrandom::fill(&mut random).is_err() {
            // It has to differ from token to token, no more: what nobody can guess is the MAC.
            static NEXT: AtomicU64 = AtomicU64::new(0);
            random[..8].copy_from_slice(&Timestamp::now().0.to_le_bytes());
            random[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        }
        let mac = self.mac(id, &random).finalize().into_bytes().into();
        Token::new(id.clone(), random, mac)
    }

    /// Whether this key issued the token. Takes as long for a MAC that is almost right.
    pub(crate) fn verify(&self, token: &Token) -> bool {
        self.mac(token.id(), token.random()).verify_slice(token.mac()).is_ok()
    }

    fn mac(&self, id: &OperatorId, random: &[u8; 16]) -> Hmac<Sha256> {
        // HMAC pads or hashes a key of any length: this cannot fail.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(Token::signed_text(id, random).as_bytes());
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Whether the line ends in a checksum that fits: then it is what some version of eeveed wrote, not a damaged one.
fn is_sealed(content: &[u8]) -> bool {
    let Some((line, crc)) = content.strip_suffix(b"\n").and_then(|line| line.split_last_chunk::<8>()) else {
        return false;
    };
    let Some(line) = line.strip_suffix(b" ") else { return false };
    line.starts_with(b"eevee-key ") && *crc == *format!("{:08x}", crc32fast::hash(line)).as_bytes()
}

/// Somebody may have copied it with a careless umask.
fn restrict(file: &File, metadata: &std::fs::Metadata, path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return;
    }
    match file.set_permissions(std::fs::Permissions::from_mode(0o600)) {
        Ok(()) => tracing::warn!("{} had mode {mode:04o}, it is 0600 now", path.display()),
        Err(error) => tracing::warn!("{} has mode {mode:04o} instead of 0600: {error}", path.display()),
    }
}

/// Answers on the identity socket in a thread of its own, until the process ends. The thread ends early only if the
/// descriptor is no listening socket, which it logs.
pub(crate) fn spawn(listener: UnixListener, key: Arc<Key>) -> io::Result<Door> {
    listener.set_nonblocking(true)?;
    let door = Door::default();
    let server = Server {
        key,
        uid: 0,
        refusals: Throttle::default(),
        failures: Throttle::default(),
        reserve: None,
        door: door.clone(),
    };
    thread::Builder::new().name("identity".to_owned()).spawn(move || server.run(&listener))?;
    Ok(door)
}

/// Whether peers are let in. A peer that was let in and not answered would get an empty token, and its unit would fail; as
/// long as it waits before the door, it is there for the next run of the bus.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door(Arc<Mutex<bool>>);

impl Door {
    /// Lets nobody in any more, and waits until who is in was answered. For a process that ends.
    pub(crate) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Nobody closes it while this is held; none when it is closed.
    fn enter(&self) -> Option<MutexGuard<'_, bool>> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)).filter(|closed| !**closed)
    }
}

/// Waits until somebody is before the door.
fn wait(listener: &UnixListener) {
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    // What is wrong with the socket, accept() says.
    let _ = poll(&mut waiting, PollTimeout::NONE);
}

struct Server {
    key: Arc<Key>,
    /// Who may ask: PID 1's uid, except in tests.
    uid: u32,
    refusals: Throttle,
    failures: Throttle,
    /// Closed to make room for one connection when the process has no descriptor left.
    reserve: Option<File>,
    door: Door,
}

impl Server {
    fn run(mut self, listener: &UnixListener) {
        loop {
            if self.reserve.is_none() {
                self.reserve = File::open("/dev/null").ok();
            }
            let door = self.door.clone();
            let Some(entered) = door.enter() else { return };
            let error = match listener.accept() {
                Ok((stream, peer)) => {
                    self.answer(&stream, &peer);
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(EINTR | ECONNABORTED) => continue,
                Some(EAGAIN) => {
                    drop(entered);
                    wait(listener);
                    continue;
                }
                Some(EBADF | EINVAL | ENOTSOCK | EOPNOTSUPP) => {
                    tracing::error!("the identity socket is of no use, no operator can be started: {error}");
                    return;
                }
                Some(EMFILE | ENFILE) if self.reserve.take().is_some() => {
                    // PID 1 waits for this answer; the descriptor that was kept back makes it possible, unless another
                    // thread is faster. Somebody is waiting, so accept() does not block.
                    if let Ok((stream, peer)) = listener.accept() {
                        self.answer(&stream, &peer);
                    }
                }
                _ => {}
            }
            drop(entered);
            if let Some(more) = self.failures.permit(Instant::now()) {
                tracing::warn!("cannot accept on the identity socket: {error}{}", also(more));
            }
            thread::sleep(ACCEPT_PAUSE);
        }
    }

    fn answer(&mut self, stream: &UnixStream, peer: &SocketAddr) {
        let answered = self.operator_of(stream, peer).and_then(|id| {
            send(stream, &self.key.issue(&id)).map_err(|error| format!("the token of {id} cannot be sent: {error}"))?;
            Ok(id)
        });
        match answered {
            Ok(id) => tracing::debug!("gave systemd a token for {id}"),
            Err(reason) => {
                if let Some(more) = self.refusals.permit(Instant::now()) {
                    tracing::warn!("refused a peer on the identity socket: {reason}{}", also(more));
                }
            }
        }
    }

    /// The uid and the address together prove that PID 1 asks: any user can bind such an address, and a process of root
    /// that is not PID 1 need not be asking for a unit.
    fn operator_of(&self, stream: &UnixStream, peer: &SocketAddr) -> Result<OperatorId, String> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)
            .map_err(|error| format!("the kernel does not say who it is: {error}"))?;
        if credentials.uid() != self.uid {
            return Err(format!("it has uid {}, not {}", credentials.uid(), self.uid));
        }
        let name = peer.as_abstract_name().ok_or("its address is not abstract, as systemd's is")?;
        operator_of_address(name).ok_or_else(|| format!("its address is \"{}\"", name.escape_ascii()))
    }
}

/// The id in `^[0-9a-f]{1,16}/unit/eevee-op@ID\.service/bus-token$`: an abstract address without its leading NUL.
fn operator_of_address(name: &[u8]) -> Option<OperatorId> {
    let slash = name.iter().position(|byte| *byte == b'/')?;
    let (random, rest) = name.split_at(slash);
    if !(1..=16).contains(&random.len()) || !random.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let id = rest.strip_prefix(b"/unit/eevee-op@")?.strip_suffix(b".service/bus-token")?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// A token is far smaller than the socket's buffer, so a peer that does not read cannot hold this thread.
fn send(mut stream: &UnixStream, token: &Token) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.write_all(token.to_string().as_bytes())
}

fn also(more: u64) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more like it in the last minute)") }
}

/// Lets one event through in [`LOG_PERIOD`] and counts the others.
#[derive(Default)]
struct Throttle {
    last: Option<Instant>,
    withheld: u64,
}

impl Throttle {
    /// The number of events withheld since the last one let through, if this one may pass.
    fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_PERIOD) {
            self.withheld += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.withheld))
    }
}

#[cfg(test)]
mod tests;
