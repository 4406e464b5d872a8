//! All that passes between eeveed and systemd as its supervisor: inherited sockets, notifications, the watchdog, and the
//! environment of children. Nothing that systemd hands over is believed unchecked: a person may start eeveed with any
//! environment.

use std::ops::Range;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use sd_notify::NotifyState;

/// The first inherited descriptor.
const FIRST_FD: RawFd = 3;
/// The unit keeps 4096 connections at most.
const FDS_MAX: usize = 8192;
/// The sockets and connections that systemd kept.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Where clients connect.
    pub(crate) bus: Option<UnixListener>,
    /// Where systemd fetches tokens.
    pub(crate) identity: Option<UnixListener>,
    /// What an earlier run stored: connections and state.
    pub(crate) stored: Vec<OwnedFd>,
    /// What was wrong, to be logged when there is a log.
    pub(crate) problems: Vec<String>,
}

impl Inherited {
    /// Takes over what systemd passed. Must be called first thing in main, before any descriptor is opened: a hostile
    /// LISTEN_FDS could name descriptors that have another owner by then. A second call gives nothing.
    pub(crate) fn take() -> Self {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Self::default();
        }
        let var = |name: &str| std::env::var(name).ok();
        let mut inherited = Self::default();
        match passed(var("LISTEN_PID"), var("LISTEN_FDS"), std::process::id()) {
            Ok(fds) => {
                let names = var("LISTEN_FDNAMES").unwrap_or_default();
                let mut names = names.split(':');
                for fd in fds {
                    inherited.adopt(fd, names.next().unwrap_or_default());
                }
            }
            Err(problem) => inherited.problems.push(problem),
        }
        inherited
    }

    fn adopt(&mut self, fd: RawFd, name: &str) {
        if let Some(fd) = own(fd) {
            self.place(fd, name);
        } else {
            self.problems.push(format!("descriptor {fd}, which LISTEN_FDS names, is not open"));
        }
    }

    fn place(&mut self, fd: OwnedFd, name: &str) {
        let slot = match name {
            "bus" => &mut self.bus,
            "identity" => &mut self.identity,
            _ => return self.stored.push(fd),
        };
        if let Some(problem) = not_listening(&fd) {
            self.problems.push(format!("the inherited socket {name} is not used: {problem}"));
        } else if slot.is_some() {
            self.problems.push(format!("a second inherited socket {name} is not used"));
        } else {
            *slot = Some(UnixListener::from(fd));
        }
    }
}

/// The descriptors that the environment says were passed to this process.
fn passed(pid: Option<String>, fds: Option<String>, own_pid: u32) -> Result<Range<RawFd>, String> {
    let (Some(pid), Some(fds)) = (pid, fds) else { return Ok(FIRST_FD..FIRST_FD) };
    let pid_number: u32 = pid.parse().map_err(|_| format!("LISTEN_PID is {pid:?}, which is no process id"))?;
    if pid_number != own_pid {
        return Err(format!("LISTEN_FDS is for process {pid_number}, this is {own_pid}: no socket is inherited"));
    }
    let count: usize = fds.parse().map_err(|_| format!("LISTEN_FDS is {fds:?}, which is no number"))?;
    if count > FDS_MAX {
        return Err(format!("LISTEN_FDS is {count}, at most {FDS_MAX} are possible: no socket is inherited"));
    }
    Ok(FIRST_FD..FIRST_FD + RawFd::try_from(count).unwrap_or_default())
}

/// Becomes the owner of an inherited descriptor, if there is one with this number; children do not get it.
#[allow(unsafe_code, reason = "a number from the environment becomes a descriptor here, and nowhere else")]
fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: used for one fcntl only, which fails with EBADF if nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: it is open, and take() runs once, first in main: what is open at 3 and above was inherited, nobody else in
    // this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What keeps a descriptor from being a listening Unix stream socket.
fn not_listening(fd: &OwnedFd) -> Option<String> {
    let kind = match getsockopt(fd, sockopt::SockType) {
        Ok(kind) => kind,
        Err(error) => return Some(format!("it is no socket ({error})")),
    };
    if kind != SockType::Stream {
        return Some(format!("it is a {kind:?} socket, not a stream"));
    }
    let family = getsockname::<SockaddrStorage>(std::os::fd::AsRawFd::as_raw_fd(fd)).ok().and_then(|at| at.family());
    if family != Some(AddressFamily::Unix) {
        return Some("it is no Unix socket".to_owned());
    }
    match getsockopt(fd, sockopt::AcceptConn) {
        Ok(true) => None,
        Ok(false) => Some("it does not listen".to_owned()),
        Err(error) => Some(format!("whether it listens is not known ({error})")),
    }
}

/// What systemd is told.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Note {
    Ready(String),
    Status(String),
    Stopping,
    Watchdog,
}

/// READY=1, with the text for `systemctl status`.
pub(crate) fn notify_ready(status: &str) {
    notifier().put(Note::Ready(one_line(status)));
}

