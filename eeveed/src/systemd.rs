//! All that passes between eeveed and systemd as its supervisor: inherited sockets, notifications, the watchdog, and the
//! environment of children. Nothing that systemd hands over is believed unchecked: a person may start eeveed with any
//! environment.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use sd_notify::NotifyState;

use crate::handover;

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
    /// What the last run stored: its state, one if all is well.
    pub(crate) state: Vec<OwnedFd>,
    /// And its connections.
    pub(crate) connections: Vec<OwnedFd>,
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
            handover::STATE => return self.state.push(fd),
            handover::CONNECTION => return self.connections.push(fd),
            _ => return self.problems.push(format!("an inherited descriptor of the name {name:?} is not used")),
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

/// What the unit keeps at most; systemd drops silently what is beyond. From 254 on it says so itself.
const STORE_MAX: usize = 4096;
/// As many as one message can carry.
const BULK: usize = 253;
/// How long PID 1 may take to take all descriptors. It compares each with each.
const STORE_TIME: Duration = Duration::from_secs(3);

/// Whether this process can give descriptors to systemd.
pub(crate) fn can_store() -> bool {
    // sd-notify knows no abstract sockets.
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| std::path::Path::new(&path).is_absolute())
}

/// How many descriptors systemd keeps.
pub(crate) fn store_room() -> usize {
    let told = std::env::var("FDSTORE").ok().and_then(|max| max.parse().ok());
    told.unwrap_or(STORE_MAX).min(STORE_MAX)
}

/// Gives the state and the connections to systemd, which hands them to the next run. All before it was sent when this
/// comes back, and systemd has what it keeps.
///
/// # Errors
/// systemd did not take them; it may have some of them.
pub(crate) fn store(connections: Vec<OwnedFd>, state: OwnedFd) -> io::Result<()> {
    notifier().run(STORE_TIME, move || {
        // FDPOLL=0: a connection whose peer hung up is not dropped with what it said before.
        let send = |name, fds: &[BorrowedFd<'_>]| {
            let assignments = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
            sd_notify::notify_with_fds(&assignments, fds)
        };
        send(handover::STATE, &[state.as_fd()])?;
        for bulk in connections.chunks(BULK) {
            send(handover::CONNECTION, &bulk.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        }
        barrier()
    })
}

/// Makes systemd forget all that an earlier run stored.
///
/// # Errors
/// It could not be told.
pub(crate) fn forget_stored() -> io::Result<()> {
    notifier().run(STORE_TIME, || {
        for name in [handover::STATE, handover::CONNECTION] {
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])?;
        }
        Ok(())
    })
}

/// Waits until PID 1 has handled all that was sent before: it closes the other end then.
fn barrier() -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    ours.set_read_timeout(Some(STORE_TIME))?;
    ours.read(&mut [0]).map(drop)
}

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

enum Message {
    Note(Note),
    /// Answered when all before it was sent.
    Flush(SyncSender<()>),
    /// Done in its turn.
    Run(Box<dyn FnOnce() + Send>),
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

    fn with(send: impl FnMut(&[NotifyState<'_>]) -> io::Result<()> + Send + 'static) -> Self {
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

    /// Does something in the turn of all other notes, and waits for it; at most for `patience`.
    fn run(&self, patience: Duration, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
        let Some(queue) = &self.queue else {
            return Err(io::Error::new(ErrorKind::NotConnected, "there is no systemd to notify"));
        };
        self.flush(patience);
        let (done, wait) = sync_channel(1);
        let work = Box::new(move || {
            let _ = done.try_send(work());
        });
        let late = || io::Error::new(ErrorKind::TimedOut, "systemd does not read its notifications");
        queue.try_send(Message::Run(work)).map_err(|_| late())?;
        wait.recv_timeout(patience).map_err(|_| late())?
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

fn deliver(notes: &Receiver<Message>, mut send: impl FnMut(&[NotifyState<'_>]) -> io::Result<()>) {
    let mut failed = false;
    for message in notes {
        let note = match message {
            Message::Note(note) => note,
            Message::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
            Message::Run(work) => {
                work();
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