/// The text for `systemctl status`.
pub(crate) fn notify_status(status: &str) {
    notifier().put(Note::Status(one_line(status)));
}

/// WATCHDOG=1: only from the loop whose life it proves.
pub(crate) fn notify_watchdog() {
    notifier().put(Note::Watchdog);
}

/// STOPPING=1. The process may end right after it, so it waits until all was sent; not for long, and just this once.
pub(crate) fn notify_stopping() {
    notifier().put(Note::Stopping);
    notifier().flush(STOPPING_TIME);
}

/// How long a stop may be held up by a PID 1 that does not read.
const STOPPING_TIME: Duration = Duration::from_millis(200);

fn notifier() -> &'static Notifier {
    static NOTIFIER: OnceLock<Notifier> = OnceLock::new();
    NOTIFIER.get_or_init(Notifier::start)
}

/// Tells systemd about the service, through a thread: sending waits while PID 1 is busy and its socket is full, and the
/// loop of the bus must not. Without systemd all is dropped.
#[derive(Debug)]
struct Notifier {
    queue: Option<SyncSender<Message>>,
}

#[derive(Debug)]
enum Message {
    Note(Note),
    /// Answered when all before it was sent.
    Flush(SyncSender<()>),
}

/// Notes that wait for a busy PID 1; what exceeds them is dropped. READY=1 comes first, so it is not.
const NOTES_MAX: usize = 64;

impl Notifier {
    /// Starts the thread, if there is anybody to notify.
    fn start() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Self { queue: None };
        }
        Self::with(sd_notify::notify)
    }

    fn with(send: impl FnMut(&[NotifyState<'_>]) -> std::io::Result<()> + Send + 'static) -> Self {
        let (queue, notes) = sync_channel(NOTES_MAX);
        match thread::Builder::new().name("notify".to_owned()).spawn(move || deliver(&notes, send)) {
            Ok(_) => Self { queue: Some(queue) },
            Err(error) => {
                tracing::error!("systemd is not notified of anything: no thread: {error}");
                Self { queue: None }
            }
        }
    }

    /// Waits until all was sent, at most for `patience`.
    fn flush(&self, patience: Duration) {
        let Some(queue) = &self.queue else { return };
        let (done, wait) = sync_channel(1);
        let until = Instant::now() + patience;
        let mut message = Message::Flush(done);
        loop {
            match queue.try_send(message) {
                Err(TrySendError::Full(again)) if Instant::now() < until => message = again,
                Err(_) => return,
                Ok(()) => break,
            }
            thread::sleep(Duration::from_millis(5));
        }
        match wait.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::warn!("systemd did not take the last notifications"),
        }
    }

    fn put(&self, note: Note) {
        // A full queue: PID 1 has not read for long, and later notes will say what matters then.
        if let Some(queue) = &self.queue
            && let Err(TrySendError::Full(_)) = queue.try_send(Message::Note(note))
        {
            tracing::debug!("systemd does not read notifications; one was dropped");
        }
    }
}

fn deliver(notes: &Receiver<Message>, mut send: impl FnMut(&[NotifyState<'_>]) -> std::io::Result<()>) {
    let mut failed = false;
    for message in notes {
        let note = match message {
            Message::Note(note) => note,
            Message::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        let sent = match &note {
            Note::Ready(status) => send(&[NotifyState::Ready, NotifyState::Status(status)]),
            Note::Status(status) => send(&[NotifyState::Status(status)]),
            Note::Stopping => send(&[NotifyState::Stopping]),
            Note::Watchdog => send(&[NotifyState::Watchdog]),
        };
        // Once, until it works again: a wrong NOTIFY_SOCKET fails with every beat of the watchdog.
        match sent {
            Ok(()) => failed = false,
            Err(error) if !failed => {
                failed = true;
                tracing::warn!("systemd cannot be notified (NOTIFY_SOCKET): {error}");
            }
            Err(_) => {}
        }
    }
}

/// A line end in STATUS= would begin another assignment, such as READY=1.
fn one_line(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

/// How often WATCHDOG=1 is due: half of what the unit demands. `None` where no watchdog waits for this process.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let var = |name: &str| std::env::var(name).ok();
    interval(var("WATCHDOG_USEC"), var("WATCHDOG_PID"), std::process::id())
}

fn interval(microseconds: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let microseconds: u64 = microseconds?.parse().ok().filter(|microseconds| *microseconds > 0)?;
    // Whatever the environment says, the loop neither spins for it nor sleeps for hours.
    Some(Duration::from_micros(microseconds / 2).clamp(Duration::from_millis(100), Duration::from_secs(3600)))
}

/// Gives a child no more than it needs: nothing of what systemd told this process, no locale, no pager.
pub(crate) fn clean_environment(command: &mut tokio::process::Command) {
    command.env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C").env("TZ", "UTC").env("SYSTEMD_COLORS", "0").env("SYSTEMD_PAGER", "");
}

#[cfg(test)]
mod tests;
